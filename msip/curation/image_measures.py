"""What is odd about a single image: borders, drawn-in text, polarity. Scores; the thresholds are in ``flags``."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.radiometry import colour_fraction

_CLIPPED_DARK, _CLIPPED_BRIGHT = 1, 254  # JPEG moves a clipped pixel by a level
_BAR_RANGE = 6  # grey levels within a letterbox bar
_BAR_LEAST = 0.015  # of the side
_STROKE = 9  # pixels: strokes of drawn letters are thinner
_STROKE_CONTRAST = 70  # grey levels
_LETTER_HEIGHTS = (6, 48)
_LARGE_SIDE = 900
_POLARITY_SIDE = 160

HISTOGRAM_BINS = 32


@dataclass(frozen=True)
class Appearance:
    """Measurements of one stored image.

    Attributes:
        mean, std: of its grey values, 0 to 1.
        entropy: of the 256 grey levels, bits.
        contrast: grey levels between the 1st and the 99th percentile, 0 to 1.
        clipped_dark, clipped_bright: share of the pixels at the lowest or highest level.
        coloured: share of the pixels whose channels differ.
        letterbox: share of the image that is borders.
        text: share of the thin bright (or dark) shapes that stand in lines, as drawn-in characters do.
        polarity: above 0 where small things are brighter than their surroundings (white-hot), below 0 for black-hot.
        histogram: int32 (32,) pixels per 8 grey levels.
    """

    mean: float
    std: float
    entropy: float
    contrast: float
    clipped_dark: float
    clipped_bright: float
    coloured: float
    letterbox: float
    text: float
    polarity: float
    histogram: NDArray[np.int32]


def appearance(pixels: NDArray[np.uint8], grey: NDArray[np.uint8], inner: NDArray[np.uint8]) -> Appearance:
    """Measure an image: as stored, uint8 (h, w) or (h, w, 3 or 4), as grey (h, w), and ``without_borders``."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel().astype(np.int64)
    share = counts / grey.size
    levels = np.arange(256)
    mean = float(share @ levels)
    some = share[share > 0]
    cumulated = np.cumsum(share)
    low, high = np.searchsorted(cumulated, [0.01, 0.99])
    return Appearance(
        mean=mean / 255,
        std=float(np.sqrt(max(0.0, share @ (levels - mean) ** 2))) / 255,
        entropy=max(0.0, float(-(some * np.log2(some)).sum())),
        contrast=float(high - low) / 255,
        clipped_dark=float(share[: _CLIPPED_DARK + 1].sum()),
        clipped_bright=float(share[_CLIPPED_BRIGHT:].sum()),
        coloured=colour_fraction(pixels),
        letterbox=1 - inner.size / grey.size,
        text=text_share(grey),
        polarity=polarity(inner),
        histogram=counts.reshape(HISTOGRAM_BINS, -1).sum(axis=1).astype(np.int32),
    )


def without_borders(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut off letterbox and pillarbox bars: flat, of one level, and on both sides alike (a dark sky is on one side)."""
    top, bottom = _bars(grey)
    left, right = _bars(np.ascontiguousarray(grey.T))
    return grey[top : len(grey) - bottom, left : grey.shape[1] - right]


def _bars(grey: NDArray[np.uint8]) -> tuple[int, int]:
    """Rows at the top and at the bottom that are bars; none unless both are, and about equally high."""
    height = len(grey)
    low, high = grey.min(axis=1).astype(np.int16), grey.max(axis=1).astype(np.int16)
    flat = high - low <= _BAR_RANGE
    if not flat[0] or not flat[-1] or flat.all() or abs(int(low[0]) - int(low[-1])) > _BAR_RANGE:
        return 0, 0
    of_level = flat & (np.abs(low - low[0]) <= _BAR_RANGE)
    top, bottom = int(np.argmin(of_level)), int(np.argmin(of_level[::-1]))
    if min(top, bottom) < max(2, _BAR_LEAST * height) or abs(top - bottom) > 0.35 * max(top, bottom) + 2:
        return 0, 0
    return top, bottom


def text_share(grey: NDArray[np.uint8]) -> float:
    """Share of the thin, high-contrast shapes that are equally high and side by side, three or more, as text is.

    A hot person or lamp is alone, or not as high as its neighbour; leaves are many and in no line. The larger of the
    shares of bright and of dark shapes.
    """
    if max(grey.shape) > _LARGE_SIDE and min(grey.shape) > 1:
        grey = np.asarray(cv2.resize(grey, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
    kernel = np.ones((_STROKE, _STROKE), np.uint8)
    best = 0.0
    for operation in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT):
        strokes = cv2.compare(cv2.morphologyEx(grey, operation, kernel), _STROKE_CONTRAST, cv2.CMP_GE)
        if cv2.countNonZero(strokes) > 0.1 * strokes.size:  # texture all over is no text
            continue
        boxes = cv2.connectedComponentsWithStats(strokes, connectivity=8)[2][1:]
        boxes = boxes[boxes[:, 3] >= _LETTER_HEIGHTS[0]]
        if len(boxes):
            best = max(best, _in_lines(boxes) / len(boxes))
    return best


def _in_lines(boxes: NDArray[np.int32]) -> int:
    """How many of the components (x, y, width, height, area) are characters of a line of three or more."""
    _, _, width, height, area = boxes.T
    filled = area / np.maximum(1, width * height)
    fits = (height <= _LETTER_HEIGHTS[1]) & (width <= 1.3 * height) & (filled > 0.15) & (filled < 0.95)
    letters = boxes[fits]
    letters = letters[np.lexsort((letters[:, 0], letters[:, 1]))]
    used = np.zeros(len(letters), bool)
    total = 0
    for index in range(len(letters)):
        if used[index]:
            continue
        line = _line_of(letters, index)
        if len(line) >= 3:
            used[line] = True
            total += len(line)
    return total


def _line_of(letters: NDArray[np.int32], index: int) -> NDArray[np.int64]:
    """Indices of the components in one line with this one: the same top and bottom to a pixel, no wide gaps."""
    x, y, _, height, _ = letters.T
    same = (np.abs(y - y[index]) <= 1) & (np.abs(y + height - y[index] - height[index]) <= 1)
    members = np.flatnonzero(same)
    members = members[np.argsort(x[members], kind="stable")]
    gaps = np.diff(x[members]) > 1.8 * height[index]
    part = np.concatenate([[0], np.cumsum(gaps)])
    return members[part == part[np.flatnonzero(members == index)[0]]]


def polarity(grey: NDArray[np.uint8]) -> float:
    """Skewness of what is left of an image without its coarse background.

    The world's small hot things (people, engines, lamps) stand out of a cooler, wider background more often than small
    cold ones do. A guess: see ``docs/curate.md`` for how often it is right.
    """
    scale = _POLARITY_SIDE / max(grey.shape)
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    small = cv2.resize(grey.astype(np.float32), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    detail = small - cv2.GaussianBlur(small, (0, 0), _POLARITY_SIDE / 16)
    deviation = float(detail.std())
    if deviation < 1e-3:
        return 0.0
    return float(((detail - detail.mean()) ** 3).mean() / deviation**3)
