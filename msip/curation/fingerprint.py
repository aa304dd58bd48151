"""What near-duplicates are found by: 255 numbers an image, the same at any contrast, and their signs as a 256-bit hash.

Infrared images are often a few grey levels above their background, and two copies of one frame often went through
different gain controls. So an image is averaged down to 32 x 32 in floating point (bytes would leave nothing of a
contrast of two levels), put at its median and scaled by its mean deviation, and pressed by ``asinh``, which lets
neither one hot engine nor a clipped range rule the rest. Of its discrete cosine transform the 16 x 16 lowest
frequencies stay, weighted by frequency: natural images have 1/f spectra, and without the weight any two roads under a
cold sky are alike.
The cosine of two such vectors is the correlation of two small whitened thumbnails; their signs are the hash.

A mirrored image has the same numbers with the sign of every odd horizontal frequency changed, an upside-down one the
vertical, and a black-hot copy of a white-hot image has them all changed: such copies are found without their pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.files import sha256_bytes

VERSION = 1
"""Raised when the same image would get other numbers."""

SIDE = 16
LENGTH = SIDE * SIDE
_THUMBNAIL = 32
_FEATURELESS = 0.1
"""Grey levels of mean deviation in the thumbnail below which there is nothing to compare."""

VARIANTS = ("same", "mirrored", "upside down", "turned", "inverted", "mirrored, inverted", "upside down, inverted",
            "turned, inverted")  # fmt: skip
"""What may have been done to a copy; the first alone is looked for unless flips are asked for."""


def _basis() -> NDArray[np.float32]:
    """(SIDE, _THUMBNAIL): the lowest rows of the orthonormal DCT-II."""
    frequency, position = np.arange(SIDE)[:, None], np.arange(_THUMBNAIL)[None, :]
    rows = np.cos(np.pi * frequency * (position + 0.5) / _THUMBNAIL) * np.sqrt(2 / _THUMBNAIL)
    rows[0] /= np.sqrt(2)
    return rows.astype(np.float32)


_BASIS = _basis()
_WEIGHT = np.hypot(*np.meshgrid(np.arange(SIDE), np.arange(SIDE))).astype(np.float32)
# The hash begins with the 64 lowest frequencies: its first word alone tells most pairs apart.
_ORDER = np.argsort(np.maximum(*np.meshgrid(np.arange(SIDE), np.arange(SIDE))).ravel() >= SIDE // 2, kind="stable")


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.int8]:
    """The vector of an image: int8 (256,), the lowest 8 x 8 frequencies first; zeros for one without structure.

    Args:
        grey: uint8 (h, w), without letterbox borders (see ``msip.curation.image_measures``).
    """
    small = _shrink(grey)
    centred = small - np.median(small)
    deviation = float(np.abs(centred).mean())
    if deviation < _FEATURELESS:
        return np.zeros(LENGTH, np.int8)
    pressed = np.arcsinh(centred * (2 / deviation))
    low = (_BASIS @ pressed @ _BASIS.T * _WEIGHT).ravel()[_ORDER]
    return np.asarray(np.rint(low * (127 / np.abs(low).max())), np.int8)


def pixels_digest(grey: NDArray[np.uint8]) -> str:
    """Names the pixels of an image (h, w), whatever container or number of equal channels they are stored in."""
    return sha256_bytes(repr(grey.shape).encode() + np.ascontiguousarray(grey).tobytes())


def _shrink(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(32, 32) averages, not rounded to bytes."""
    return cv2.resize(grey.astype(np.float32), (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of n images.

    Attributes:
        vectors: int8 (n, 256).
        codes: uint64 (n, 4): their signs.
        norms: float64 (n,); zero for an image without structure, which is like no other.
    """

    vectors: NDArray[np.int8]
    codes: NDArray[np.uint64]
    norms: NDArray[np.float64]

    @classmethod
    def of(cls, vectors: Sequence[NDArray[np.int8]] | NDArray[np.int8]) -> Fingerprints:
        """From the vectors of ``fingerprint``."""
        array = np.ascontiguousarray(np.asarray(vectors, np.int8).reshape(-1, LENGTH))
        norms = np.empty(len(array))  # in float32 half of all equal vectors would be less than 1 alike
        codes = np.empty((len(array), 4), np.uint64)
        for start in range(0, len(array), 65_536):  # no second copy of a million vectors in a wider type
            part = array[start : start + 65_536]
            norms[start : start + len(part)] = np.sqrt(np.square(part, dtype=np.int32).sum(axis=1))
            codes[start : start + len(part)] = np.packbits(part > 0, axis=1).view(np.uint64)
        return cls(array, codes, norms)

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: NDArray[np.int64]) -> Fingerprints:
        """Some of them."""
        return Fingerprints(self.vectors[rows], self.codes[rows], self.norms[rows])


def variant_signs(flips: bool) -> NDArray[np.int8]:
    """int8 (variants, 256) of 1 and -1: what ``VARIANTS`` do to a vector; the first alone without ``flips``."""
    horizontal = np.tile(np.where(np.arange(SIDE) % 2, -1, 1), (SIDE, 1))
    vertical = horizontal.T
    turns = np.stack([np.ones_like(horizontal), horizontal, vertical, horizontal * vertical]).reshape(4, LENGTH)
    return np.asarray(np.concatenate([turns, -turns])[: 8 if flips else 1, _ORDER], np.int8)
