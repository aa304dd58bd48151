"""``msip download``: terms, transfers, archives, and what a person must do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .output import StageBars, print_json, print_line, print_table


def download(
    raw: Annotated[Path, typer.Option(help="Folder for the raw sources.")],
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE", help="Sources; all of the corpus by default.")
    ] = None,
    corpus: Annotated[str, typer.Option(help="A corpus by name, or the path of your own corpus file.")] = "msip",
    accept_terms: Annotated[bool, typer.Option("--accept-terms", help="You accept the terms shown.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; fetch nothing.")] = False,
    max_ratio: Annotated[float, typer.Option(help="Refuse archives that unpack to more than so many to 1.")] = 100,
    max_unpacked: Annotated[float, typer.Option(help="Refuse archives that unpack to more TB.")] = 4,
    as_json: Json = False,
) -> None:
    """Bring the raw sources: download and unpack what can be, say what to do by hand for the rest."""
    import msip

    with StageBars(quiet=as_json, unit="B") as bars:
        outcomes = msip.fetch(
            raw,
            sources,
            corpus=corpus,
            accept_terms=accept_terms,
            dry_run=dry_run,
            max_ratio=max_ratio,
            max_unpacked=max_unpacked,
            progress=bars,
        )
    if as_json:
        print_json([asdict(outcome) for outcome in outcomes])
    else:
        print_line()
        print_table(["source", "status", "frames"], [[one.source, one.status, one.frames] for one in outcomes])
        for one in outcomes:
            if one.note:
                print_line(f"\n{one.source}: {one.note}")
    if not dry_run and any(one.status in ("failed", "manual", "incomplete") for one in outcomes):
        raise typer.Exit(1)
