"""Segmentation: fine-tune a UPerNet on an encoder, predict by sliding windows, count pixels.

UPerNet's decoder is segmentation_models_pytorch's; around it, as casiatao/PAD's mmsegmentation config: features of
four blocks brought to four scales, dropout 0.1, an auxiliary FCN on the third. Not kept: relative position biases and
layer scales added for fine-tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from msip.errors import EvaluationError
from pad.data.grey import normalise
from pad.encoders.tokens import grid_size, in_chans
from pad.evaluation.sets.base import IGNORED, Grey, SegmentationData, SegmentationItem
from pad.evaluation.sets.segmentation import read_segmentation
from pad.evaluation.tasks.augment import PADDING, fitted_scale, segmentation_view, window_starts
from pad.evaluation.tasks.base import Contestant, FittedOptions, Outcome, Task
from pad.evaluation.tasks.drawing import Colour, chosen, palette, sheet
from pad.evaluation.tasks.encoder import TaskModel, embed_dim, out_layers, prepare_encoder
from pad.evaluation.tasks.evidence import Areas
from pad.evaluation.tasks.fitting import Recipe, batches, fit

STRIDE = 341 / 512
"""Step of the sliding window, in sides of the input; 341 of 512 px in the reference."""
WINDOWS = 16
"""Windows of one forward pass."""


class SegmentationOptions(FittedOptions):
    """Options of ``--task segmentation``."""

    steps: int | None = Field(None, description="Training steps.", ge=1, json_schema_extra={"shown": "100 epochs"})
    decoder_channels: int | None = Field(
        None,
        description="Width of the decoder.",
        ge=8,
        json_schema_extra={"shown": "the encoder's"},
    )


class Segmentation(Task):
    """Fine-tune a UPerNet on an encoder, predict by sliding windows, count pixels."""

    kind = "segmentation"
    Options = SegmentationOptions
    evidence = (Areas,)
    # casiatao/PAD docs/SEGMENTATION.md and configs: batch 8, about 100 epochs of SODA and of MFNet, linear decay
    upstream = Recipe(
        image_size=512,
        batch_size=8,
        epochs=100,
        lr=1e-4,
        weight_decay=0.05,
        layer_decay=0.65,
        drop_path=0.1,
        warmup_steps=1500,
        schedule="poly",
    )

    def read(self) -> SegmentationData:
        """Return images and masks of any layout that is known."""
        return read_segmentation(self.data)

    def run(
        self,
        data: SegmentationData,
        train: Sequence[SegmentationItem],
        contestant: Contestant,
        *,
        seed: int,
        device: torch.device,
        threads: int,
        label: str,
    ) -> Outcome:
        """Train on ``train``, predict the test images: areas, cost, and predictions drawn."""
        recipe, weights, mode = self.recipe(contestant), contestant.weights, contestant.mode
        if recipe.batch_size < 2:
            raise EvaluationError("`batch_size` is 1; UPerNet's batch normalisation needs at least 2.")
        encoder = prepare_encoder(weights, mode, image_size=recipe.image_size, drop_path=recipe.drop_path, seed=seed)
        if min(grid_size(encoder)) < 2:
            raise EvaluationError(f"`image_size` is {recipe.image_size}, one patch; UPerNet needs at least two a side.")
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
        areas = Areas.of([torch.from_numpy(p) for p in predictions], masks, data.classes)
        return Outcome({"": areas}, cost, draw_masks(data.test, predictions, data.classes))


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


AUXILIARY_WEIGHT = 0.4

AUXILIARY_CHANNELS = 256


class SegmentationModel(TaskModel):
    """A ViT with UPerNet.

    Args:
        encoder: of ``prepare_encoder``.
        classes: how many, background included.
        decoder_channels: width of the decoder; the encoder's if None, which for ViT-B is the reference's 768.
    """

    def __init__(self, encoder: nn.Module, classes: int, decoder_channels: int | None = None) -> None:
        super().__init__(encoder)
        width = embed_dim(encoder)
        channels = decoder_channels or width
        self.layers = out_layers(encoder)
        up = nn.ConvTranspose2d
        self.necks = nn.ModuleList(
            [
                nn.Sequential(up(width, width, 2, 2), nn.BatchNorm2d(width), nn.GELU(), up(width, width, 2, 2)),
                up(width, width, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, 2),
            ]
        )
        # smp's decoder skips the first two levels, the image itself and its half
        self.decoder = UPerNetDecoder([0, 0, *[width] * 4], encoder_depth=5, decoder_channels=channels)
        self.classifier = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1))
        self.auxiliary = nn.Sequential(
            nn.Conv2d(width, AUXILIARY_CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(AUXILIARY_CHANNELS),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(AUXILIARY_CHANNELS, classes, 1),
        )

    def _levels(self, images: Tensor) -> list[Tensor]:
        return [neck(level) for neck, level in zip(self.necks, self.features(images, self.layers), strict=True)]

    def forward(self, images: Tensor) -> Tensor:
        """Class scores (b, classes, h, w), at the size of ``images`` (b, channels, h, w)."""
        return _enlarged(self.classifier(self.decoder([None, None, *self._levels(images)])), images)

    def loss(self, images: Tensor, masks: Tensor) -> Tensor:
        """Cross-entropy over counted pixels of ``masks`` (b, h, w), the auxiliary head's at a weight of 0.4."""
        levels = self._levels(images)
        third = levels[2]
        main = _enlarged(self.classifier(self.decoder([None, None, *levels])), images)
        auxiliary = _enlarged(self.auxiliary(third), images)
        return _cross_entropy(main, masks) + AUXILIARY_WEIGHT * _cross_entropy(auxiliary, masks)


def _enlarged(scores: Tensor, images: Tensor) -> Tensor:
    return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)


def _cross_entropy(scores: Tensor, masks: Tensor) -> Tensor:
    """Mean over counted pixels; 0, not a division by 0, where a batch has none."""
    total = F.cross_entropy(scores.float(), masks.long(), ignore_index=IGNORED, reduction="sum")
    return total / (masks != IGNORED).sum().clamp(min=1)


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
        for i in chosen(items, lambda item: (item.mask > 0).any())
    ]
    return sheet(columns, dict(zip(classes[1:], colours[1:], strict=True)))
