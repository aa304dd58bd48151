"""What a cell's predictions were worth, image by image: enough to score every resample of the test images.

The scores that are reported are those of torchmetrics' confusion matrices and of pycocotools; what is kept here gives
the same numbers for each image counted once, which a test holds us to, and others for a bootstrap's weights.
"""

from __future__ import annotations

import base64
import contextlib
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from pad.evaluation.sets.base import IGNORED, DetectionItem

Weights: TypeAlias = NDArray[np.int64]
"""How often each test image counts, (images,)."""

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
SCORE_STEPS = 10_000
"""Scores are kept to a ten-thousandth."""


class Evidence(Protocol):
    """Scores of any weighting of the test images, and a form for JSON."""

    def scores(self, weights: Weights | None = None) -> dict[str, float]:
        """Metric name to value, in percent; each image counts once without ``weights``."""
        ...

    def details(self) -> dict[str, float | None]:
        """What else is worth a line: a value a class, None for a class that does not occur."""
        ...

    def to_json(self) -> dict[str, Any]:
        """As JSON values, ``kind`` among them."""
        ...


@dataclass(frozen=True)
class Areas:
    """Segmentation: pixels an image and class, (images, classes, 3): in both, predicted, and in the mask."""

    classes: tuple[str, ...]
    areas: NDArray[np.int64]

    @classmethod
    def of(cls, predictions: Sequence[Tensor], masks: Sequence[Tensor], classes: tuple[str, ...]) -> Areas:
        """From predicted and true class numbers (h, w) of each image; ``IGNORED`` pixels do not count."""
        rows = []
        for prediction, mask in zip(predictions, masks, strict=True):
            matrix = multiclass_confusion_matrix(
                prediction.long().flatten(), mask.long().flatten(), len(classes), ignore_index=IGNORED
            )
            rows.append(torch.stack([matrix.diagonal(), matrix.sum(0), matrix.sum(1)], 1))
        return cls(classes, torch.stack(rows).cpu().numpy())

    def class_ious(self, weights: Weights | None = None) -> NDArray[np.float64]:
        """IoU of each class in percent, NaN for a class that is neither predicted nor in a mask."""
        both, predicted, true = np.tensordot(_ones(weights, len(self.areas)), self.areas, 1).T
        union = predicted + true - both
        return np.where(union > 0, 100 * both / np.maximum(union, 1), np.nan)

    def scores(self, weights: Weights | None = None) -> dict[str, float]:
        """Mean IoU over the classes that occur, background included, as mmsegmentation."""
        return {"mIoU": float(np.nanmean(self.class_ious(weights)))}

    def details(self) -> dict[str, float | None]:
        """IoU of each class."""
        return _by_class(self.classes, self.class_ious(), "IoU")

    def to_json(self) -> dict[str, Any]:
        """Rows of images; of each class three numbers."""
        return {
            "kind": "areas",
            "classes": list(self.classes),
            "areas": self.areas.reshape(len(self.areas), -1).tolist(),
        }


@dataclass(frozen=True)
class Hits:
    """Classification: the true class of each image, and whether it was told right."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    right: NDArray[np.bool_]

    def scores(self, weights: Weights | None = None) -> dict[str, float]:
        """Share of images told right."""
        counts = _ones(weights, len(self.right))
        return {"accuracy": float(100 * (counts * self.right).sum() / counts.sum())}

    def details(self) -> dict[str, float | None]:
        """Share of each class told right."""
        found = [self.right[self.labels == number] for number in range(len(self.classes))]
        values = np.array([100 * part.mean() if len(part) else np.nan for part in found])
        return _by_class(self.classes, values, "recall")

    def to_json(self) -> dict[str, Any]:
        """Labels, and 0 or 1 an image."""
        values = {"labels": self.labels.tolist(), "right": self.right.astype(int).tolist()}
        return {"kind": "hits", "classes": list(self.classes), **values}


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
        counts = _ones(weights, len(self.targets))
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
        return _by_class(self.classes, 100 * self.precision().mean(0), "AP")

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


def coco_scores(
    found: Sequence[dict[str, Any]], items: Sequence[DetectionItem], classes: tuple[str, ...]
) -> dict[str, float]:
    """AP, AP50 and AP75 as pycocotools reports them, in percent."""
    evaluation = _coco_evaluation(found, items, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(evaluation.stats[place]) for place, name in enumerate(("AP", "AP50", "AP75"))}


def _coco_evaluation(found: Sequence[dict[str, Any]], items: Sequence[DetectionItem], classes: tuple[str, ...]) -> Any:
    """pycocotools' evaluation, images and boxes matched; it prints, which nobody asked for."""
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


def _ones(weights: Weights | None, images: int) -> Weights:
    return np.ones(images, np.int64) if weights is None else weights


def _by_class(classes: tuple[str, ...], values: NDArray[np.float64], what: str) -> dict[str, float | None]:
    return {f"{what} {name}": None if np.isnan(v) else float(v) for name, v in zip(classes, values, strict=True)}


def evidence_from_json(value: dict[str, Any]) -> Evidence:
    """What ``to_json`` wrote."""
    classes = tuple(value["classes"])
    if value["kind"] == "areas":
        areas = np.array(value["areas"], np.int64)
        return Areas(classes, areas.reshape(len(areas), len(classes), 3))
    if value["kind"] == "hits":
        return Hits(classes, np.array(value["labels"], np.int64), np.array(value["right"], bool))
    packed = zlib.decompress(base64.b64decode(value["detections"]))
    image, label, score, right, ignored = np.frombuffer(packed, "<u4").astype(np.int64).reshape(5, -1)
    targets = np.array(value["targets"], np.int64).reshape(-1, len(classes))
    return Matches(classes, image, label, score / SCORE_STEPS, right, ignored, targets)
