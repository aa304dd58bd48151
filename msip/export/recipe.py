"""Which crops of an image are exported, and what each looks like; follows from the manifest alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from msip.crops import Box, RoiCrop, cut

Mode = Literal["rois", "training"]
Annotation: TypeAlias = tuple[float, float, float, float, float]
"""x, y, width, height, area in pixels of the crop."""

MIN_VISIBLE = 0.5
"""Share of a proposal that must lie inside a training crop for the crop to be annotated with it."""


@dataclass(frozen=True)
class Crop:
    """One crop of one image.

    Attributes:
        view: number of the crop among those of its image.
        box: x, y, width, height in pixels of the stored image.
        boxes: the proposals in it, in pixels of the crop.
        roi: the proposal that was cut out: x, y, width, height, area in pixels of the stored image.
        side: the crop is squashed to ``side`` x ``side`` pixels; cut out as it is if ``None``.
        flip: mirrored left to right.
    """

    view: int
    box: Box
    boxes: list[Annotation]
    roi: tuple[int, ...] | None = None
    side: int | None = None
    flip: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the crop's pixels."""
        return (self.side, self.side) if self.side else (self.box[2], self.box[3])

    @property
    def steps(self) -> str:
        """What was done to the stored image, in the words of the manifest's ``transform``."""
        x, y, width, height = self.box
        squashed = [f"bicubic {self.side}x{self.side}"] if self.side else []
        return "; ".join([f"crop {width}x{height} at {x},{y}", *squashed, *(["flip"] if self.flip else [])])

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The crop of the stored image."""
        if self.side:
            return cut(image, self.box, self.side, flip=self.flip)
        x, y, width, height = self.box
        return image[y : y + height, x : x + width]


@dataclass(frozen=True)
class CropRecipe:
    """How crops are chosen.

    Attributes:
        mode: ``rois``: each proposal at its own size, largest first; ``training``: what the trainer draws for (seed,
            epoch), squashed and mirrored as there; view 0 is the very sample of that epoch.
        per_image: at most this many proposals (``None``: all), or this many training views (``None``: one).
        padding: pixels of surroundings on each side of a proposal, as far as the image goes.
        min_size: proposals with a shorter side below this many pixels are left out; padding does not count.
        seed, epoch: of the training draws.
        crop: the training crop.
    """

    mode: Mode = "rois"
    per_image: int | None = None
    padding: int = 0
    min_size: int = 1
    seed: int = 0
    epoch: int = 0
    crop: RoiCrop = field(default_factory=RoiCrop)

    def crops(self, image_id: str, image_size: tuple[int, int], rois: NDArray[np.int32]) -> Iterator[Crop]:
        """The crops of one image of (width, height) pixels; ``rois`` int32 (n, 5) as ``Manifest.rois``."""
        return self._proposals(image_size, rois) if self.mode == "rois" else self._views(image_id, image_size, rois)

    def _proposals(self, image_size: tuple[int, int], rois: NDArray[np.int32]) -> Iterator[Crop]:
        rois = rois[rois[:, 2:4].min(axis=1) >= self.min_size]
        largest_first = np.argsort(-(rois[:, 2].astype(np.int64) * rois[:, 3]), kind="stable")[: self.per_image]
        for view, roi in enumerate(rois[largest_first].tolist()):
            x, y, width, height, area = roi
            left, top = max(0, x - self.padding), max(0, y - self.padding)
            right, bottom = (
                min(limit, start + length + self.padding)
                for limit, start, length in zip(image_size, (x, y), (width, height), strict=True)
            )
            inside = (float(x - left), float(y - top), float(width), float(height), float(area))
            yield Crop(view, (left, top, right - left, bottom - top), [inside], roi=tuple(roi))

    def _views(self, image_id: str, image_size: tuple[int, int], rois: NDArray[np.int32]) -> Iterator[Crop]:
        count = self.per_image or 1
        drawn = self.crop.views(image_id, image_size, rois, seed=self.seed, epoch=self.epoch, count=count)
        for view, (box, flip) in enumerate(drawn):
            boxes = [tuple(row) for row in boxes_in_crop(rois, box, self.crop.size, flip=flip).tolist()]
            yield Crop(view, box, boxes, side=self.crop.size, flip=flip)


def boxes_in_crop(rois: NDArray[np.int32], box: Box, side: int, *, flip: bool) -> NDArray[np.float64]:
    """The proposals of which at least ``MIN_VISIBLE`` is inside the crop, clipped, in the crop's pixels.

    Args:
        rois: (n, >= 4) x, y, width, height in pixels of the image.
        box: the crop in pixels of the image, which is squashed to ``side`` x ``side``.
        flip: the crop is mirrored.

    Returns:
        (m, 5) x, y, width, height, area (width x height), rounded to hundredths of a pixel.
    """
    start, length = np.array(box[:2]), np.array(box[2:])
    low = np.clip(rois[:, :2] - start, 0, length)
    high = np.clip(rois[:, :2] + rois[:, 2:4] - start, 0, length)
    visible = (high - low).prod(axis=1) >= MIN_VISIBLE * np.maximum(rois[:, 2:4].prod(axis=1, dtype=np.int64), 1)
    low, high = low[visible] * (side / length), high[visible] * (side / length)
    if flip:
        low[:, 0], high[:, 0] = side - high[:, 0], side - low[:, 0]
    sides = high - low
    return np.concatenate([low, sides, sides.prod(axis=1, keepdims=True)], axis=1).round(2)
