"""``msip download``: terms, transfers, archives, and what a person must do."""

from __future__ import annotations

import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from msip.errors import MsipError

from .options import Json
from .output import print_json, print_line, print_table


def download(
    raw: Annotated[Path, typer.Option(help="Folder for the raw sources.")],
    source: Annotated[list[str] | None, typer.Argument(help="Sources; all of the corpus by default.")] = None,
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
    sources = [load_source(name) for name in source or load_corpus(corpus).sources]
    waiting = open_terms(raw, sources)
    for one in waiting:
        typer.echo(f"{one.name}: {one.terms_text} {one.licence.url}", err=as_json)
    if waiting and not dry_run:
        if not accept:
            names = ", ".join(one.name for one in waiting)
            raise MsipError(f"the terms of {names} are not accepted yet; read them above and add --accept-terms.")
        accept_terms(raw, waiting)
    limits = Limits(ratio=max_ratio, total_bytes=int(max_unpacked * 1e12))
    with _Bars(quiet=as_json) as bars:
        outcomes = run(sources, raw, limits=limits, dry_run=dry_run, progress=bars)
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


class _Bars:
    """One bar for all transfers and one for all unpacking, with rate and remaining time; called from threads."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet, self.bars = quiet, dict[str, tqdm]()
        self.lock = threading.Lock()

    def __call__(self, stage: str, done: int, more: int) -> None:
        with self.lock:
            if stage not in self.bars:
                self.bars[stage] = tqdm(
                    total=0,
                    desc=f"{stage:<10}",
                    unit="B",
                    unit_scale=True,
                    position=len(self.bars),
                    disable=self.quiet or None,
                )
            bar = self.bars[stage]
            bar.total = (bar.total or 0) + more
            bar.update(done)

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        for bar in self.bars.values():
            bar.close()
