"""What the manifest and the curation need to know of a frame: colour, constancy, grey value, statistics, hash."""

from __future__ import annotations

import cv2
import numpy as np

COLOURED = 16
"""A pixel is coloured when its channels lie further apart than this, of 255. Chroma noise and faint tints of real grey
sets reach 6 to 17; in the worst of them 0.5 % of the pixels exceed it."""
COLOUR_MAPPED = 0.1
"""Share of coloured pixels from which a frame counts as colour-mapped: above a logo or a scale bar (up to about
5 %), below every false-colour preview measured (39 % with a picture in picture, 62 % and more without)."""
FLAT = 1.0
"""Largest DCT coefficient (grey levels x 32) of an image without structure."""


def colour_fraction(pixels: np.ndarray) -> float:
    """Share of pixels, 0 to 1, whose colour channels differ by more than ``COLOURED``; 0 for ``(h, w)``."""
    if pixels.ndim == 2:
        return 0.0
    colour = pixels if pixels.dtype == np.uint8 else (pixels >> 8).astype(np.uint8)
    blue, green, red = cv2.split(colour)[:3]
    if np.array_equal(blue, green) and np.array_equal(green, red):
        return 0.0
    spread = cv2.subtract(cv2.max(cv2.max(blue, green), red), cv2.min(cv2.min(blue, green), red))
    return float(np.count_nonzero(spread > COLOURED)) / spread.size


def is_colour_mapped(pixels: np.ndarray) -> bool:
    """Whether the frame is false colour (or a visible photograph): its grey values are not intensities.

    A grey frame with a small coloured logo, marker or scale bar is not, and neither is grey stored as three channels
    with JPEG chroma noise or a faint tint.
    """
    return colour_fraction(pixels) >= COLOUR_MAPPED


def is_constant(pixels: np.ndarray) -> bool:
    """Whether every pixel equals the first one (alpha is not looked at)."""
    first = pixels[..., :3] if pixels.ndim == 3 else pixels
    middle = first[len(first) // 2 : len(first) // 2 + 1]  # tells nearly every frame, those with a white border too
    return bool((middle == first[:1, :1]).all() and (first == first[:1, :1]).all())


def to_grey(pixels: np.ndarray) -> np.ndarray:
    """One channel ``(h, w)`` of the same depth (uint8 stays uint8, uint16 stays uint16).

    Equal channels give the channel itself, bit for bit; others OpenCV's BGR weights (0.114, 0.587, 0.299). Alpha is
    dropped, not blended: a transparent pixel keeps the value stored under its transparency.
    """
    if pixels.ndim == 2:
        return pixels
    blue, green, red = cv2.split(pixels)[:3]
    if np.array_equal(blue, green) and np.array_equal(green, red):
        return np.asarray(blue)
    return cv2.cvtColor(np.ascontiguousarray(pixels[..., :3]), cv2.COLOR_BGR2GRAY)


def image_statistics(grey: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation (of the population) of uint8 ``(h, w)``, both on the scale 0 to 1; exact sums."""
    if grey.size < 2**24:  # OpenCV counts in float32: exact up to here, and ten times as fast
        counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    else:
        counts = np.bincount(grey.ravel(), minlength=256)
    levels = np.arange(256)
    total, first, second = int(counts.sum()), int(counts @ levels), int(counts @ levels**2)
    variance = (second * total - first * first) / total**2
    return first / total / 255, variance**0.5 / 255


def phash(grey: np.ndarray) -> str:
    """Perceptual hash of uint8 ``(h, w)``: 64 bits as 16 hexadecimal digits; close images differ in few bits.

    The image is averaged down to 32 x 32 (INTER_AREA), transformed by a DCT, and each of the 8 x 8 lowest frequencies
    gives a bit, row by row from the highest: 1 where it exceeds the median of the 63 without the mean (DC), whose own
    bit is always 0. An image without structure hashes to sixteen zeros: such hashes say nothing about likeness.
    """
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    if np.abs(low[1:]).max() < FLAT:
        return "0" * 16
    bits = low > np.median(low[1:])
    bits[0] = False
    return np.packbits(bits).tobytes().hex()
