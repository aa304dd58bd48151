"""``msip sources``: what there is, what it takes to get it, and what is here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from msip.errors import LayoutError
from msip.sources import Corpus, Source, all_sources, corpus_names, load_corpus, load_source

from .options import Json
from .output import print_json, print_line, print_table


def sources(
    corpus: Annotated[str, typer.Option(help="A corpus by name, or the path of your own corpus file.")] = "msip",
    raw: Annotated[Path | None, typer.Option(help="Also look which sources are in this raw folder.")] = None,
    as_json: Json = False,
) -> None:
    """List the sources of a corpus: images, size, access, terms, and what is here."""
    chosen = load_corpus(corpus)
    listed = [_row(load_source(name), images, raw) for name, images in chosen.sources.items()]
    if as_json:
        print_json({"corpus": chosen.name, "images": chosen.images, "sources": listed})
        return
    header = ["source", "images", "download", "access", "commercial use", "evidence", *(["frames here"] if raw else [])]
    shown = [row | {"images": None} if row["images"] == "unknown" else row for row in listed]
    print_table(header, [[row[name] for name in header] for row in shown])
    print_line(f"\n{chosen.title}: {_total(chosen)} of {len(chosen.sources)} sources.")
    print_line(
        "evidence: verified = built from the published files and counted; documentation = as others describe it."
    )
    others = sorted({source.name for source in all_sources()} - set(chosen.sources))
    if others:
        print_line(f"Other known sources: {', '.join(others)}; corpora (--corpus NAME): {', '.join(corpus_names())}.")
    print_line("\nTerms:")
    for row in listed:
        print_line(f"  {row['source']}: {row['terms']}")


def _total(corpus: Corpus) -> str:
    if corpus.images != "unknown":
        return f"{corpus.images:,} images"
    unknown = [name for name in corpus.sources if name not in corpus.known_counts]
    known = sum(corpus.known_counts.values())
    return f"{known:,} images, and those of {', '.join(unknown)}, whose number nobody has published,"


def _row(source: Source, images: int | str, raw: Path | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "source": source.name,
        "images": images,
        "download": source.size_text,
        "access": source.access_class,
        "commercial use": source.licence.commercial,
        "evidence": source.provenance.status,
        "homepage": source.homepage,
        "terms": source.terms_text,
    }
    if raw is not None:
        row["frames here"] = _frames_here(source, raw)
    return row


def _frames_here(source: Source, raw: Path) -> int:
    from msip.frames import list_frames
    from msip.trees import raw_tree, remote_errors

    tree = raw_tree(raw)
    try:
        with remote_errors(raw):
            return list_frames(source, tree).seen
    except LayoutError:
        return 0
