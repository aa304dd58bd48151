"""Images and RoIs of a manifest to samples: the same sample whoever draws it.

The crop, the flip and a method's random inputs (masks) of one sample are a function of (seed, epoch, image), and the
order of an epoch is a function of (seed, epoch). So neither the number of workers or ranks, nor a restart, changes
what a model sees. Images travel as one-channel uint8 and are normalised on the device.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from msip.crops import RoiCrop, cut, sample_key, sample_rng
from msip.storage import Storage
from pad.data.index import ImageIndex
from pad.data.views import InputSampler, MultiCrop

SampleKey: TypeAlias = tuple[int, int]
"""(epoch, row of the index): what the sampler asks the dataset for; it tells persistent workers the epoch."""


REPLACEMENT_VIEW = 1 << 20
"""``view`` of the draw that replaces an unreadable image; far from the numbers of true views."""

REPLACEMENTS = 20
"""Images tried for one place of a batch before giving up."""


class PretrainDataset(Dataset[dict[str, Any]]):
    """Crops of a manifest's images.

    Args:
        index: the images, see ``ImageIndex``.
        root: the folder or URL that the index's paths are relative to.
        seed: of every draw.
        crop: how a box is drawn; its ``size`` is the side of the crops, in pixels.
        sampler: the method's random inputs of one sample, if it has any.
        views: how the image becomes several views; one crop if None.
    """

    def __init__(
        self,
        index: ImageIndex,
        root: str | Path,
        *,
        seed: int,
        crop: RoiCrop,
        sampler: InputSampler | None = None,
        views: MultiCrop | None = None,
    ) -> None:
        self.index, self.seed, self.crop, self.sampler = index, seed, crop, sampler
        self.storage, self.views = Storage(root, index.layout), views

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """One sample of one epoch.

        Returns:
            ``image`` uint8 (1, size, size); ``row`` asked for; ``used``: the row read, another one if the image could
            not be read, -1 if none could; ``inputs``: the method's.
        """
        epoch, row = key
        number = sample_key(self.index.image_id(row))
        used, image = self._read(epoch, row, number)
        rng = sample_rng(self.seed, epoch, number)
        if self.views:
            image = np.zeros((1, 1), np.uint8) if image is None else image
            inputs = self.views(image, self.index.rois(used if used >= 0 else row), self.crop, rng)
            return {"row": row, "used": used, "inputs": inputs}
        pixels = np.zeros((self.crop.size, self.crop.size), np.uint8) if image is None else self._crop(image, used, rng)
        inputs = self.sampler(rng) if self.sampler else {}
        return {"image": pixels[None], "row": row, "used": used, "inputs": inputs}

    def _read(self, epoch: int, row: int, number: int) -> tuple[int, NDArray[np.uint8] | None]:
        for attempt in range(REPLACEMENTS):
            image = self.index.read_grey(row, self.storage)
            if image is not None:
                return row, image
            row = int(sample_rng(self.seed, epoch, number, REPLACEMENT_VIEW + attempt).integers(len(self)))
        return -1, None

    def _crop(self, image: NDArray[np.uint8], row: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        box, flip = self.crop.draw((image.shape[1], image.shape[0]), self.index.rois(row), rng)
        return cut(image, box, self.crop.size, flip=flip)
