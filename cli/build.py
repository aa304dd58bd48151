"""``msip build`` and ``msip verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from msip.build_remarks import remarks
from msip.build_report import BuildReport
from msip.formatting import human_bytes

from .options import Engine, Every, Exclude, Include, Json, Workers, cores
from .output import StageBars, print_json, print_line, print_table, warn
from .wording import in_options

_SHOWN_PROBLEMS, _SHOWN_REMARKS = 10, 30


def build(
    out: Annotated[Path, typer.Option(help="Folder to build in.")],
    raw: Annotated[Path | None, typer.Option(help="Folder that holds the published sources.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Your own frames, any nesting, instead of a corpus.")] = None,
    corpus: Annotated[str, typer.Option(help="A corpus by name, or the path of your own corpus file.")] = "msip",
    sources: Annotated[list[str] | None, typer.Option("--source", help="Only this source (may be repeated).")] = None,
    name: Annotated[str | None, typer.Option(help="Source name for --folder.", show_default="its name")] = None,
    agc: Annotated[
        Literal["percentile", "full", "clahe", "window"], typer.Option(help="How 16-bit frames become 8-bit.")
    ] = "percentile",
    agc_window: Annotated[
        tuple[int, int] | None, typer.Option(metavar="LOW HIGH", help="Counts of black and white for --agc window.")
    ] = None,
    keep_blank: Annotated[bool, typer.Option("--keep-blank", help="With --folder: keep constant frames.")] = False,
    channel: Annotated[
        int | None, typer.Option(metavar="N", help="With --folder: store channel N alone (4: alpha of an RGBA PNG).")
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    every: Every = 1,
    no_rois: Annotated[bool, typer.Option("--no-rois", help="Leave the RoIs for `msip rois`.")] = False,
    roi_txt: Annotated[
        bool, typer.Option("--write-roi-txt", help="Also write <source>/roi/<stem>.txt as the reference reads them.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be built; write nothing.")] = False,
    workers: Workers = cores(),
    engine: Engine = "local",
    as_json: Json = False,
) -> None:
    """Turn raw trees, or a folder of your own frames, into images and a verified manifest."""
    import msip

    with StageBars(quiet=as_json) as bars:
        report = msip.build(
            raw,
            out,
            corpus=corpus,
            sources=sources,
            folder=folder,
            workers=workers,
            name=name,
            agc=agc,
            agc_window=agc_window,
            keep_blank=keep_blank,
            channel=channel,
            include=include or (),
            exclude=exclude or (),
            every=every,
            with_rois=not no_rois,
            roi_txt=roi_txt,
            dry_run=dry_run,
            engine=engine,
            progress=bars,
        )
    if as_json:
        print_json(report.as_dict())
    else:
        _print_build(report, out)
    for part in report.sources:
        if not part.as_expected and not dry_run:
            causes = "; ".join(part.causes) or "no cause found"
            warn(f"{part.name}: {part.images:,} images, {part.expected:,} expected: {causes}.")
    if report.images == 0 and not dry_run:
        warn(f"no frame could be used; why stands above and in {out / 'build.json'}.")
        raise typer.Exit(1)


def _print_build(report: BuildReport, out: Path) -> None:
    rows = [
        [
            part.name,
            part.seen,
            part.selected - part.dropped_dark,
            len(part.problems),
            part.images,
            part.expected,
            human_bytes(part.stored_bytes),
            _notes(part.flags, part.dropped_dark, part.strays),
        ]
        for part in report.sources
    ]
    print_table(["source", "raw frames", "selected", "left out", "images", "expected", "size", "notes"], rows)
    said = [sentence for part in report.sources for sentence in remarks(part)]
    for sentence in said[:_SHOWN_REMARKS]:
        print_line(f"  {in_options(sentence)}")
    if len(said) > _SHOWN_REMARKS:
        print_line(f"  and {len(said) - _SHOWN_REMARKS} more kinds; all are in {out / 'build.json'}")
    if report.dry_run:
        print_line(
            f"\nWould build about {report.images:,} images in {out}: about {human_bytes(report.needed_bytes)} needed, "
            f"{human_bytes(report.free_bytes)} free. Nothing was written."
        )
        return
    proposals = (
        "" if report.rois is None else f", {report.rois:,} RoIs ({report.rois / max(1, report.images):.1f} an image)"
    )
    place = out / "manifest.parquet"
    print_line(f"\n{report.images:,} images{proposals} in {place}" if report.images else "\nNo images.")
    if report.kept:
        print_line("Kept from earlier builds: " + ", ".join(f"{name} ({n:,})" for name, n in report.kept.items()))


def _notes(flags: dict[str, int], dark: int, strays: dict[str, int]) -> str:
    notes = [f"{count} {flag}" for flag, count in flags.items()]
    if dark:
        notes.append(f"{dark} too dark")
    own = sorted(name for name in strays if name.endswith("/"))
    files = {suffix: count for suffix, count in strays.items() if suffix not in own}
    if files:
        notes.append(f"{sum(files.values())} other files ignored ({', '.join(sorted(files)[:4])})")
    if own:
        notes.append(f"msip's own folders ignored: {len(own)} ({', '.join(own[:4])})")
    return ", ".join(notes)


def verify(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a build or of shards.")],
    workers: Workers = cores(),
    as_json: Json = False,
) -> None:
    """Check a build against its manifest and corpus, or shards against shards.json; exit code 1 if anything differs."""
    import msip

    with StageBars(quiet=as_json) as bars:
        report = msip.verify_build(out, workers=workers, progress=bars)
    if as_json:
        print_json(report.as_dict())
        raise typer.Exit(0 if report.ok else 1)
    for title, paths in (
        ("missing", report.missing),
        ("damaged", report.damaged),
        ("not listed", report.strangers),
        ("more than once", report.twice),
    ):
        for path in paths[:_SHOWN_PROBLEMS]:
            print_line(f"  {title}: {path}")
        if len(paths) > _SHOWN_PROBLEMS:
            print_line(f"  and {len(paths) - _SHOWN_PROBLEMS} more {title}")
    for difference in report.counts:
        causes = "; ".join(difference.causes) or "no cause found"
        print_line(f"  {difference.source}: {difference.images:,} images, {difference.expected:,} expected: {causes}")
    for source, count in report.left_out.items():
        print_line(f"  {source}: {count} raw frames were left out by the build (see build.json)")
    command, says = ("shard", "shards.json") if report.of_shards else ("build", "the manifest")
    print_line(f"{report.images:,} images checked: {f'all as {says} says' if report.ok else 'NOT as they should be'}.")
    if report.missing or report.damaged:
        print_line(f"Run the same `msip {command}` again: missing files are restored; delete damaged ones first.")
    raise typer.Exit(0 if report.ok else 1)
