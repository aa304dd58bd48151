"""Detection: fine-tune Faster R-CNN on an encoder's pyramid, find boxes, match them as COCO does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pad.data.grey import normalise
from pad.encoders.tokens import in_chans
from pad.evaluation.sets.base import DetectionData, DetectionItem, Grey
from pad.evaluation.tasks.augment import detection_view, whole_view
from pad.evaluation.tasks.encoder import Mode, prepare_encoder
from pad.evaluation.tasks.evidence import Matches
from pad.evaluation.tasks.fitting import Cost, Recipe, batches, fit
from pad.evaluation.tasks.heads import LARGEST_STRIDE, DetectionModel

Found = dict[str, NDArray[Any]]
"""``boxes`` (n, 4) corners in pixels of the image, ``scores`` (n,), ``labels`` (n,) from 0."""
Sample = tuple[Grey, NDArray[np.float32], NDArray[np.int64]]
TEST_BATCH = 8


def run_detection(
    data: DetectionData,
    train: tuple[DetectionItem, ...],
    weights: str,
    mode: Mode,
    recipe: Recipe,
    *,
    seed: int,
    device: torch.device,
    threads: int,
    label: str,
) -> tuple[Matches, Cost, list[Found]]:
    """Train on ``train``, find boxes in the test images: matches, what it cost, and the detections."""
    size = recipe.image_size
    encoder = prepare_encoder(
        weights, mode, image_size=size, drop_path=recipe.drop_path, seed=seed, multiple=LARGEST_STRIDE
    )
    channels = in_chans(encoder)
    torch.manual_seed(seed)
    model = DetectionModel(encoder, len(data.classes), size, recipe.decoder_channels).to(device)
    steps = recipe.steps_for(len(train))

    def draw(item: DetectionItem, rng: np.random.Generator) -> Sample:
        return detection_view(item, size, rng)

    def loss_of(batch: tuple[Tensor, list[dict[str, Tensor]]]) -> Tensor:
        targets = [{name: value.to(device) for name, value in target.items()} for target in batch[1]]
        return model.loss(normalise(batch[0].to(device, non_blocking=True), channels), targets)

    stream = batches(train, draw, _collate, batch_size=recipe.batch_size, steps=steps, seed=seed, threads=threads)
    cost = fit(model, stream, loss_of, recipe, steps=steps, seed=seed, label=label)
    with recipe.autocast(device):
        found = find(model.eval(), [item.image for item in data.test], size, channels)
    return Matches.of(found, data.test, data.classes), cost, found


def _collate(samples: list[Sample]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    images = torch.from_numpy(np.stack([image for image, _, _ in samples]))[:, None]
    targets = [
        {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels) + 1} for _, boxes, labels in samples
    ]
    return images, targets


@torch.inference_mode()
def find(model: DetectionModel, images: list[Grey], size: int, channels: int) -> list[Found]:
    """Detections of each grey image, in its own pixels; images are shown whole, the long side made ``size``."""
    device = next(model.parameters()).device
    found: list[Found] = []
    for start in range(0, len(images), TEST_BATCH):
        views = [whole_view(image, size) for image in images[start : start + TEST_BATCH]]
        batch = torch.from_numpy(np.stack([view for view, _ in views]))[:, None].to(device)
        outputs = model(normalise(batch, channels))
        for output, (_, scale), image in zip(outputs, views, images[start : start + TEST_BATCH], strict=True):
            height, width = image.shape
            limit = np.array([width, height, width, height], np.float32)
            boxes = (output["boxes"].float().cpu().numpy() / scale).clip(0, limit)
            scores, labels = output["scores"].float().cpu().numpy(), output["labels"].cpu().numpy() - 1
            found.append({"boxes": boxes, "scores": scores, "labels": labels})
    return found
