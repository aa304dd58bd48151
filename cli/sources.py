"""``msip sources``: what there is, what it takes to get it, and what is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from msip.sources import Corpus, corpus_names

from .options import Json
from .output import print_json, print_line, print_table


def sources(
    corpus: Annotated[str, typer.Option(help="A corpus by name, or the path of your own corpus file.")] = "msip",
    raw: Annotated[Path | None, typer.Option(help="Also look which sources are in this raw folder.")] = None,
    as_json: Json = False,
) -> None:
    """List the sources of a corpus: images, size, access, terms, and what is here."""
    import msip

    found = msip.list_sources(corpus, raw=raw)
    if as_json:
        print_json(found.as_dict())
        return
    header = ["source", "images", "download", "access", "commercial use", "evidence", *(["frames here"] if raw else [])]
    shown = [row | {"images": None} if row["images"] == "unknown" else row for row in found.sources]
    print_table(header, [[row[name] for name in header] for row in shown])
    print_line(f"\n{found.corpus.title}: {_total(found.corpus)} of {len(found.sources)} sources.")
    print_line(
        "evidence: verified = built from the published files and counted; documentation = as others describe it."
    )
    if found.others:
        print_line(
            f"Other known sources: {', '.join(found.others)}; corpora (--corpus NAME): {', '.join(corpus_names())}."
        )
    print_line("\nTerms:")
    for row in found.sources:
        print_line(f"  {row['source']}: {row['terms']}")


def _total(corpus: Corpus) -> str:
    if corpus.images != "unknown":
        return f"{corpus.images:,} images"
    unknown = [name for name in corpus.sources if name not in corpus.known_counts]
    known = sum(corpus.known_counts.values())
    return f"{known:,} images, and those of {', '.join(unknown)}, whose number nobody has published,"
