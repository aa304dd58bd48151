"""Gaussian smoothing of 8-bit images in float64, bit for bit what ``scipy.ndimage.gaussian_filter`` gives."""

from __future__ import annotations

import numpy as np

from msip.jit import exact_jit

TRUNCATE = 4.0  # scipy's default: the kernel ends at four standard deviations


def gaussian_half_kernel(sigma: float) -> np.ndarray:
    """Weights at distance 0, 1, ... radius, normalised over the whole symmetric kernel (float64)."""
    if sigma <= 1e-15:  # scipy leaves such an axis alone
        return np.ones(1)
    radius = int(TRUNCATE * sigma + 0.5)
    positions = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * positions**2)
    weights /= weights.sum()
    return np.ascontiguousarray(weights[radius:])


@exact_jit
def _reflect(index: int, length: int) -> int:
    """Index into a row extended by mirroring with the edge sample repeated (d c b a | a b c d | d c b a)."""
    period = 2 * length
    folded = index % period
    return folded if folded < length else period - 1 - folded


@exact_jit
def _smooth_down_column(source: np.ndarray, y: int, half_kernel: np.ndarray, out: np.ndarray) -> None:
    """Row ``y`` of the column-wise convolution. source (h, w) float64, out (w,)."""
    height, width = source.shape
    centre = source[y]
    weight = half_kernel[0]
    for x in range(width):
        out[x] = centre[x] * weight
    for distance in range(half_kernel.size - 1, 0, -1):  # from the far samples inwards: the order fixes the rounding
        above = source[_reflect(y - distance, height)]
        below = source[_reflect(y + distance, height)]
        weight = half_kernel[distance]
        for x in range(width):
            out[x] += (above[x] + below[x]) * weight


@exact_jit
def _smooth_along_row(padded: np.ndarray, half_kernel: np.ndarray, out: np.ndarray) -> None:
    """One row; ``padded`` holds the row at offset ``radius`` with room for the mirrored ends. out (w,)."""
    radius = half_kernel.size - 1
    width = out.size
    for x in range(radius):
        padded[x] = padded[radius + _reflect(x - radius, width)]
        padded[radius + width + x] = padded[radius + _reflect(width + x, width)]
    weight = half_kernel[0]
    centre = padded[radius : radius + width]
    for x in range(width):
        out[x] = centre[x] * weight
    for distance in range(radius, 0, -1):
        left = padded[radius - distance : radius - distance + width]
        right = padded[radius + distance : radius + distance + width]
        weight = half_kernel[distance]
        for x in range(width):
            out[x] += (left[x] + right[x]) * weight


@exact_jit
def smooth(image: np.ndarray, half_kernel: np.ndarray, scratch: np.ndarray, out: np.ndarray) -> None:
    """Smooth every channel of an 8-bit image scaled to 0..1: columns first, then rows, edges mirrored.

    image (h, w, c) uint8; scratch (h, w) float64; out (c, h * w) float64. The scaling multiplies by 1/255, as
    ``skimage.util.img_as_float`` does (a division rounds differently).
    """
    height, width, channels = image.shape
    radius = half_kernel.size - 1
    padded = np.empty(width + 2 * radius)
    for channel in range(channels):
        for y in range(height):
            for x in range(width):
                scratch[y, x] = np.float64(image[y, x, channel]) * (1.0 / 255.0)
        for y in range(height):
            _smooth_down_column(scratch, y, half_kernel, padded[radius : radius + width])
            _smooth_along_row(padded, half_kernel, out[channel, y * width : (y + 1) * width])
