"""Near-duplicates between training and test images: said before any score is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msip.radiometry import phash
from pad.evaluation.data import Grey

BITS = 64
MAX_BITS = 4
"""Perceptual hashes of 64 bits that differ in at most so many are of near-duplicates."""


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
    """Test images whose perceptual hash is within 4 bits of a training image's; (name, uint8 (h, w)) each."""
    known, asked = _signs(train), _signs(test)
    pairs = []
    for (name, _), signs in zip(test, asked, strict=True):
        distance = (BITS - known @ signs) / 2
        nearest = int(distance.argmin())
        if signs.any() and distance[nearest] <= MAX_BITS:
            pairs.append((name, train[nearest][0]))
    return Leaks(len(test), len(pairs), tuple(pairs[:10]))


def _signs(images: Sequence[tuple[str, Grey]]) -> NDArray[np.float32]:
    """Hashes as rows of +1 and -1; an image without structure, whose hash says nothing, is a row of 0."""
    data = np.frombuffer(bytes.fromhex("".join(phash(image) for _, image in images)), np.uint8)
    bits = np.unpackbits(data.reshape(-1, BITS // 8), axis=1)
    return np.where(bits.any(1, keepdims=True), 2 * bits.astype(np.float32) - 1, 0).astype(np.float32)
