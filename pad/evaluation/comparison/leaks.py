"""Near-duplicates between training and test images: said before any score is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from msip.curation.fingerprint import Fingerprints, fingerprint
from msip.curation.image_measures import without_borders
from msip.curation.matching import best_matches
from msip.curation.near import SIMILARITY
from pad.evaluation.sets.base import Grey

ANY = 2
"""Column of ``best_matches`` for images of two sets."""


@dataclass(frozen=True)
class Leaks:
    """``leaked``: test images with a near-duplicate in training; ``pairs``: some of them, (test, training) names."""

    test_images: int
    leaked: int
    pairs: tuple[tuple[str, str], ...]

    @property
    def share(self) -> float:
        """Percent of the test images."""
        return 100 * self.leaked / self.test_images

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Leaks:
        """What ``dataclasses.asdict`` gave, after JSON."""
        pairs = tuple((test, train) for test, train in value["pairs"])
        return cls(value["test_images"], value["leaked"], pairs)


def find_leaks(train: Sequence[tuple[str, Grey]], test: Sequence[tuple[str, Grey]]) -> Leaks:
    """Test images that ``msip curate`` calls near-duplicates of a training image; (name, uint8 (h, w)) each."""
    known, asked = (
        Fingerprints.of([fingerprint(without_borders(image)) for _, image in part]) for part in (train, test)
    )
    partner = best_matches(asked, known, least=SIMILARITY).partner[:, ANY]
    found = np.flatnonzero(partner >= 0).tolist()
    return Leaks(len(test), len(found), tuple((test[n][0], train[int(partner[n])][0]) for n in found[:10]))
