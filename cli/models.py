"""``msip export-model`` and ``msip scale-maps``: what a run learnt."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import Every, Exclude, Include, Json
from .output import print_json, print_line, print_table

Run = Annotated[str, typer.Argument(metavar="RUN", help="A run, a checkpoint, an exported folder or a weights file.")]


class ExportFormat(StrEnum):
    """What an export is for."""

    adapter = "adapter"
    timm = "timm"
    pad = "pad"
    onnx = "onnx"


def export_model(
    run: Run,
    to: Annotated[Path, typer.Option(help="Folder to write to.")],
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="adapter: the adapters alone; timm: a folder for timm.create_model; pad: the reference's key names; "
            "onnx: images to features.",
        ),
    ] = ExportFormat.adapter,
    as_json: Json = False,
) -> None:
    """Write what a run learnt for others to load; each export is read back and compared before it is reported."""
    import pad

    done = pad.export_model(run, to, format=format.value)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    print_table(["file", "bytes"], [[str(Path(done.folder) / name), size] for name, size in done.files.items()])
    equal = "equal bit for bit" if done.largest_difference == 0 else f"within {done.largest_difference:.1e}"
    height, width = done.image_size
    print_line(
        f"{done.model}, {height} x {width} px, {done.parameters:,} parameters, of which adapters "
        f"{done.adapter_parameters:,}; read back, its features are {equal}."
    )


def scale_maps(
    run: Run,
    images: Annotated[Path, typer.Option(help="Folder of images, any nesting, or one image.")],
    to: Annotated[Path | None, typer.Option(help="Folder to write to.", show_default="RUN/scale-maps")] = None,
    max_maps: Annotated[int, typer.Option(min=0, help="Images that are drawn; the table is over all.")] = 8,
    include: Include = None,
    exclude: Exclude = None,
    every: Every = 1,
    as_json: Json = False,
) -> None:
    """Draw the scales that patchwise adapters give each patch, layer by layer, and tabulate their means."""
    import pad

    done = pad.scale_maps(run, images, to, max_maps=max_maps, include=include or (), exclude=exclude or (), every=every)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    print_table(*done.table())
    print_line(f"{done.images:,} images, {len(done.maps)} drawn, {len(done.left_out)} left out; all in {done.folder}")
    for name, reason in list(done.left_out.items())[:5]:
        print_line(f"left out: {name}: {reason}")
