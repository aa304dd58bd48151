"""What training images become: crops, mirrored and with other brightness, on uint8, one draw an image and epoch.

A crop is cut from the original and resized once, which gives what resizing the whole image and cropping it gives.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from pad.data.grey import INFRARED_MEAN
from pad.evaluation.sets.base import IGNORED, DetectionItem, Grey, SegmentationItem

PADDING = round(INFRARED_MEAN * 255)
"""Grey value around images that do not fill the input: about 0 once normalised."""
SCALES = (0.5, 2.0)
MAX_ONE_CLASS = 0.75
LONGEST = 4
"""A resized image is at most so many times as long as the input (2048 for 512 in the reference)."""
JITTER_SCALES = (0.1, 2.0)
MIN_BOX_PX = 1.0


def fitted_scale(shape: tuple[int, ...], size: int) -> float:
    """Factor that makes the short side ``size``, unless the long one would exceed four times that."""
    return min(size / min(shape[:2]), LONGEST * size / max(shape[:2]))


def segmentation_view(item: SegmentationItem, size: int, rng: np.random.Generator) -> tuple[Grey, Grey]:
    """A training crop and its mask, both (size, size) uint8: mmsegmentation's pipeline as the reference uses it.

    Resized by 0.5 to 2 times what makes the short side ``size``; cropped, ten tries, until no class fills more than
    75 %; mirrored half of the time; brightness and contrast changed; what is missing is ignored.
    """
    scale = fitted_scale(item.image.shape, size) * rng.uniform(*SCALES)
    box = _crop_box(item.image.shape, size / scale, rng)
    for _ in range(9):
        if not _one_class_fills(_cut(item.mask, box)):
            break
        box = _crop_box(item.image.shape, size / scale, rng)
    image = _placed(_cut(item.image, box), scale, size, PADDING)
    mask = _placed(_cut(item.mask, box), scale, size, IGNORED, cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return photometric(np.ascontiguousarray(image), rng), np.ascontiguousarray(mask)


Window = tuple[int, int, int, int]
"""top, bottom, left, right, in pixels."""


def _crop_box(shape: tuple[int, ...], side: float, rng: np.random.Generator) -> Window:
    """A square window of the original, cut off where it is larger than the image."""
    height, width = shape[:2]
    rows, columns = min(height, max(1, round(side))), min(width, max(1, round(side)))
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    return top, top + rows, left, left + columns


def _cut(image: Grey, box: Window) -> Grey:
    return image[box[0] : box[1], box[2] : box[3]]


def _one_class_fills(mask: Grey) -> bool:
    counts = np.bincount(mask[:: max(1, mask.shape[0] // 64), :: max(1, mask.shape[1] // 64)].ravel(), minlength=256)
    counts[IGNORED] = 0
    return bool(np.count_nonzero(counts) < 2 or counts.max() >= MAX_ONE_CLASS * counts.sum())


def _placed(image: Grey, scale: float, size: int, padding: int, interpolation: int | None = None) -> Grey:
    """``image`` resized by ``scale`` in the upper left corner of a ``size`` x ``size`` square."""
    height, width = (min(size, max(1, round(side * scale))) for side in image.shape)
    if interpolation is None:
        interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=interpolation)
    if resized.shape == (size, size):
        return np.asarray(resized, np.uint8)
    square = np.full((size, size), padding, np.uint8)
    square[:height, :width] = resized
    return square


def photometric(image: Grey, rng: np.random.Generator) -> Grey:
    """Brightness by up to 32, contrast by 0.5 to 1.5, each half of the time, in either order: what of
    mmsegmentation's distortion a grey image can show."""
    shift = rng.uniform(-32, 32) if rng.random() < 0.5 else 0.0
    gain = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    first = rng.random() < 0.5
    levels = np.arange(256, dtype=np.float32)
    table = (levels * gain + shift) if first else (levels + shift) * gain
    return np.asarray(cv2.LUT(image, table.clip(0, 255).astype(np.uint8)), np.uint8)


Boxes = NDArray[np.float32]


def detection_view(item: DetectionItem, size: int, rng: np.random.Generator) -> tuple[Grey, Boxes, NDArray[np.int64]]:
    """A training image (size, size) with boxes and labels: large-scale jitter 0.1 to 2 and mirroring, as ViTDet.

    Crowd boxes are no targets. Boxes are clipped to what is seen; below a pixel they are left out.
    """
    scale = size / max(item.image.shape) * rng.uniform(*JITTER_SCALES)
    top, bottom, left, right = _crop_box(item.image.shape, size / scale, rng)
    image = _placed(item.image[top:bottom, left:right], scale, size, PADDING)
    boxes = (item.boxes - np.array([left, top, left, top], np.float32)) * np.float32(scale)
    limit = np.array([(right - left) * scale, (bottom - top) * scale] * 2, np.float32).clip(max=size)
    boxes = boxes.clip(0, limit)
    if rng.random() < 0.5:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = np.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], 1)
    seen = ((boxes[:, 2:] - boxes[:, :2]) >= MIN_BOX_PX).all(1) & ~item.crowd
    return image, boxes[seen].astype(np.float32), item.labels[seen]


def whole_view(image: Grey, size: int) -> tuple[Grey, float]:
    """The image with its long side made ``size``, in the upper left corner of a square, and the factor."""
    scale = size / max(image.shape)
    return _placed(image, scale, size, PADDING), scale


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Where sliding windows of ``size`` begin along one axis; the last one ends at the image's end."""
    count = max(0, math.ceil((length - size) / stride)) + 1
    return [min(step * stride, max(0, length - size)) for step in range(count)]
