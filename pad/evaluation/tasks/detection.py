"""Detection: fine-tune Faster R-CNN on an encoder's pyramid, find boxes, match them as COCO does."""

from __future__ import annotations

import base64
import contextlib
import io
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from pad.adapters.attach import blocks_of
from pad.data.grey import normalise
from pad.encoders.tokens import in_chans, patch_size
from pad.evaluation.sets.base import DetectionData, DetectionItem, Grey
from pad.evaluation.sets.detection import read_detection
from pad.evaluation.tasks.augment import detection_view, whole_view
from pad.evaluation.tasks.base import Contestant, FittedOptions, Outcome, Task
from pad.evaluation.tasks.drawing import HEIGHT_PX, Colour, chosen, palette, sheet
from pad.evaluation.tasks.encoder import TaskModel, embed_dim, prepare_encoder
from pad.evaluation.tasks.evidence import Weights, by_class, ones
from pad.evaluation.tasks.fitting import Recipe, batches, fit

Found = dict[str, NDArray[Any]]
"""``boxes`` (n, 4) corners in pixels of the image, ``scores`` (n,), ``labels`` (n,) from 0."""
Sample = tuple[Grey, NDArray[np.float32], NDArray[np.int64]]
TEST_BATCH = 8


IOUS = np.linspace(0.5, 0.95, 10)

RECALLS = np.linspace(0.0, 1.0, 101)

SCORE_STEPS = 10_000
"""Scores are kept to a ten-thousandth."""


@dataclass(frozen=True)
class Matches:
    """Detection: every detection with what it matched at each IoU threshold, as pycocotools matched it.

    Attributes:
        image, label: of each detection, (n,).
        score: (n,).
        right, ignored: (n,) bit fields, bit t for ``IOUS[t]``: matched a box; matched a crowd.
        targets: (images, classes) boxes to be found, crowds not counted.
    """

    classes: tuple[str, ...]
    image: NDArray[np.int64]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    right: NDArray[np.int64]
    ignored: NDArray[np.int64]
    targets: NDArray[np.int64]

    kind: ClassVar[str] = "matches"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Matches:
        """Return what ``to_json`` wrote."""
        packed = zlib.decompress(base64.b64decode(value["detections"]))
        image, label, score, right, ignored = np.frombuffer(packed, "<u4").astype(np.int64).reshape(5, -1)
        targets = np.array(value["targets"], np.int64).reshape(-1, len(value["classes"]))
        return cls(tuple(value["classes"]), image, label, score / SCORE_STEPS, right, ignored, targets)

    @classmethod
    def of(cls, found: Sequence[dict[str, Any]], items: Sequence[DetectionItem], classes: tuple[str, ...]) -> Matches:
        """From detections an image (``boxes`` (n, 4) corners, ``scores`` (n,), ``labels`` (n,) from 0)."""
        evaluation = _coco_evaluation(found, items, classes)
        rows: list[tuple[int, int, float, int, int]] = []
        targets = np.zeros((len(items), len(classes)), np.int64)
        bits = 1 << np.arange(len(IOUS))
        per_class = len(evaluation.params.areaRng) * len(items)  # sorted by class, area, image; the first area is all
        for label in range(len(classes)):
            for image in range(len(items)):
                entry = evaluation.evalImgs[label * per_class + image]
                if entry is None:
                    continue
                targets[image, label] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
                ignored = np.asarray(entry["dtIgnore"], bool)
                right = (np.asarray(entry["dtMatches"]) > 0) & ~ignored
                for at, score in enumerate(entry["dtScores"]):
                    rows.append((image, label, float(score), int(bits @ right[:, at]), int(bits @ ignored[:, at])))
        columns = np.array(rows, np.float64).reshape(-1, 5).T
        integers = [columns[column].astype(np.int64) for column in (0, 1, 3, 4)]
        return cls(classes, integers[0], integers[1], columns[2], integers[2], integers[3], targets)

    def precision(self, weights: Weights | None = None) -> NDArray[np.float64]:
        """COCO's average precision by threshold and class, (10, classes), NaN for a class without boxes."""
        counts = ones(weights, len(self.targets))
        totals = counts @ self.targets
        table = np.full((len(IOUS), len(self.classes)), np.nan)
        for label in np.flatnonzero(totals):
            chosen = np.flatnonzero(self.label == label)
            order = chosen[np.argsort(-self.score[chosen], kind="mergesort")]
            heavy = counts[self.image[order]]
            for level in range(len(IOUS)):
                right = (self.right[order] >> level & 1) * heavy
                wrong = heavy * (1 - (self.ignored[order] >> level & 1)) - right
                table[level, label] = _interpolated(np.cumsum(right), np.cumsum(wrong), int(totals[label]))
        return table

    def scores(self, weights: Weights | None = None) -> dict[str, float]:
        """AP over thresholds 0.5 to 0.95, at 0.5 and at 0.75."""
        table = 100 * self.precision(weights)
        if np.isnan(table).all():  # a resample without a single box
            return {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
        return {
            "AP": float(np.nanmean(table)),
            "AP50": float(np.nanmean(table[0])),
            "AP75": float(np.nanmean(table[5])),
        }

    def details(self) -> dict[str, float | None]:
        """AP of each class."""
        return by_class(self.classes, 100 * self.precision().mean(0), "AP")

    def to_json(self) -> dict[str, Any]:
        """Columns of detections, packed since there are a hundred an image, and targets by image."""
        scores = np.round(self.score * SCORE_STEPS)
        columns = np.stack([self.image, self.label, scores, self.right, self.ignored]).astype("<u4")
        packed = base64.b64encode(zlib.compress(columns.tobytes(), 9)).decode()
        return {
            "kind": "matches",
            "classes": list(self.classes),
            "targets": self.targets.tolist(),
            "detections": packed,
        }


def _interpolated(right: NDArray[np.int64], wrong: NDArray[np.int64], total: int) -> float:
    """Precision at 101 recalls, each the best at that recall or a higher one, averaged as pycocotools does."""
    if not len(right):
        return 0.0
    recall, precision = right / total, right / np.maximum(right + wrong, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[places].mean())


def _coco_evaluation(found: Sequence[dict[str, Any]], items: Sequence[DetectionItem], classes: tuple[str, ...]) -> Any:
    """pycocotools' evaluation, images and boxes matched; its console output is suppressed."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, result = COCO(), COCO()
        truth.dataset = _coco_dataset([(i.boxes, i.labels, i.crowd, None) for i in items], classes)
        result.dataset = _coco_dataset(
            [(f["boxes"], f["labels"], np.zeros(len(f["labels"]), bool), f["scores"]) for f in found], classes
        )
        truth.createIndex()
        result.createIndex()
        evaluation = COCOeval(truth, result, "bbox")
        evaluation.params.iouThrs, evaluation.params.recThrs = IOUS, RECALLS
        evaluation.evaluate()
    return evaluation


def _coco_dataset(rows: Sequence[tuple[Any, Any, Any, Any]], classes: tuple[str, ...]) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, (boxes, labels, crowd, scores) in enumerate(rows):
        for at, ((x1, y1, x2, y2), label) in enumerate(zip(np.asarray(boxes, float).tolist(), labels, strict=True)):
            box = [x1, y1, x2 - x1, y2 - y1]
            entry: dict[str, Any] = {"id": len(annotations) + 1, "image_id": image, "category_id": int(label)}
            entry |= {"bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd[at])}
            annotations.append(entry | ({} if scores is None else {"score": float(scores[at])}))
    return {
        "images": [{"id": image} for image in range(len(rows))],
        "categories": [{"id": label, "name": name} for label, name in enumerate(classes)],
        "annotations": annotations,
    }


class DetectionOptions(FittedOptions):
    """Options of ``--task detection``."""

    image_size: int = Field(1024, description="Side of the input, in pixels.", ge=1)
    batch_size: int = Field(2, description="Images of one step.", ge=1)
    steps: int | None = Field(None, description="Training steps.", ge=1, json_schema_extra={"shown": "12 epochs"})
    decoder_channels: int | None = Field(
        None, description="Width of the pyramid.", ge=8, json_schema_extra={"shown": "256"}
    )


class Detection(Task):
    """Fine-tune Faster R-CNN on an encoder's pyramid, find boxes, match them as COCO does."""

    kind = "detection"
    version = 2
    Options = DetectionOptions
    evidence = (Matches,)
    # casiatao/PAD's ViTDet config: batch 2, 12 epochs of FLIR
    upstream = Recipe(
        image_size=1024,
        batch_size=2,
        epochs=12,
        lr=1e-4,
        weight_decay=0.1,
        layer_decay=0.7,
        drop_path=0.1,
        warmup_steps=250,
        schedule="step",
    )

    def read(self) -> DetectionData:
        """Return images and boxes of any layout that is known."""
        return read_detection(self.data)

    def run(
        self,
        data: DetectionData,
        train: Sequence[DetectionItem],
        contestant: Contestant,
        *,
        seed: int,
        device: torch.device,
        threads: int,
        label: str,
    ) -> Outcome:
        """Train on ``train``, find boxes in the test images: matches, cost, and detections drawn."""
        recipe, weights, mode = self.recipe(contestant), contestant.weights, contestant.mode
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
        matches = Matches.of(found, data.test, data.classes)
        return Outcome({"": matches}, cost, draw_detections(data.test, found, data.classes))


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


MIN_SCORE = 0.3
"""Detections below this are not drawn."""


def draw_detections(
    items: Sequence[DetectionItem], found: Sequence[dict[str, NDArray[Any]]], classes: tuple[str, ...]
) -> bytes:
    """JPEG: boxes by class; of the detections those with a score of at least 0.3."""
    colours = palette(len(classes))

    def paint(image: Grey, boxes: NDArray[Any], labels: NDArray[Any]) -> Colour:
        canvas = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        width = max(1, round(image.shape[0] / HEIGHT_PX))
        for (x1, y1, x2, y2), label in zip(np.round(boxes).astype(int).tolist(), labels, strict=True):
            cv2.rectangle(canvas, (x1, y1), (x2, y2), colours[label].tolist(), width)
        return np.asarray(canvas, np.uint8)

    columns = []
    for i in chosen(items, lambda item: len(item.boxes)):
        sure = found[i]["scores"] >= MIN_SCORE
        columns.append(
            (
                paint(items[i].image, items[i].boxes, items[i].labels),
                paint(items[i].image, found[i]["boxes"][sure], found[i]["labels"][sure]),
            )
        )
    return sheet(columns, dict(zip(classes, colours, strict=True)))
