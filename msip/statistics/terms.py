"""The terms of a build's sources, from their YAML files, and how much of it may be used commercially."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from msip.errors import SourceError
from msip.sources import Source, load_source

OWN = "own frames"


@dataclass(frozen=True)
class Terms:
    """The terms of one source of a build.

    Attributes:
        name: of the source.
        images: of it in the build.
        source: its facts, or ``None`` for a folder of one's own.
    """

    name: str
    images: int
    source: Source | None

    @property
    def licence(self) -> str:
        """The licence's name."""
        return OWN if self.source is None else self.source.licence.name

    @property
    def commercial(self) -> str:
        """``yes``, ``no`` or ``unknown``."""
        return "unknown" if self.source is None else self.source.licence.commercial

    @property
    def text(self) -> str:
        """The terms, in a sentence."""
        if self.source is None:
            return "Not a source that this program knows: its terms are those of whoever made the frames."
        return self.source.licence.terms

    def as_dict(self) -> dict[str, Any]:
        """For ``stats.json``: the terms, and of a known source what it is, of whom, and how it was cut down."""
        found: dict[str, Any] = {"licence": self.licence, "commercial": self.commercial, "terms": self.text}
        if self.source is None:
            return found
        imaging, selection = self.source.imaging, self.source.selection
        return found | {
            "licence_url": self.source.licence.url,
            "title": self.source.title,
            "homepage": self.source.homepage,
            "citation": self.source.paper.citation,
            "paper": self.source.paper.url,
            "modality": imaging.modality,
            "band": imaging.band,
            "split": selection.split,
            "stride": selection.stride,
            "evidence": self.source.provenance.status,
        }


def terms_of(counts: dict[str, int]) -> list[Terms]:
    """Per source of a build; ``counts``: images of each."""
    return [Terms(name, images, _known(name)) for name, images in counts.items()]


def commercial_shares(terms: list[Terms]) -> dict[str, dict[str, float]]:
    """Images and share of the build whose terms allow commercial use, forbid it, or do not say."""
    total = sum(item.images for item in terms)
    sums = dict.fromkeys(("yes", "no", "unknown"), 0)
    for item in terms:
        sums[item.commercial] += item.images
    return {answer: {"images": images, "share": images / max(1, total)} for answer, images in sums.items()}


def _known(name: str) -> Source | None:
    try:
        return load_source(name)
    except SourceError:
        return None
