"""``msip rois`` and ``msip export-crops``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import Engine, EngineName, ExcludeFlags, Json, Out, Workers, cores
from .output import StageBars, print_json, print_line, warn


class CropMode(StrEnum):
    """Which crops are exported."""

    rois = "rois"
    training = "training"


class CropFormat(StrEnum):
    """What the crops are written as."""

    folder = "folder"
    webdataset = "webdataset"
    coco = "coco"


class ProposalsName(StrEnum):
    """How RoIs are found; the names of ``msip.proposals.PROPOSALS``."""

    exact = "exact"
    half = "half"
    extremal = "extremal"


def rois(
    out: Out,
    proposals: Annotated[
        ProposalsName,
        typer.Option(
            help="exact: selective search, the reference's boxes; half: the same at half the size, in a quarter of "
            "the time; extremal: what stands out warmer, colder or sharper, in a fifth of the time."
        ),
    ] = ProposalsName.exact,
    write_roi_txt: Annotated[
        bool, typer.Option("--write-roi-txt", help="Also write <source>/roi/<stem>.txt as the reference reads them.")
    ] = False,
    workers: Workers = cores(),
    engine: Engine = EngineName.local,
    as_json: Json = False,
) -> None:
    """Give every image of a build its RoIs; finished ones are not computed again."""
    from msip.engine import ENGINES
    from msip.proposals import replace_rois
    from msip.proposals import write_roi_txt as write

    with StageBars(quiet=as_json) as bars, ENGINES[engine.value](workers) as runner:
        manifest = replace_rois(
            out,
            engine=runner,
            proposals=proposals.value,
            progress=bars,
        )
    if write_roi_txt:
        write(manifest)
    counts = [len(manifest.rois(row)) for row in range(len(manifest))]
    summary = {
        "proposals": proposals.value,
        "images": len(counts),
        "rois": sum(counts),
        "without_rois": counts.count(0),
    }
    if as_json:
        print_json(summary)
        return
    print_line(f"{summary['rois']:,} RoIs on {summary['images']:,} images; {summary['without_rois']:,} have none.")


def export_crops(
    out: Out,
    to: Annotated[Path, typer.Option(help="A new folder, or one of an earlier export.")],
    fmt: Annotated[
        CropFormat,
        typer.Option(
            "--format",
            help="folder: PNG files; webdataset: tars of PNG and JSON; coco: PNG files, and annotations.json with the "
            "proposals in each.",
        ),
    ] = CropFormat.folder,
    mode: Annotated[
        CropMode, typer.Option(help="rois: the proposals as they are; training: what the trainer sees.")
    ] = CropMode.rois,
    per_image: Annotated[
        int | None, typer.Option(min=1, help="At most this many an image.", show_default="rois: all, training: 1")
    ] = None,
    padding: Annotated[
        int, typer.Option(min=0, help="Pixels of surroundings on each side of a proposal, as far as the image goes.")
    ] = 0,
    min_size: Annotated[int, typer.Option(min=1, help="Leave out proposals whose shorter side has fewer pixels.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the training draws.")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="Of the training draws.")] = 0,
    exclude_flags: ExcludeFlags = None,
    workers: Workers = cores(),
    as_json: Json = False,
) -> None:
    """Write crops as files, tars or COCO, with a table of where each comes from and a contact sheet."""
    from msip.export import SHEET_NAME
    from msip.export import export_crops as run

    with StageBars(quiet=as_json) as bars:
        report = run(
            out,
            to,
            fmt=fmt.value,
            mode=mode.value,
            per_image=per_image,
            padding=padding,
            min_size=min_size,
            seed=seed,
            epoch=epoch,
            exclude_flags=tuple(exclude_flags or ()),
            workers=workers,
            progress=bars,
        )
    for note in report.notes:
        warn(note)
    if as_json:
        print_json(vars(report))
        return
    kept = f"; those of {report.kept:,} images were there" if report.kept else ""
    print_line(
        f"{report.crops:,} crops of {report.images:,} images in {to} ({report.without_crops:,} images gave none{kept})."
    )
    if report.crops:
        print_line(f"Look at {to / SHEET_NAME}.")
