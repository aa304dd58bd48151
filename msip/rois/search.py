"""Selective search end to end: segments, features, grouping, and the reference's choice of boxes."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from msip.errors import ImageError
from msip.rois.edges import MAX_PIXELS
from msip.rois.features import (
    HISTOGRAM_BINS,
    count_patterns,
    count_values,
    measure_boxes,
    value_bins,
)
from msip.rois.felzenszwalb import label_segments
from msip.rois.merging import group

TieOrder = Literal["index", "numpy"]

# What PAD's preprocessing keeps (its roi.py): regions of some size, with a box that is worth cropping.
MIN_AREA = 600  # pixels of the region, not of its box
MIN_SIDE = 40
MAX_ASPECT = 3.0

# Half the size: a quarter of the pixels, edges twice as steep.
_HALF_SCALE = 300
_HALF_MIN_SIZE = 7

_VALUE_BINS = value_bins()


def segment_image(image: np.ndarray, scale: float, sigma: float, min_size: int, tie_order: TieOrder) -> np.ndarray:
    """See :func:`msip.rois.segment`."""
    labels, _ = label_segments(_channels(image), *_checked(scale, sigma, min_size, tie_order))
    return labels


def all_regions(image: np.ndarray, scale: float, sigma: float, min_size: int, tie_order: TieOrder) -> np.ndarray:
    """See :func:`msip.rois.regions`."""
    pixels = _channels(image)
    labels, count = label_segments(pixels, *_checked(scale, sigma, min_size, tie_order))
    boxes = np.empty((2 * count, 4), np.int64)
    sizes = np.empty(2 * count, np.int64)
    histograms = np.empty((2 * count, HISTOGRAM_BINS))
    counts = np.zeros((count, HISTOGRAM_BINS), np.int64)
    measure_boxes(labels, boxes, sizes)
    count_values(pixels, labels, _VALUE_BINS, counts)
    count_patterns(pixels, labels, counts)
    np.divide(counts, sizes[:count, None], out=histograms[:count])
    total, _ = group(count, boxes, sizes, histograms, labels.size)
    rows = np.empty((total, 5), np.int32)
    rows[:, :2] = boxes[:total, :2]
    rows[:, 2:4] = boxes[:total, 2:] - boxes[:total, :2]  # no + 1, as in the reference
    rows[:, 4] = sizes[:total]
    return rows


def half_size_search(image: np.ndarray, filtered: bool) -> np.ndarray:
    """See :func:`msip.rois.half_size_search`."""
    pixels = _channels(image)
    size = max(1, pixels.shape[1] // 2), max(1, pixels.shape[0] // 2)
    half = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    rows = 2 * all_regions(half, _HALF_SCALE, 0.9, _HALF_MIN_SIZE, "index")
    rows[:, 4] *= 2
    return first_of_each_box(choose(rows) if filtered else rows)


def choose(rows: np.ndarray) -> np.ndarray:
    """The rows that PAD's roi.py keeps: at least 600 pixels, sides of at least 40, aspect at most 3."""
    width, height, area = rows[:, 2], rows[:, 3], rows[:, 4]
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    return rows[(area >= MIN_AREA) & (shorter >= MIN_SIDE) & (longer <= MAX_ASPECT * shorter)]


def first_of_each_box(rows: np.ndarray) -> np.ndarray:
    """Drop the rows whose box an earlier row has."""
    _, first = np.unique(rows[:, :4], axis=0, return_index=True)
    return rows[np.sort(first)]


def _channels(image: np.ndarray) -> np.ndarray:
    """(h, w, 1) for a grey image, also one stored in three equal channels, else (h, w, 3); contiguous."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        found = f"{image.dtype} values" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise ImageError(
            f"selective search found {found}, expected a uint8 array:"
            " map the frame to 8 bit first (msip.radiometry.to_8bit)."
        )
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)) or image.size == 0:
        raise ImageError(
            f"selective search found an array of shape {image.shape}, expected (h, w) or (h, w, 3) with at least"
            " one pixel: give one grey or three-channel image."
        )
    if image.shape[0] * image.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"selective search found {image.shape[1]} x {image.shape[0]} pixels, expected at most {MAX_PIXELS}:"
            " scale the image down."
        )
    if image.ndim == 2:
        return np.ascontiguousarray(image)[:, :, None]
    first = image[:, :, 0]
    if np.array_equal(first, image[:, :, 1]) and np.array_equal(first, image[:, :, 2]):
        return np.ascontiguousarray(first)[:, :, None]
    return np.ascontiguousarray(image)


def _checked(scale: float, sigma: float, min_size: int, tie_order: TieOrder) -> tuple[float, float, int, TieOrder]:
    """The parameters, or a sentence."""
    if not (scale > 0 and np.isfinite(scale) and sigma >= 0 and np.isfinite(sigma) and min_size >= 0):
        raise ImageError(
            f"selective search found scale={scale}, sigma={sigma}, min_size={min_size}, expected scale > 0, sigma >= 0"
            " and min_size >= 0: the reference uses 600, 0.9 and 30."
        )
    if tie_order not in ("index", "numpy"):
        raise ImageError(f'selective search found tie_order={tie_order!r}, expected "index" or "numpy".')
    return float(scale), float(sigma), int(min_size), tie_order
