"""Heads on a plain ViT: UPerNet for segmentation, ViTDet's pyramid with Faster R-CNN for detection.

UPerNet's decoder is segmentation_models_pytorch's; around it, as casiatao/PAD's mmsegmentation config: features of
four blocks brought to four scales, dropout 0.1, an auxiliary FCN on the third. Not kept: relative position biases and
layer scales added for fine-tuning.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from pad.adapters.attach import blocks_of
from pad.encoders.tokens import patch_size
from pad.evaluation.sets.base import IGNORED
from pad.evaluation.tasks.encoder import TaskModel, out_layers

AUXILIARY_WEIGHT = 0.4
AUXILIARY_CHANNELS = 256
PYRAMID_CHANNELS = 256
ANCHORS_AT_1024 = (32, 64, 128, 256, 512)
MAX_DETECTIONS = 100
PROPOSALS = {
    "rpn_pre_nms_top_n_train": 2000,
    "rpn_pre_nms_top_n_test": 1000,
    "rpn_post_nms_top_n_train": 2000,
    "rpn_post_nms_top_n_test": 1000,
    "box_batch_size_per_image": 512,
}
"""torchvision's numbers, for photographs at 1024 px: a small input has neither as many objects nor as many places."""
LEAST_PROPOSALS_AT = 128
MAP_STRIDE = 16
"""Of the map that the pyramid is made of, in pixels, where patches are not a power of two: ViTDet's."""
LARGEST_STRIDE = 64
"""Of the pyramid. torchvision finds a level's stride by division and rounds it to a power of two: inputs that are no
multiple of this would get anchors, and features for boxes, from other places."""


def embed_dim(encoder: Any) -> int:
    """Width of the tokens."""
    width: int = blocks_of(encoder)[0].norm1.weight.shape[0]  # type: ignore[union-attr, index, assignment]
    return width


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


class _Pyramid(nn.Module):
    """ViTDet's simple feature pyramid: strides 4 to 32 of the last block's map, and 64 (arXiv 2203.16527)."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d
        half, quarter = width // 2, width // 4
        shapes: list[tuple[nn.Module, int]] = [
            (nn.Sequential(up(width, half, 2, 2), LayerNorm2d(half), nn.GELU(), up(half, quarter, 2, 2)), quarter),
            (up(width, half, 2, 2), half),
            (nn.Identity(), width),
            (nn.MaxPool2d(2, 2), width),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(
                shape,
                nn.Conv2d(channels, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for shape, channels in shapes
        )

    def forward(self, features: Tensor) -> OrderedDict[str, Tensor]:
        maps = OrderedDict((str(number), level(features)) for number, level in enumerate(self.levels))
        maps["pool"] = F.max_pool2d(maps["3"], 1, 2)
        return maps


class _Backbone(nn.Module):
    """What Faster R-CNN sees: images in, a pyramid out."""

    def __init__(self, model: DetectionModel, width: int, out_channels: int) -> None:
        super().__init__()
        self.out_channels = out_channels  # torchvision's heads take their width from here
        self.pyramid = _Pyramid(width, out_channels)
        self.encode = model.last_map  # a method, so that the encoder is not registered twice

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        pyramid: OrderedDict[str, Tensor] = self.pyramid(self.encode(images))
        return OrderedDict((name, level.float()) for name, level in pyramid.items())


def _in_fp32(module: nn.Module, given: Any, made: tuple[Any, ...]) -> tuple[Any, ...]:
    """Forward hook: what a head predicts, tensors or lists of them, as fp32."""
    return tuple([part.float() for part in each] if isinstance(each, list) else each.float() for each in made)


class DetectionModel(TaskModel):
    """A ViT with ViTDet's pyramid and torchvision's Faster R-CNN; attention is global in every block.

    Boxes are fp32 under autocast, too. torchvision gives anchors, proposals and the boxes to be learnt the type of
    feature maps and predictions, and bf16 counts by 2 px from 256 px on, by 4 from 512.

    Args:
        encoder: of ``prepare_encoder``.
        classes: how many, background not counted.
        image_size: side of the square input, in pixels, a multiple of 64; in proportion to it are anchors, 32 to 512 px
            at 1024, and, from 128 to 1024 px, the numbers of proposals.
        decoder_channels: width of the pyramid; ViTDet's 256 if None.
    """

    def __init__(self, encoder: nn.Module, classes: int, image_size: int, decoder_channels: int | None = None) -> None:
        super().__init__(encoder)
        self.layers = [len(blocks_of(encoder)) - 1]
        patch = patch_size(encoder)[0]
        self.map_side = None if patch & (patch - 1) == 0 else image_size // MAP_STRIDE
        share = min(1024, max(LEAST_PROPOSALS_AT, image_size))
        sizes = tuple((side * image_size / 1024,) for side in ANCHORS_AT_1024)
        self.detector = FasterRCNN(
            _Backbone(self, embed_dim(encoder), decoder_channels or PYRAMID_CHANNELS),
            num_classes=classes + 1,
            min_size=image_size,
            max_size=image_size,
            image_mean=[0.0],  # images come normalised, see pad.data.normalise
            image_std=[1.0],
            rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
            box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=2),
            box_detections_per_img=MAX_DETECTIONS,
            **{name: number * share // 1024 for name, number in PROPOSALS.items()},
            _skip_resize=True,
        )
        for head in (self.detector.rpn.head, self.detector.roi_heads.box_predictor):
            head.register_forward_hook(_in_fp32)

    def last_map(self, images: Tensor) -> Tensor:
        """(b, D, rows, columns) after the last block, resampled to a stride of 16 px for patches of e.g. 14."""
        found = self.features(images, self.layers)[0]
        if self.map_side is None:
            return found
        return F.interpolate(found, size=(self.map_side, self.map_side), mode="bilinear", align_corners=False)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        """Detections of each image (b, channels, size, size): ``boxes`` (n, 4), ``scores`` (n,), ``labels`` from 1."""
        found: list[dict[str, Tensor]] = self.detector(list(images))
        return found

    def loss(self, images: Tensor, targets: list[dict[str, Tensor]]) -> Tensor:
        """Sum of the four losses of Faster R-CNN; ``targets``: ``boxes`` (n, 4), ``labels`` (n,) from 1; n may be 0."""
        losses: dict[str, Tensor] = self.detector(list(images), targets)
        return torch.stack(list(losses.values())).sum()
