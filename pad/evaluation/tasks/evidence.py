"""What a cell's predictions were worth, image by image: enough to score every resample of the test images.

The scores that are reported are those of torchmetrics' confusion matrices and of pycocotools; what is kept here gives
the same numbers for each image counted once, which a test holds us to, and others for a bootstrap's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from pad.evaluation.sets.base import IGNORED

Weights: TypeAlias = NDArray[np.int64]
"""How often each test image counts, (images,)."""


class Evidence(Protocol):
    """Scores of any weighting of the test images, and a form for JSON."""

    kind: ClassVar[str]

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return what ``to_json`` wrote."""
        ...

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

    kind: ClassVar[str] = "areas"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Areas:
        """Return what ``to_json`` wrote."""
        areas = np.array(value["areas"], np.int64)
        return cls(tuple(value["classes"]), areas.reshape(len(areas), len(value["classes"]), 3))

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
        both, predicted, true = np.tensordot(ones(weights, len(self.areas)), self.areas, 1).T
        union = predicted + true - both
        return np.where(union > 0, 100 * both / np.maximum(union, 1), np.nan)

    def scores(self, weights: Weights | None = None) -> dict[str, float]:
        """Mean IoU over the classes that occur, background included, as mmsegmentation."""
        return {"mIoU": float(np.nanmean(self.class_ious(weights)))}

    def details(self) -> dict[str, float | None]:
        """IoU of each class."""
        return by_class(self.classes, self.class_ious(), "IoU")

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

    kind: ClassVar[str] = "hits"

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Hits:
        """Return what ``to_json`` wrote."""
        return cls(tuple(value["classes"]), np.array(value["labels"], np.int64), np.array(value["right"], bool))

    def scores(self, weights: Weights | None = None) -> dict[str, float]:
        """Share of images told right."""
        counts = ones(weights, len(self.right))
        return {"accuracy": float(100 * (counts * self.right).sum() / counts.sum())}

    def details(self) -> dict[str, float | None]:
        """Share of each class told right."""
        found = [self.right[self.labels == number] for number in range(len(self.classes))]
        values = np.array([100 * part.mean() if len(part) else np.nan for part in found])
        return by_class(self.classes, values, "recall")

    def to_json(self) -> dict[str, Any]:
        """Labels, and 0 or 1 an image."""
        values = {"labels": self.labels.tolist(), "right": self.right.astype(int).tolist()}
        return {"kind": "hits", "classes": list(self.classes), **values}


def ones(weights: Weights | None, images: int) -> Weights:
    """Return how often each image counts: once where nothing else is said."""
    return np.ones(images, np.int64) if weights is None else weights


def by_class(classes: tuple[str, ...], values: NDArray[np.float64], what: str) -> dict[str, float | None]:
    """Return a value a class under ``<what> <class>``, None for NaN."""
    return {f"{what} {name}": None if np.isnan(v) else float(v) for name, v in zip(classes, values, strict=True)}
