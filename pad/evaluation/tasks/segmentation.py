"""Segmentation: fine-tune a UPerNet on an encoder, predict by sliding windows, count pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from msip.errors import EvaluationError
from pad.data.grey import normalise
from pad.encoders.tokens import grid_size, in_chans
from pad.evaluation.sets.base import Grey, SegmentationData, SegmentationItem
from pad.evaluation.tasks.augment import PADDING, fitted_scale, segmentation_view, window_starts
from pad.evaluation.tasks.encoder import Mode, prepare_encoder
from pad.evaluation.tasks.evidence import Areas
from pad.evaluation.tasks.fitting import Cost, Recipe, batches, fit
from pad.evaluation.tasks.heads import SegmentationModel

STRIDE = 341 / 512
"""Step of the sliding window, in sides of the input; 341 of 512 px in the reference."""
WINDOWS = 16
"""Windows of one forward pass."""


def run_segmentation(
    data: SegmentationData,
    train: tuple[SegmentationItem, ...],
    weights: str,
    mode: Mode,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    threads: int,
    label: str,
) -> tuple[Areas, Cost, list[Grey]]:
    """Train on ``train``, predict the test images: areas, what it cost, and the predictions (h, w)."""
    if recipe.batch_size < 2:
        raise EvaluationError("--batch-size is 1; UPerNet's batch normalisation needs at least 2.")
    encoder = prepare_encoder(weights, mode, image_size=recipe.image_size, drop_path=recipe.drop_path, seed=seed)
    if min(grid_size(encoder)) < 2:
        raise EvaluationError(f"--image-size is {recipe.image_size}, one patch; UPerNet needs at least two a side.")
    channels = in_chans(encoder)
    torch.manual_seed(seed)
    model = SegmentationModel(encoder, len(data.classes), recipe.decoder_channels).to(device)
    steps = recipe.steps_for(len(train))

    def draw(item: SegmentationItem, rng: np.random.Generator) -> tuple[Grey, Grey]:
        return segmentation_view(item, recipe.image_size, rng)

    def loss_of(batch: tuple[Tensor, Tensor]) -> Tensor:
        images, masks = (part.to(device, non_blocking=True) for part in batch)
        return model.loss(normalise(images, channels), masks)

    stream = batches(train, draw, _collate, batch_size=recipe.batch_size, steps=steps, seed=seed, threads=threads)
    cost = fit(model, stream, loss_of, recipe, steps=steps, seed=seed, label=label)
    with recipe.autocast(device):
        predictions = [predict(model.eval(), item.image, recipe.image_size, channels) for item in data.test]
    masks = [torch.from_numpy(item.mask) for item in data.test]
    return Areas.of([torch.from_numpy(p) for p in predictions], masks, data.classes), cost, predictions


def _collate(samples: list[tuple[Grey, Grey]]) -> tuple[Tensor, Tensor]:
    images, masks = (torch.from_numpy(np.stack(parts)) for parts in zip(*samples, strict=True))
    return images[:, None], masks


@torch.inference_mode()
def predict(model: SegmentationModel, image: Grey, size: int, channels: int) -> Grey:
    """Class numbers (h, w) of a grey image: scores of overlapping windows are averaged, as mmsegmentation's slide mode.

    The image is resized so that its short side is ``size``; its scores are resized back.
    """
    height, width = image.shape
    scale = fitted_scale(image.shape, size)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    resized = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    canvas = np.full((max(size, shape[0]), max(size, shape[1])), PADDING, np.uint8)
    canvas[: shape[0], : shape[1]] = resized
    scores = slide(model, canvas, size, channels)[:, : shape[0], : shape[1]]
    enlarged = F.interpolate(scores[None], size=(height, width), mode="bilinear", align_corners=False)
    return enlarged[0].argmax(0).byte().cpu().numpy()


def slide(model: Any, canvas: NDArray[np.uint8], size: int, channels: int) -> Tensor:
    """Mean class scores (classes, h, w) of windows of ``size`` over a canvas at least as large."""
    device = next(model.parameters()).device
    stride = max(1, int(size * STRIDE))
    places = [
        (top, left)
        for top in window_starts(canvas.shape[0], size, stride)
        for left in window_starts(canvas.shape[1], size, stride)
    ]
    total: Tensor | None = None
    counts = torch.zeros(canvas.shape, device=device)
    for start in range(0, len(places), WINDOWS):
        part = places[start : start + WINDOWS]
        windows = np.stack([canvas[top : top + size, left : left + size] for top, left in part])[:, None]
        scores = model(normalise(torch.from_numpy(windows).to(device), channels)).float()
        if total is None:
            total = torch.zeros((scores.shape[1], *canvas.shape), device=device)
        for (top, left), window in zip(part, scores, strict=True):
            total[:, top : top + size, left : left + size] += window
            counts[top : top + size, left : left + size] += 1
    assert total is not None  # there is always a window
    return total / counts
