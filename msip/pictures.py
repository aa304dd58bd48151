"""Pictures for people: boxes over an image, many images on one sheet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

_BACKGROUND = 24
_COLOURS = ((80, 220, 255), (120, 255, 120), (255, 180, 80), (200, 120, 255), (90, 120, 255))  # BGR, told apart on grey


def draw_boxes(image: NDArray[np.uint8], boxes: Iterable[Sequence[int]], *, thickness: int = 2) -> NDArray[np.uint8]:
    """Boxes (x, y, width, height in pixels) over a copy of a grey or BGR image; returns (h, w, 3) BGR."""
    canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy()
    for number, (x, y, width, height, *_) in enumerate(boxes):
        corners = (int(x), int(y)), (int(x + width), int(y + height))
        cv2.rectangle(canvas, *corners, _COLOURS[number % len(_COLOURS)], thickness)
    return np.asarray(canvas, np.uint8)


def contact_sheet(
    images: Sequence[NDArray[np.uint8]], *, columns: int = 8, cell: int = 160, gap: int = 4
) -> NDArray[np.uint8]:
    """Images side by side, each fitted into a square cell without distortion.

    Args:
        images: grey (h, w) or BGR (h, w, 3), any sizes; at least one.
        columns: images a row.
        cell, gap: pixels.

    Returns:
        (rows * (cell + gap) + gap, columns * (cell + gap) + gap, 3) BGR.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    step = cell + gap
    sheet = np.full((rows * step + gap, columns * step + gap, 3), _BACKGROUND, np.uint8)
    for number, image in enumerate(images):
        fitted = _fit(image, cell)
        top = gap + (number // columns) * step + (cell - fitted.shape[0]) // 2
        left = gap + (number % columns) * step + (cell - fitted.shape[1]) // 2
        sheet[top : top + fitted.shape[0], left : left + fitted.shape[1]] = fitted
    return sheet


def _fit(image: NDArray[np.uint8], cell: int) -> NDArray[np.uint8]:
    if image.ndim == 2:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    scale = cell / max(image.shape[:2])
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), np.uint8)


def encode_png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG bytes of a grey or BGR image, 8 or 16 bits a channel."""
    return cv2.imencode(".png", image)[1].tobytes()


def encode_jpeg(image: NDArray[np.uint8], quality: int) -> bytes:
    """JPEG bytes of a grey or BGR image; ``quality`` 1 to 100."""
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
