"""Several views of one image for self-distillation: all drawn inside one object-sensitive RoI crop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.crops import Box, RoiCrop, cut

SMALLEST_SHARE = 0.25
"""Of the image that views are drawn in; a smaller RoI crop is grown about its centre, for what surrounds the object."""


@dataclass(frozen=True)
class MultiCrop:
    """Two global views and some local ones, grey, with iBOT's augmentations as far as grey images have them.

    A RoI crop is drawn first and the views inside it, so that they show the same object: in images of many small
    things, crops drawn anywhere would share nothing. Brightness, contrast, blur and solarisation (which on infrared
    images is what a change of polarity does to bright parts) are those of bytedance/ibot ``DataAugmentationiBOT``.

    Attributes:
        grid: (rows, columns) of the global views' patches, for their masks.
        local_crops, local_size: number and side in pixels of the local views.
        mask_ratio: mean share of hidden patches in the views that have any, plus or minus 0.2; half have none.
        global_scale, local_scale: share of the RoI crop that a view covers.
    """

    grid: tuple[int, int]
    local_crops: int = 10
    local_size: int = 96
    mask_ratio: float = 0.3
    global_scale: tuple[float, float] = (0.25, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.25)

    def __call__(
        self, image: NDArray[np.uint8], rois: NDArray[np.int32], crop: RoiCrop, rng: np.random.Generator
    ) -> dict[str, NDArray[Any]]:
        """``global_views`` uint8 (2, 1, size, size), ``local_views`` likewise, ``masks`` float32 (2, patches)."""
        size = (image.shape[1], image.shape[0])
        x, y, width, height = grown(crop.box(size, rois, rng), size, SMALLEST_SHARE)
        part = image[y : y + height, x : x + width]
        large, small = replace(crop, scale=self.global_scale), replace(crop, scale=self.local_scale)
        blurs, solarised = (1.0, 0.1), (0.0, 0.2)
        views = [self._view(part, large, crop.size, b, s, rng) for b, s in zip(blurs, solarised, strict=True)]
        made = {"global_views": np.stack(views)[:, None]}
        if self.local_crops:
            local = [self._view(part, small, self.local_size, 0.5, 0.0, rng) for _ in range(self.local_crops)]
            made["local_views"] = np.stack(local)[:, None]
        return {**made, "masks": np.stack([self._mask(rng) for _ in views])}

    @staticmethod
    def _view(
        part: NDArray[np.uint8], crop: RoiCrop, size: int, blur: float, solarise: float, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        box, flip = crop.draw((part.shape[1], part.shape[0]), None, rng)
        return augmented(cut(part, box, size, flip=flip), blur, solarise, rng)

    def _mask(self, rng: np.random.Generator) -> NDArray[np.float32]:
        if rng.random() < 0.5:
            return np.zeros(self.grid[0] * self.grid[1], np.float32)
        ratio = rng.uniform(max(0.0, self.mask_ratio - 0.2), min(0.9, self.mask_ratio + 0.2))
        return block_mask(self.grid, ratio, rng).reshape(-1)


def grown(box: Box, size: tuple[int, int], share: float) -> Box:
    """``box`` grown about its centre, in an image of ``size`` (width, height), to ``share`` of its area or more."""
    factor = max(1.0, (share * size[0] * size[1] / max(1, box[2] * box[3])) ** 0.5)
    sides = [min(limit, round(side * factor)) for side, limit in zip(box[2:], size, strict=True)]
    starts = [
        min(max(0, start + side // 2 - new // 2), limit - new)
        for start, side, new, limit in zip(box[:2], box[2:], sides, size, strict=True)
    ]
    return starts[0], starts[1], sides[0], sides[1]


def augmented(view: NDArray[np.uint8], blur: float, solarise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Brightness and contrast by up to 0.4 (four times of five), blur and solarisation with these probabilities."""
    pixels = view.astype(np.float32)
    if rng.random() < 0.8:
        pixels = np.clip(pixels * rng.uniform(0.6, 1.4), 0, 255)
        pixels = np.clip(pixels.mean() + (pixels - pixels.mean()) * rng.uniform(0.6, 1.4), 0, 255)
    if rng.random() < blur:
        pixels = np.asarray(cv2.GaussianBlur(np.ascontiguousarray(pixels), (0, 0), rng.uniform(0.1, 2.0)))
    if rng.random() < solarise:
        pixels = np.where(pixels >= 128, 255 - pixels, pixels)
    return np.round(pixels).astype(np.uint8)


def block_mask(grid: tuple[int, int], ratio: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(rows, columns), 1 = hidden: rectangles of random shape until ``ratio`` is hidden (BEiT, arXiv 2106.08254)."""
    mask, wanted = np.zeros(grid, np.float32), int(ratio * grid[0] * grid[1])
    for _ in range(10 * wanted):
        left = wanted - int(mask.sum())
        if left <= 0:
            break
        area, aspect = rng.uniform(1, max(left, 1)), np.exp(rng.uniform(np.log(0.3), -np.log(0.3)))
        rows, columns = (
            min(n, max(1, round(s))) for n, s in zip(grid, np.sqrt([area * aspect, area / aspect]), strict=True)
        )
        top, start = rng.integers(grid[0] - rows + 1), rng.integers(grid[1] - columns + 1)
        block = mask[top : top + rows, start : start + columns]
        if block.size - block.sum() <= left:
            block[:] = 1
    return mask


InputSampler: TypeAlias = Callable[[np.random.Generator], dict[str, NDArray[Any]]]
"""Draws what one sample needs besides its image; picklable, because loader workers call it."""
