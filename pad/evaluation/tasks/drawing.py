"""Predictions over images: the truth above, what was predicted below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.pictures import encode_jpeg
from msip.sampling import evenly_spread

SHOWN = 6
HEIGHT_PX = 240
_CAPTION_PX = 22
Colour = NDArray[np.uint8]


def palette(count: int) -> NDArray[np.uint8]:
    """``count`` colours (BGR) that are easy to tell apart."""
    hues = (np.arange(count) * 180 * 0.618) % 180
    hsv = np.stack([hues, np.full(count, 200), np.full(count, 255)], 1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0], np.uint8)


def chosen(items: Sequence[Any], size: Any) -> list[int]:
    """Some test images, evenly spaced among those that show something."""
    full = [index for index, item in enumerate(items) if size(item)] or list(range(len(items)))
    return [full[place] for place in evenly_spread(len(full), SHOWN)]


def sheet(columns: list[tuple[Colour, Colour]], key: dict[str, Colour]) -> bytes:
    """Columns of equal height side by side, a caption above each row, and which colour is which class below."""
    rows = []
    for row, title in enumerate(("truth", "predicted")):
        cells = []
        for pair in columns:
            height, width = pair[row].shape[:2]
            size = (max(1, round(width * HEIGHT_PX / height)), HEIGHT_PX)
            interpolation = cv2.INTER_AREA if height > HEIGHT_PX else cv2.INTER_LINEAR
            cells.append(
                cv2.copyMakeBorder(
                    cv2.resize(pair[row], size, interpolation=interpolation), 0, 0, 0, 4, 0, value=(255,) * 3
                )
            )
        strip = np.concatenate(cells, 1)
        caption = _line(strip.shape[1])
        _write(caption, title, 4)
        rows += [caption, strip]
    rows += _key(key, rows[0].shape[1])
    return encode_jpeg(np.concatenate(rows), 90)


def _line(width: int) -> Colour:
    return np.full((_CAPTION_PX, width, 3), 255, np.uint8)


def _write(line: Colour, text: str, left: int) -> None:
    cv2.putText(line, text, (left, _CAPTION_PX - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)


def _key(colours: dict[str, Colour], width: int) -> list[Colour]:
    """Lines of names, a square of its colour before each."""
    lines: list[Colour] = []
    left = width
    for name, colour in colours.items():
        needed = 2 * _CAPTION_PX + cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)[0][0]
        if left + needed > width or not lines:
            lines.append(_line(width))
            left = 4
        cv2.rectangle(lines[-1], (left, 5), (left + 12, 17), colour.tolist(), -1)
        _write(lines[-1], name, left + 18)
        left += needed
    return lines
