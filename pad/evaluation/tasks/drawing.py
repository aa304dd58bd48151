"""Predictions over images: the truth above, what was predicted below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.pictures import encode_jpeg
from msip.sampling import evenly_spread
from pad.evaluation.sets.base import IGNORED, DetectionItem, Grey, SegmentationItem

SHOWN = 6
HEIGHT_PX = 240
MIN_SCORE = 0.3
"""Detections below this are not drawn."""
_CAPTION_PX = 22
Colour = NDArray[np.uint8]


def palette(count: int) -> NDArray[np.uint8]:
    """``count`` colours (BGR) that are easy to tell apart."""
    hues = (np.arange(count) * 180 * 0.618) % 180
    hsv = np.stack([hues, np.full(count, 200), np.full(count, 255)], 1).astype(np.uint8)
    return np.asarray(cv2.cvtColor(hsv[None], cv2.COLOR_HSV2BGR)[0], np.uint8)


def _chosen(items: Sequence[Any], size: Any) -> list[int]:
    """Some test images, evenly spaced among those that show something."""
    full = [index for index, item in enumerate(items) if size(item)] or list(range(len(items)))
    return [full[place] for place in evenly_spread(len(full), SHOWN)]


def draw_masks(items: Sequence[SegmentationItem], predictions: Sequence[Grey], classes: tuple[str, ...]) -> bytes:
    """JPEG: classes other than the first coloured over each image; ignored pixels stay grey."""
    colours = palette(len(classes))

    def paint(image: Grey, mask: Grey) -> Colour:
        canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        shown = (mask > 0) & (mask != IGNORED)
        canvas[shown] = (0.45 * canvas[shown] + 0.55 * colours[mask[shown]]).astype(np.uint8)
        return np.asarray(canvas, np.uint8)

    columns = [
        (paint(items[i].image, items[i].mask), paint(items[i].image, predictions[i]))
        for i in _chosen(items, lambda item: (item.mask > 0).any())
    ]
    return _sheet(columns, dict(zip(classes[1:], colours[1:], strict=True)))


def draw_detections(
    items: Sequence[DetectionItem], found: Sequence[dict[str, NDArray[Any]]], classes: tuple[str, ...]
) -> bytes:
    """JPEG: boxes by class; of the detections those with a score of at least 0.3."""
    colours = palette(len(classes))

    def paint(image: Grey, boxes: NDArray[Any], labels: NDArray[Any]) -> Colour:
        canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        width = max(1, round(image.shape[0] / HEIGHT_PX))
        for (x1, y1, x2, y2), label in zip(np.round(boxes).astype(int).tolist(), labels, strict=True):
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colours[label].tolist(), width)
        return np.asarray(canvas, np.uint8)

    columns = []
    for i in _chosen(items, lambda item: len(item.boxes)):
        sure = found[i]["scores"] >= MIN_SCORE
        columns.append(
            (
                paint(items[i].image, items[i].boxes, items[i].labels),
                paint(items[i].image, found[i]["boxes"][sure], found[i]["labels"][sure]),
            )
        )
    return _sheet(columns, dict(zip(classes, colours, strict=True)))


def _sheet(columns: list[tuple[Colour, Colour]], key: dict[str, Colour]) -> bytes:
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
