"""Per-segment features as selectivesearch 0.4 computes them, without its arrays of floats.

Its colour histogram covers the range 0..255 in all three HSV channels while H and S lie in 0..1, so only the 25 bins of
V = max(channels) say anything. Its texture histogram covers the range 0..1 of local binary patterns 0..255, so only the
codes 0 and 1 are counted, in the first and the last of ten bins.
"""

from __future__ import annotations

import numpy as np

from msip.jit import exact_jit

VALUE_BINS = 25
HISTOGRAM_BINS = VALUE_BINS + 6  # and two texture bins per channel
# Sampling offsets of the eight neighbours on the unit circle, rounded to five digits as scikit-image does.
_DIAGONAL = 0.70711


def value_bins() -> np.ndarray:
    """Bin of each 8-bit value in ``numpy.histogram(..., 25, (0, 255))``. (256,) uint8."""
    return np.array([np.argmax(np.histogram([value], VALUE_BINS, (0.0, 255.0))[0]) for value in range(256)], np.uint8)


@exact_jit
def measure_boxes(labels: np.ndarray, boxes: np.ndarray, sizes: np.ndarray) -> None:
    """Bounding box (min_x, min_y, max_x, max_y, inclusive) and pixel count of each label. labels (h, w) int32."""
    height, width = labels.shape
    boxes[:, :2] = 1 << 30
    boxes[:, 2:] = -1
    sizes[:] = 0
    for y in range(height):
        row = labels[y]
        x = 0
        while x < width:
            label, start = row[x], x
            while x < width and row[x] == label:
                x += 1
            box = boxes[label]
            box[0] = min(box[0], start)
            box[1] = min(box[1], y)
            box[2] = max(box[2], x - 1)
            box[3] = y
            sizes[label] += x - start


@exact_jit
def count_values(image: np.ndarray, labels: np.ndarray, bins: np.ndarray, counts: np.ndarray) -> None:
    """Histogram of V = max over channels. image (h, w, c) uint8; counts (n, 31) int64, first 25 columns."""
    height, width, channels = image.shape
    for y in range(height):
        for x in range(width):
            value = image[y, x, 0]
            for channel in range(1, channels):
                value = max(value, image[y, x, channel])
            counts[labels[y, x], bins[value]] += 1


@exact_jit
def _sample(image: np.ndarray, y: int | np.int64, x: int | np.int64, channel: int) -> int | np.int64:
    """A pixel, zero outside the image."""
    inside = 0 <= y < image.shape[0] and 0 <= x < image.shape[1]
    return np.int64(image[y, x, channel]) if inside else 0


@exact_jit
def _interpolated_reaches(image: np.ndarray, y: int, x: int, channel: int, dy: int, dx: int) -> bool | np.bool_:
    """Whether the bilinear sample towards (dy, dx) is at least the centre, with the rounding of the coordinates."""
    sample_y, sample_x = y + dy * _DIAGONAL, x + dx * _DIAGONAL
    y0, x0 = np.int64(np.floor(sample_y)), np.int64(np.floor(sample_x))
    fraction_y, fraction_x = sample_y - y0, sample_x - x0
    left, right = 1 - fraction_x, fraction_x
    top = left * _sample(image, y0, x0, channel) + right * _sample(image, y0, x0 + 1, channel)
    bottom = left * _sample(image, y0 + 1, x0, channel) + right * _sample(image, y0 + 1, x0 + 1, channel)
    value = (1 - fraction_y) * top + fraction_y * bottom
    return value - _sample(image, y, x, channel) >= 0.0


@exact_jit
def _diagonal_reaches(
    image: np.ndarray,
    y: int,
    x: int,
    channel: int,
    dy: int,
    dx: int,
    beside: int | np.int64,
    centre: int | np.int64,
) -> bool | np.bool_:
    """The same in integers where that decides; ``beside`` is the sum of the two neighbours next to the diagonal."""
    corner = _sample(image, y + dy, x + dx, channel)
    left, right = 70711 * (corner - centre), 29289 * (2 * centre - beside)
    if left != right:
        return left > right
    return _interpolated_reaches(image, y, x, channel, dy, dx)


@exact_jit
def _pattern(image: np.ndarray, y: int, x: int, channel: int) -> int:
    """0 or 1 if that is the pixel's local binary pattern (8 neighbours, radius 1), 2 for any other code."""
    centre = np.int64(image[y, x, channel])
    up = _sample(image, y - 1, x, channel)
    if up >= centre:
        return 2
    left = _sample(image, y, x - 1, channel)
    if left >= centre:
        return 2
    down = _sample(image, y + 1, x, channel)
    if down >= centre:
        return 2
    right = _sample(image, y, x + 1, channel)
    if (
        _diagonal_reaches(image, y, x, channel, -1, 1, up + right, centre)
        or _diagonal_reaches(image, y, x, channel, -1, -1, up + left, centre)
        or _diagonal_reaches(image, y, x, channel, 1, -1, down + left, centre)
        or _diagonal_reaches(image, y, x, channel, 1, 1, down + right, centre)
    ):
        return 2
    return 1 if right >= centre else 0


@exact_jit
def _may_count(image: np.ndarray, y: int, channel: int, out: np.ndarray) -> None:
    """Whether pixels of a row exceed their upper, lower and left neighbours, as codes 0 and 1 need. out (w,) uint8."""
    height, width, _ = image.shape
    for x in range(1, width):
        out[x] = image[y, x - 1, channel] < image[y, x, channel]
    out[0] = image[y, 0, channel] > 0
    if y > 0:
        for x in range(width):
            out[x] &= np.uint8(image[y - 1, x, channel] < image[y, x, channel])
    if y + 1 < height:
        for x in range(width):
            out[x] &= np.uint8(image[y + 1, x, channel] < image[y, x, channel])


@exact_jit
def count_patterns(image: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> None:
    """Texture counts in the last six columns of ``counts``: codes 0 and 1 of each channel (a single one thrice)."""
    height, width, channels = image.shape
    candidate = np.empty(width, np.uint8)
    for channel in range(channels):
        for y in range(height):
            _may_count(image, y, channel, candidate)
            for x in range(width):
                if candidate[x]:
                    code = _pattern(image, y, x, channel)
                    if code < 2:
                        counts[labels[y, x], VALUE_BINS + 2 * channel + code] += 1
    if channels == 1:
        for copy in range(1, 3):
            for code in range(2):
                counts[:, VALUE_BINS + 2 * copy + code] = counts[:, VALUE_BINS + code]
