"""``msip shard``."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from .options import ExcludeFlags, Json, Out, Workers, cores
from .output import StageBars, print_json, print_line, warn


def shard(
    out: Out,
    to: Annotated[str, typer.Option(help="A new folder, one of an earlier run, or an fsspec URL such as s3://...")],
    layout: Annotated[
        Literal["webdataset", "raw"],
        typer.Option("--format", help="webdataset: tars of images and JSON; raw: decoded, for memory maps."),
    ] = "webdataset",
    exclude_flags: ExcludeFlags = None,
    subset: Annotated[
        str | None, typer.Option(help="Only the images of this subset (see `msip curate`).", show_default="all")
    ] = None,
    workers: Workers = cores(),
    as_json: Json = False,
) -> None:
    """Pack a build into a few large files, for `msip pretrain --data DIR` and for WebDataset."""
    import msip
    from msip.formatting import human_bytes

    with StageBars(quiet=as_json) as bars:
        report = msip.shard(
            out,
            to,
            layout=layout,
            exclude_flags=exclude_flags or (),
            subset=subset,
            workers=workers,
            progress=bars,
        )
    for note in report.notes:
        warn(note)
    if as_json:
        print_json(vars(report))
        return
    kept = f", {report.kept} of them kept from before" if report.kept else ""
    print_line(f"{report.images:,} images in {report.shards:,} shards ({human_bytes(report.bytes)}) in {to}{kept}.")
    print_line(f"Train on them: msip pretrain --method mae --data {to} --out RUN")
