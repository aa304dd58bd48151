"""``msip rois`` and ``msip export-crops``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import Engine, ExcludeFlags, Json, Out, Workers, cores
from .output import StageBars, print_json, print_line, warn


def rois(
    out: Out,
    proposals: Annotated[
        Literal["exact", "half", "extremal"],
        typer.Option(
            help="exact: selective search, the reference's boxes; half: the same at half the size, in a quarter of "
            "the time; extremal: what stands out warmer, colder or sharper, in a fifth of the time."
        ),
    ] = "exact",
    roi_txt: Annotated[
        bool, typer.Option("--write-roi-txt", help="Also write <source>/roi/<stem>.txt as the reference reads them.")
    ] = False,
    workers: Workers = cores(),
    engine: Engine = "local",
    as_json: Json = False,
) -> None:
    """Give every image of a build its RoIs; finished ones are not computed again."""
    import msip

    with StageBars(quiet=as_json) as bars:
        report = msip.propose_rois(
            out, proposals=proposals, roi_txt=roi_txt, workers=workers, engine=engine, progress=bars
        )
    if as_json:
        print_json(vars(report))
        return
    print_line(f"{report.rois:,} RoIs on {report.images:,} images; {report.without_rois:,} have none.")


def export_crops(
    out: Out,
    to: Annotated[Path, typer.Option(help="A new folder, or one of an earlier export.")],
    fmt: Annotated[
        Literal["folder", "webdataset", "coco"],
        typer.Option(
            "--format",
            help="folder: PNG files; webdataset: tars of PNG and JSON; coco: PNG files, and annotations.json with the "
            "proposals in each.",
        ),
    ] = "folder",
    mode: Annotated[
        Literal["rois", "training"],
        typer.Option(help="rois: the proposals as they are; training: what the trainer sees."),
    ] = "rois",
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
    import msip
    from msip.export import SHEET_NAME

    with StageBars(quiet=as_json) as bars:
        report = msip.export_crops(
            out,
            to,
            fmt=fmt,
            mode=mode,
            per_image=per_image,
            padding=padding,
            min_size=min_size,
            seed=seed,
            epoch=epoch,
            exclude_flags=exclude_flags or (),
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
