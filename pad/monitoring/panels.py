"""Reconstruction panels: the same samples under the same masks through a whole run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msip.errors import RunError
from pad.data.dataset import PretrainDataset
from pad.data.grey import denormalise, to_device
from pad.data.loader import epoch_order

PANEL_SAMPLES = 8

GAP_PX = 4


class Panels:
    """The same samples under the same masks through the run: input | masked | reconstruction, one row a sample.

    ``seconds_per_image``: what reading one of them took, in this process.
    """

    def __init__(self, dataset: PretrainDataset, in_chans: int) -> None:
        """Raises ``RunError`` if none of the samples can be read."""
        rows = epoch_order(len(dataset), dataset.seed, 0)[:PANEL_SAMPLES]
        samples, seconds = [], []
        for row in rows:
            begin = time.perf_counter()
            sample = dataset[0, int(row)]
            seconds.append(time.perf_counter() - begin)
            samples += [sample] if sample["used"] >= 0 else []
        self.seconds_per_image = float(np.median(seconds))  # the first ones open and compile what reading needs
        if not samples:
            raise RunError(
                f"none of {len(rows)} images tried under {dataset.storage.root} can be read; run `msip verify` on it."
            )
        self._batch = torch.utils.data.default_collate(samples)
        self._in_chans = in_chans

    def images(self, device: torch.device) -> Tensor:
        """The samples, normalised, (n, c, h, w); the first view where there are several."""
        batch = to_device(self._batch, device, self._in_chans)
        return batch["images"] if "images" in batch else batch["global_views"][:, 0]

    @torch.no_grad()
    def draw(self, method: Any, device: torch.device) -> NDArray[np.uint8] | None:
        """The panel as uint8 (h, w), or ``None`` for a method that reconstructs nothing."""
        training = method.training
        method.eval()
        try:
            if not method.paints:
                return None
            inputs = method.arguments(to_device(self._batch, device, self._in_chans))
            columns = method.panel(inputs["images"], method(**inputs))
        finally:
            method.train(training)
        return None if columns is None else arrange(columns)


def arrange(columns: tuple[Tensor, ...]) -> NDArray[np.uint8]:
    """Tensors (n, c, h, w) in normalised image space, side by side; n rows. Returns uint8 (rows, columns)."""
    grey = [denormalise(column) for column in columns]
    padded = [np.pad(column, ((0, 0), (0, GAP_PX), (0, GAP_PX)), constant_values=255) for column in grey]
    rows = np.concatenate(padded, axis=2)  # (n, h + gap, columns * (w + gap))
    picture: NDArray[np.uint8] = rows.reshape(-1, rows.shape[-1])[:-GAP_PX, :-GAP_PX]
    return np.ascontiguousarray(picture)
