"""Extremal boxes: what stands out warmer, colder or sharper than its surroundings, in a few milliseconds an image.

An infrared object keeps its outline over many grey levels: as a threshold sinks through the image, the object's
connected component appears, stays about the same, and at last floods into the background. A component tree holds the
components of all thresholds. Nested components with about the same box are one candidate, and the grey levels for which
it lasts are its contrast. Three pictures of the image are searched (warm: the grey values, cold: their negative,
sharp: the gradient) at a half, a quarter and an eighth of the size, each for the brightest ``_SHARE`` of its pixels:
what is below is background.

Related: maximally stable extremal regions (Matas et al. 2002), chosen by the growth of their area; component trees by
union-find (Najman and Couprie 2006).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.errors import ImageError
from msip.rois.component_tree import component_tree, lasting_chains, suppress
from msip.rois.search import MAX_ASPECT, MIN_SIDE

MOST_BOXES = 256
"""The most boxes an image gives."""

MOST_FOR_CROPS = 40
"""The most of those made for cropping; the exact selective search gives 37 an image on average."""

_REDUCTIONS = (2, 4, 8)
_SHARE = 0.3
_LEAST_PIXELS = 8  # of a component, in the reduced picture
_LARGEST_PART = 0.6  # of the picture that a component may cover
_SAME_BOX = 0.7  # intersection over union
_LEAST_LEVELS = 3
_LEVELS_PER_GRADIENT = 0.5  # of Sobel's 3 x 3 operator
_SIZE_POWER = 0.25  # of two candidates of equal contrast the larger one is better, a little


def extremal_boxes(image: NDArray[np.uint8], *, filtered: bool = True) -> NDArray[np.int32]:
    """Boxes of what stands out, best first: int32 (n, 5), the columns x, y, width, height and area, in pixels.

    image: uint8 (h, w) or (h, w, 3) in the order cv2 gives. ``area`` is the region's pixel count, as exact as the
    reduced picture it was found in; width and height are whole (max - min + 1). At most ``MOST_BOXES``, of which no two
    overlap by more than 0.7 (intersection over union).

    With ``filtered``, boxes for cropping, at most ``MOST_FOR_CROPS``: sides below the 40 pixels that a crop needs are
    widened about the object, since most infrared objects are smaller; no side is more than three times the other.

    Raises :class:`msip.errors.ImageError` for another type or shape.
    """
    grey = _grey(image)
    height, width = grey.shape
    rows = np.concatenate([np.empty((0, 6)), *(_candidates(picture, width, height) for picture in _pictures(grey))])
    rows = rows[np.argsort(-rows[:, 5] * rows[:, 4] ** _SIZE_POWER, kind="stable")]
    boxes = rows[suppress(rows, _SAME_BOX, MOST_BOXES), :5]
    return (_for_crops(boxes, width, height) if filtered else boxes).astype(np.int32)


def _for_crops(boxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Widen small sides about their middle, keep the boxes inside the image, drop those too long or now alike."""
    if min(width, height) < MIN_SIDE:
        return boxes[:0]
    boxes = boxes.copy()
    for start, side, limit in ((0, 2, width), (1, 3, height)):
        missing = np.maximum(MIN_SIDE - boxes[:, side], 0)
        boxes[:, side] += missing
        boxes[:, start] = np.clip(boxes[:, start] - missing // 2, 0, limit - boxes[:, side])
    sides = np.trunc(boxes[:, 2:4])
    boxes = boxes[sides.max(axis=1) <= MAX_ASPECT * sides.min(axis=1)]
    return boxes[suppress(boxes, _SAME_BOX, MOST_FOR_CROPS)]


def _grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    shape_fits = isinstance(image, np.ndarray) and (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3))
    if not shape_fits or image.dtype != np.uint8 or image.size == 0:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"extremal boxes found {found}, expected a uint8 array (h, w) or (h, w, 3), not empty.")
    return image if image.ndim == 2 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def _pictures(grey: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Warm, cold and sharp things are bright in these."""
    for reduction in _REDUCTIONS:
        size = grey.shape[1] // reduction, grey.shape[0] // reduction
        if min(size) < 2:
            return
        small = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
        gradient = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
        yield small
        yield np.asarray(255 - small, np.uint8)
        yield np.asarray(cv2.convertScaleAbs(gradient, alpha=_LEVELS_PER_GRADIENT), np.uint8)


def _candidates(picture: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """Rows x, y, width, height, area in pixels of the image, and the levels a candidate lasts."""
    most = int(_LARGEST_PART * picture.size)
    components, parents = component_tree(picture, _SHARE, _LEAST_PIXELS, most)
    rows = lasting_chains(components, parents, _SAME_BOX, _LEAST_LEVELS)
    across, down = width / picture.shape[1], height / picture.shape[0]
    return rows * np.array([across, down, across, down, across * down, 1.0])
