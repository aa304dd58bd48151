"""What near-duplicates are found by: two vectors an image, the same at any contrast, and a 256-bit hash of the first.

Infrared images are often a few grey levels above their background, and two copies of one frame often went through
different gain controls. So an image is averaged down to 32 x 32 in floating point (bytes would leave nothing of a
contrast of two levels), put at its median and scaled by its mean deviation, and pressed by ``asinh``, which lets
neither one hot engine nor a clipped range rule the rest. Of its discrete cosine transform the 16 x 16 lowest
frequencies stay, weighted by frequency: natural images have 1/f spectra, and without the weight any two roads under a
cold sky are alike.
The cosine of two such vectors is the correlation of two small whitened thumbnails; their signs are the hash.

A cold sky, vignetting, a detector's stripes and the frame around a solar module are a function of the row plus one of
the column, and different images share them. The second vector, the detail, is the same of what is left of the thumbnail
without its row and column means. Copies agree in both; ``least_detail`` says how much they must.

A mirrored image has the same numbers with the sign of every odd horizontal frequency changed, an upside-down one the
vertical; one turned by 90 degrees has them transposed, and a black-hot copy of a white-hot image has them all negated:
such copies are found without their pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.files import sha256_bytes

VERSION = 2
"""Raised when the same image would get other numbers."""

SIDE = 16
LENGTH = SIDE * SIDE
_THUMBNAIL = 32
_CHUNK = 65_536  # rows at a time: no second copy of a million vectors in a wider type
_FEATURELESS = 0.1
"""Grey levels of mean deviation in the thumbnail below which there is nothing to compare."""
_NO_DETAIL = 0.001
"""The same without row and column means: what is below is rounding."""

LEAST_DETAIL = 0.4
"""Cosine of the details from which two images may be copies; ``docs/curate.md`` has the margins."""
SMALL_SIDE = 64
"""Pixels of the shorter side below which two images must agree in nearly all that they show."""
LEAST_DETAIL_SMALL = 0.85

PRINT = np.dtype([("vector", np.int8, LENGTH), ("detail", np.int8, LENGTH), ("side", np.uint8)])
"""What is kept of an image: both vectors, and the shorter side in pixels (255 for all above)."""

_TURNS = ("same", "mirrored", "upside down", "turned by 180", "turned left", "turned right", "mirrored and turned left",
          "mirrored and turned right")  # fmt: skip
VARIANTS = (*_TURNS, *(f"{turn}, inverted" for turn in _TURNS))
"""What may have been done to a copy; the first alone is looked for unless flips are asked for. Left, right: by 90."""


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


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.void]:
    """The ``PRINT`` of an image, an array without axes; a vector is zeros where there is nothing to compare.

    Args:
        grey: uint8 (h, w), without letterbox borders (see ``msip.curation.image_measures``).
    """
    small = _shrink(grey)
    detail = small - small.mean(axis=0) - small.mean(axis=1, keepdims=True) + small.mean()
    vectors = _whitened(small - np.median(small), _FEATURELESS), _whitened(detail, _NO_DETAIL)
    return np.array((*vectors, min(255, *grey.shape)), PRINT)


def _whitened(centred: NDArray[np.float32], least: float) -> NDArray[np.int8]:
    """The vector of a thumbnail: int8 (256,), the lowest 8 x 8 frequencies first; zeros below that mean deviation."""
    deviation = float(np.abs(centred).mean())
    if deviation < least:
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
        vectors, details: int8 (n, 256).
        codes: uint64 (n, 4): the signs of ``vectors``.
        norms, detail_norms: float64 (n,); zero where there is nothing to compare.
        sides: uint8 (n,) the shorter side in pixels, 255 for all above.
    """

    vectors: NDArray[np.int8]
    details: NDArray[np.int8]
    codes: NDArray[np.uint64]
    norms: NDArray[np.float64]
    detail_norms: NDArray[np.float64]
    sides: NDArray[np.uint8]

    @classmethod
    def of(cls, prints: Sequence[NDArray[np.void]] | NDArray[np.void]) -> Fingerprints:
        """From what ``fingerprint`` gave for each image."""
        array = np.asarray(prints, PRINT)
        vectors, details = (np.ascontiguousarray(array[name]) for name in ("vector", "detail"))
        codes = np.empty((len(array), 4), np.uint64)
        for start in range(0, len(array), _CHUNK):
            codes[start : start + _CHUNK] = np.packbits(vectors[start : start + _CHUNK] > 0, axis=1).view(np.uint64)
        return cls(vectors, details, codes, _norms(vectors), _norms(details), array["side"].copy())

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, rows: NDArray[np.int64]) -> Fingerprints:
        """Some of them."""
        return Fingerprints(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def featureless(self) -> NDArray[np.bool_]:
        """(n,) images without structure beyond row and column means: only an equal one is like them, if any."""
        return (self.norms == 0) | (self.detail_norms == 0)

    @property
    def small(self) -> NDArray[np.bool_]:
        """(n,) images of so few pixels that copies must agree in nearly all of them."""
        return self.sides < SMALL_SIDE

    @property
    def least_detail(self) -> NDArray[np.float64]:
        """(n,) the cosine of the details that an image asks of its copies."""
        return np.where(self.small, LEAST_DETAIL_SMALL, LEAST_DETAIL)


def _norms(vectors: NDArray[np.int8]) -> NDArray[np.float64]:
    """(n,) lengths; in float32 half of all equal vectors would be less than 1 alike."""
    norms = np.empty(len(vectors))
    for start in range(0, len(vectors), _CHUNK):
        norms[start : start + _CHUNK] = np.sqrt(np.square(vectors[start : start + _CHUNK], dtype=np.int32).sum(axis=1))
    return norms


def turned(vectors: NDArray[np.int8], flips: bool) -> NDArray[np.int8]:
    """Undo each of ``VARIANTS`` on vectors (n, 256): int8 (16, n, 256); (1, n, 256), the first alone, without flips."""
    if not flips:
        return vectors[None]
    return np.stack([vectors[:, order] * signs for order, signs in _variants()])


def _variants() -> Iterator[tuple[NDArray[np.int64], NDArray[np.int8]]]:
    """For each of ``VARIANTS`` where each number is taken from, and its sign: what takes a copy back."""
    place = np.empty(LENGTH, np.int64)
    place[_ORDER] = np.arange(LENGTH)
    upright, across = (matrix.ravel()[_ORDER] for matrix in (place.reshape(SIDE, SIDE), place.reshape(SIDE, SIDE).T))
    odd = np.tile(np.where(np.arange(SIDE) % 2, -1, 1).astype(np.int8), (SIDE, 1))
    mirror, flip = odd.ravel()[_ORDER], odd.T.ravel()[_ORDER]
    signs = (np.ones_like(mirror), mirror, flip, mirror * flip)
    turns = [(upright, sign) for sign in signs] + [(across, signs[index]) for index in (1, 2, 0, 3)]
    for inversion in (1, -1):
        yield from ((order, inversion * sign) for order, sign in turns)
