"""Object-sensitive random RoI cropping: one definition for training, export and inspection.

Source: PAD paper, section "MSIP"; reference code ``pre-training/mae/util/msip_dataset.py`` (``RandomRoiCrop``).
A crop is a box ``(x, y, width, height)`` in pixels of the stored image; what it looks like depends only on
(seed, epoch, sample, view), never on who draws it or in which order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Box: TypeAlias = tuple[int, int, int, int]

MIN_ROI_SIDE = 40
"""RoIs narrower or lower than this are not used (reference: 40 px)."""


def sample_key(image_id: str) -> int:
    """The 64-bit number that stands for one image in random draws.

    It comes from the image's name, so adding, dropping or reordering images leaves every other crop as it was.
    """
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little")


def sample_rng(seed: int, epoch: int, key: int, view: int = 0) -> np.random.Generator:
    """The generator of everything random about one view of one sample in one epoch.

    Args:
        seed: the run's seed, not negative.
        epoch: counted from 0.
        key: ``sample_key`` of the image.
        view: which of several crops of the same image in the same epoch.
    """
    # As SeedSequence([seed, epoch, key, view]), which takes longer to split the numbers into these words.
    words = [word for number in (seed, epoch, key, view) for word in _words(number)]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(np.array(words, np.uint32))))


def _words(number: int) -> tuple[int, ...]:
    """A number that is not negative in 32-bit words, lowest first."""
    low, rest = number & 0xFFFFFFFF, number >> 32
    return (low, *_words(rest)) if rest else (low,)


@dataclass(frozen=True)
class RoiCrop:
    """Object-sensitive random crop around a proposal, or a random resized crop where there is none.

    Attributes:
        size: side of the training crop, in pixels; the box is squashed to ``size`` x ``size`` (the reference does
            not keep the aspect ratio).
        p: probability that the crop may be of any size; with ``1 - p`` it must cover ``large_area`` of the image.
        min_side: smallest side of a crop around a RoI, in pixels.
        centre_jitter: the centre moves by up to this share of the RoI's side, in each direction.
        side_range: factors of the RoI's width and height, drawn independently.
        large_area: share of the image that a "large" crop must cover.
        tries: draws before falling back to the random resized crop.
        scale: share of the image covered by the random resized crop.
        ratio: its aspect ratio, width to height.
    """

    size: int = 224
    p: float = 0.85
    min_side: int = 60
    centre_jitter: float = 0.4
    side_range: tuple[float, float] = (0.7, 1.5)
    large_area: float = 0.15
    tries: int = 20
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def box(self, image_size: tuple[int, int], rois: NDArray[np.integer] | None, rng: np.random.Generator) -> Box:
        """Draw one crop.

        Args:
            image_size: (width, height) in pixels.
            rois: (n, >= 4) x, y, width, height in pixels; ``None`` or empty for none.
            rng: moved on by the draw.

        Returns:
            (x, y, width, height); inside the image.
        """
        if rois is not None and len(rois) > 0:
            large = rng.random() > self.p
            for _ in range(self.tries):
                which, *jitter = rng.random(5).tolist()
                box = self._around_roi(image_size, rois[int(which * len(rois))].tolist(), jitter)
                if box is not None and not (large and self._is_small(box, image_size)):
                    return box
        return self._random_resized(image_size, rng)

    def draw(
        self, image_size: tuple[int, int], rois: NDArray[np.integer] | None, rng: np.random.Generator
    ) -> tuple[Box, bool]:
        """What the trainer sees of one sample: a box, and whether the crop is mirrored (half of the time)."""
        return self.box(image_size, rois, rng), bool(rng.random() < 0.5)

    def views(
        self,
        image_id: str,
        image_size: tuple[int, int],
        rois: NDArray[np.integer] | None,
        *,
        seed: int,
        epoch: int,
        count: int,
    ) -> Iterator[tuple[Box, bool]]:
        """``count`` draws of one image in one epoch, see ``draw``; the first is the trainer's own sample."""
        for view in range(count):
            yield self.draw(image_size, rois, sample_rng(seed, epoch, sample_key(image_id), view))

    def _is_small(self, box: Box, image_size: tuple[int, int]) -> bool:
        return box[2] * box[3] / (image_size[0] * image_size[1]) < self.large_area

    def _around_roi(self, image_size: tuple[int, int], roi: Sequence[int], jitter: Sequence[float]) -> Box | None:
        """``jitter``: four numbers in [0, 1), for the centre and the side of x, then of y."""
        width, height = image_size
        x, y, w, h = roi[:4]
        if x < 0 or y < 0 or x + w > width or y + h > height or w < MIN_ROI_SIDE or h < MIN_ROI_SIDE:
            return None
        x_low, x_high = self._interval(x, w, width, *jitter[:2])
        y_low, y_high = self._interval(y, h, height, *jitter[2:])
        box = (x_low, y_low, x_high - x_low, y_high - y_low)
        return None if min(box[2], box[3]) < self.min_side else box

    def _interval(self, start: int, length: int, limit: int, move: float, grow: float) -> tuple[int, int]:
        """Jitter one axis; clamped to ``limit - 1`` as in the reference, which never reaches the last pixel."""
        centre = round(start + length / 2) + round(length * self.centre_jitter * (2 * move - 1))
        smallest, largest = self.side_range
        side = max(length * (smallest + (largest - smallest) * grow), self.min_side)
        return max(0, round(centre - side / 2)), min(round(centre + side / 2), limit - 1)

    def _random_resized(self, image_size: tuple[int, int], rng: np.random.Generator) -> Box:
        """torchvision's ``RandomResizedCrop.get_params``: ten tries, then the largest central crop in ``ratio``."""
        width, height = image_size
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            aspect = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                return int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1)), w, h
        w, h = width, height
        if width / height < self.ratio[0]:
            h = round(width / self.ratio[0])
        elif width / height > self.ratio[1]:
            w = round(height * self.ratio[1])
        return (width - w) // 2, (height - h) // 2, w, h


def cut(image: NDArray[np.uint8], box: Box, size: int, *, flip: bool = False) -> NDArray[np.uint8]:
    """The training crop: ``box`` squashed to a square, mirrored left to right if ``flip``.

    Antialiased bicubic with the pixels of the reference (``resized_crop`` on a PIL image), see ``msip.resize``.

    Args:
        image: (height, width) or (height, width, 3), uint8.
        box: x, y, width, height in pixels, inside the image.
        size: side of the result, in pixels.
        flip: mirror the crop.

    Returns:
        (size, size) or (size, size, 3), uint8, a new array.
    """
    from msip.resize import resize  # brings numba; drawing boxes needs none

    x, y, width, height = box
    crop = resize(image[y : y + height, x : x + width], (size, size))
    return np.ascontiguousarray(crop[:, ::-1]) if flip else crop
