"""``msip download``: terms, transfers, archives, and what a person must do."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from msip.errors import OptionError

from .options import Json
from .output import StageBars, print_json, print_line, print_table


def download(
    raw: Annotated[Path, typer.Option(help="Folder for the raw sources.")],
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE", help="Sources; all of the corpus by default.")
    ] = None,
    corpus: Annotated[str, typer.Option(help="A corpus by name, or the path of your own corpus file.")] = "msip",
    accept: Annotated[bool, typer.Option("--accept-terms", help="You accept the terms shown.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; fetch nothing.")] = False,
    max_ratio: Annotated[float, typer.Option(help="Refuse archives that unpack to more than so many to 1.")] = 100,
    max_unpacked: Annotated[float, typer.Option(help="Refuse archives that unpack to more TB.")] = 4,
    as_json: Json = False,
) -> None:
    """Bring the raw sources: download and unpack what can be, say what to do by hand for the rest."""
    from msip.archives import Limits
    from msip.download.job import download as run
    from msip.download.terms import accept_terms, open_terms
    from msip.files import local_path
    from msip.sources import load_corpus, load_source

    raw = local_path(raw)
    wanted = [load_source(name) for name in sources or load_corpus(corpus).sources]
    waiting = open_terms(raw, wanted)
    for one in waiting:
        typer.echo(f"{one.name}: {one.terms_text} {one.licence.url}", err=as_json)
    if waiting and not dry_run:
        if not accept:
            names = ", ".join(one.name for one in waiting)
            raise OptionError(f"the terms of {names} are not accepted yet; read them above and add --accept-terms.")
        accept_terms(raw, waiting)
    limits = Limits(ratio=max_ratio, total_bytes=int(max_unpacked * 1e12))
    with StageBars(quiet=as_json, unit="B") as bars:
        outcomes = run(wanted, raw, limits=limits, dry_run=dry_run, progress=bars)
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
