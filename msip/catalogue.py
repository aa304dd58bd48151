"""The sources of a corpus as a table: what each holds, what it takes to get it, and what is here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msip.errors import LayoutError
from msip.frames import list_frames
from msip.sources import Corpus, Source, all_sources, load_corpus, load_source
from msip.trees import raw_tree, remote_errors


@dataclass(frozen=True)
class SourceList:
    """The sources of a corpus.

    Attributes:
        corpus: its name, title and numbers of images.
        sources: one dictionary a source, in the corpus's order: ``source``, ``images`` (or ``unknown``), ``download``
            (size), ``access``, ``commercial use``, ``evidence``, ``homepage``, ``terms``, and, where a raw folder was
            given, ``frames here``.
        others: known sources that are not in the corpus.
    """

    corpus: Corpus
    sources: list[dict[str, Any]]
    others: list[str]

    def as_dict(self) -> dict[str, Any]:
        """The summary that ``--json`` prints."""
        return {"corpus": self.corpus.name, "images": self.corpus.images, "sources": self.sources}


def list_sources(corpus: str | Path = "msip", *, raw: str | Path | None = None) -> SourceList:
    """List the sources of a corpus: images, size, access, terms, and how many frames of each are here.

    Args:
        corpus: a name, or the path of a corpus file.
        raw: a folder or fsspec URL to look for raw frames in.

    Raises:
        SourceError: the corpus is unknown or its file is wrong, or ``raw`` is a URL that cannot be read.
    """
    chosen = load_corpus(corpus)
    rows = [_row(load_source(name), images) for name, images in chosen.sources.items()]
    if raw is not None:
        for row in rows:
            row["frames here"] = _frames_here(load_source(row["source"]), raw)
    return SourceList(chosen, rows, sorted({source.name for source in all_sources()} - set(chosen.sources)))


def _row(source: Source, images: int | str) -> dict[str, Any]:
    return {
        "source": source.name,
        "images": images,
        "download": source.size_text,
        "access": source.access_class,
        "commercial use": source.licence.commercial,
        "evidence": source.provenance.status,
        "homepage": source.homepage,
        "terms": source.terms_text,
    }


def _frames_here(source: Source, raw: str | Path) -> int:
    try:
        with remote_errors(raw):
            return list_frames(source, raw_tree(raw)).seen
    except LayoutError:
        return 0
