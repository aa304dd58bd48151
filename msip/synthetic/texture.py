"""Noise that looks like surfaces: a few octaves of smooth random grids."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray


def clouds(
    rng: np.random.Generator, height: int, width: int, *, cell: float, octaves: int = 3, stretch: float = 1.0
) -> NDArray[np.float32]:
    """Smooth noise (height, width) of mean 0 and deviation 1; the largest lumps are ``cell`` px high and
    ``cell * stretch`` px wide, each further octave half as large and half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        lump = max(cell / 2**octave, 1.0)
        rows, columns = int(height / lump) + 3, int(width / (lump * stretch)) + 3
        grid = rng.standard_normal((rows, columns), dtype=np.float32)
        size = max(round(columns * lump * stretch), width), max(round(rows * lump), height)
        total += cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC)[:height, :width] / 2**octave
    return (total - total.mean()) / (total.std() + np.float32(1e-6))


def ramp(height: int, width: int, top: float, bottom: float) -> NDArray[np.float32]:
    """A vertical gradient (height, width) from ``top`` to ``bottom``."""
    return np.repeat(np.linspace(top, bottom, height, dtype=np.float32)[:, None], width, axis=1)
