"""``msip curate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Json, Out, Workers, cores
from .output import StageBars, print_json, print_line, print_table

if TYPE_CHECKING:
    from msip.curation.curate import CurateReport


def curate(
    out: Out,
    against: Annotated[
        list[Path] | None,
        typer.Option(help="An evaluation set: a folder of images or a build (may be repeated).", show_default=False),
    ] = None,
    similarity: Annotated[
        float, typer.Option(help="From here on images are near-duplicates, 0.5 to 1.", show_default="0.75")
    ] = 0.75,
    flips: Annotated[
        bool,
        typer.Option("--flips", help="Also mirrored, turned by 90 or 180 degrees, inverted; takes 16 times as long."),
    ] = False,
    subset: Annotated[
        str | None, typer.Option(help="Make a subset of this name, for `msip shard --subset`.", show_default=False)
    ] = None,
    max_similar: Annotated[
        float | None, typer.Option(help="Of the subset: no two images are more alike than this.", show_default=False)
    ] = None,
    keep_fraction: Annotated[
        float | None, typer.Option(help="Of the subset: keep this share of all images.", show_default=False)
    ] = None,
    workers: Workers = cores(),
    as_json: Json = False,
) -> None:
    """Find duplicates, odd images and leakage; flags them in the manifest, deletes nothing."""
    import msip

    with StageBars(quiet=as_json) as bars:
        report = msip.curate(
            out,
            against=against or (),
            similarity=similarity,
            flips=flips,
            subset=subset,
            max_similar=max_similar,
            keep_fraction=keep_fraction,
            workers=workers,
            progress=bars,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report, out)


def _print(report: CurateReport, out: Path) -> None:
    from msip.curation.fingerprint import SMALL_SIDE

    print_table(["flag", "images"], list(report.flags.items()) or [["none", 0]])
    if report.kept_flags:
        print_line("Given by others and kept: " + ", ".join(f"{name} ({n:,})" for name, n in report.kept_flags.items()))
    print_line(f"\nOf {report.images:,} images, with one of at least {report.similarity:g} similarity in the")
    print_table(["relation", "images"], list(report.near.items()))
    if report.small:
        print_line(f"Shorter side below {SMALL_SIDE} px, near-duplicates only if nearly equal: {report.small:,}")
    if report.featureless:
        print_line(f"Without structure to compare, duplicates only if equal: {report.featureless:,}")
    if report.between:
        print_line("\nBetween sources:")
        print_table(["source", "images like one of", "images"], [[a, b, n] for a, b, n in report.between])
    if report.leakage:
        print_line("\nLeakage:")
        rows = [
            [leak.name, leak.images, len(leak.leaked), leak.exact, len(leak.rows), leak.unreadable, str(leak.table)]
            for leak in report.leakage
        ]
        print_table(["set", "images", "also here", "equal pixels", "images here", "unreadable", "table"], rows)
        for leak in report.leakage:
            if leak.sheet is not None:
                print_line(f"Look at {leak.sheet}: left the set's image, right the build's.")
    print_line(f"\nScores and reasons are in {out / 'curation.parquet'}.")
    if report.subset is not None:
        name, images = report.subset["name"], report.subset["images"]
        print_line(
            f"Subset {name}: {images:,} of {report.images:,} images. Use it: msip shard {out} --to DIR --subset {name}"
        )
