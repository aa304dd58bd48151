"""Scores against independent implementations on the same predictions."""

import contextlib
import io

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from pad.evaluation.sets.base import IGNORED, DetectionItem
from pad.evaluation.tasks.detection import Matches, _coco_evaluation
from pad.evaluation.tasks.evidence import Areas, Hits
from pad.evaluation.tasks.registry import evidence_from_json

CLASSES = ("background", "person", "car")


def coco_scores(found, items, classes):
    """AP, AP50 and AP75 as pycocotools reports them, in percent."""
    evaluation = _coco_evaluation(found, items, classes)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    return {name: 100 * float(evaluation.stats[place]) for place, name in enumerate(("AP", "AP50", "AP75"))}


def masks(seed, images=6):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 3, (9 + i, 7), dtype=np.uint8) for i in range(images)]


def test_mean_iou_is_that_of_a_confusion_matrix_by_hand_and_of_torchmetrics():
    predictions, truths = masks(0), masks(1)
    truths[2][:3] = IGNORED
    matrix = np.zeros((3, 3), np.int64)
    for prediction, truth in zip(predictions, truths, strict=True):
        for guess, label in zip(prediction.ravel().tolist(), truth.ravel().tolist(), strict=True):
            if label != IGNORED:
                matrix[label, guess] += 1
    ious = np.diag(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diag(matrix))
    areas = Areas.of([torch.from_numpy(p) for p in predictions], [torch.from_numpy(t) for t in truths], CLASSES)
    metric = MulticlassJaccardIndex(3, ignore_index=IGNORED)
    for prediction, truth in zip(predictions, truths, strict=True):
        metric.update(torch.from_numpy(prediction).long()[None], torch.from_numpy(truth).long()[None])
    assert areas.scores()["mIoU"] == pytest.approx(100 * ious.mean(), abs=1e-9)
    assert areas.scores()["mIoU"] == pytest.approx(100 * float(metric.compute()), abs=1e-4)
    assert areas.details()["IoU car"] == pytest.approx(100 * ious[2])


def test_a_class_that_does_not_occur_is_no_part_of_the_mean():
    zeros = torch.zeros(4, 4, dtype=torch.uint8)
    areas = Areas.of([zeros], [zeros], CLASSES)
    assert areas.scores() == {"mIoU": 100.0}
    assert areas.details() == {"IoU background": 100.0, "IoU person": None, "IoU car": None}


def scene(seed, images=8):
    """Random boxes, and detections that are some of them moved a little, some of them made up."""
    rng = np.random.default_rng(seed)
    items, found = [], []
    for number in range(images):
        count = int(rng.integers(0, 5))
        corner = rng.uniform(0, 60, (count, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(8, 40, (count, 2))], 1).astype(np.float32)
        labels, crowd = rng.integers(0, 3, count), rng.random(count) < 0.1
        items.append(DetectionItem(f"{number}", np.zeros((100, 100), np.uint8), boxes, labels, crowd))
        moved = boxes + rng.normal(0, 2, boxes.shape)
        extra = rng.uniform(0, 50, (2, 2))
        made_up = np.concatenate([extra, extra + 20], 1)
        found.append(
            {
                "boxes": np.concatenate([moved, made_up]),
                "scores": rng.random(count + 2),
                "labels": np.concatenate([labels, rng.integers(0, 3, 2)]),
            }
        )
    return items, found


def iou(a, b, crowd):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    own = (a[2] - a[0]) * (a[3] - a[1])
    return both / own if crowd else both / (own + (b[2] - b[0]) * (b[3] - b[1]) - both)


def brute_force_ap(items, found, label, threshold):
    """Average precision as COCO defines it, one detection at a time."""
    total = sum(int(((item.labels == label) & ~item.crowd).sum()) for item in items)
    if not total:
        return None
    results = []
    for item, guess in zip(items, found, strict=True):
        boxes = [(b, c) for b, n, c in zip(item.boxes, item.labels, item.crowd, strict=True) if n == label]
        taken = set()
        order = [i for i in np.argsort(-guess["scores"], kind="stable") if guess["labels"][i] == label]
        for i in order:
            fits = [(iou(guess["boxes"][i], b, c), not c, at) for at, (b, c) in enumerate(boxes)]
            free = [f for f in fits if f[1] and f[2] not in taken and f[0] >= threshold]
            if free:
                taken.add(max(free)[2])
                results.append((guess["scores"][i], True))
            elif not any(f[0] >= threshold and not f[1] for f in fits):
                results.append((guess["scores"][i], False))
    results.sort(key=lambda r: -r[0])
    right = np.cumsum([r[1] for r in results])
    precision = right / np.arange(1, len(results) + 1)
    recall = right / total
    return np.mean([max(precision[recall >= r - 1e-12], default=0.0) for r in np.linspace(0, 1, 101)])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_average_precision_is_that_of_a_brute_force_and_of_pycocotools(seed):
    items, found = scene(seed)
    matches = Matches.of(found, items, CLASSES)
    table = [[brute_force_ap(items, found, label, t) for label in range(3)] for t in np.linspace(0.5, 0.95, 10)]
    table = np.array(table, float)
    assert matches.scores() == pytest.approx(coco_scores(found, items, CLASSES), abs=1e-9)
    assert matches.scores()["AP"] == pytest.approx(100 * np.nanmean(table), abs=1e-6)
    assert matches.scores()["AP50"] == pytest.approx(100 * np.nanmean(table[0]), abs=1e-6)


def test_an_image_that_counts_twice_counts_as_two_images():
    items, found = scene(3)
    weights = np.array([2, 0, 1, 1, 3, 1, 0, 1])
    chosen = np.repeat(np.arange(8), weights)
    repeated = Matches.of([found[i] for i in chosen], [items[i] for i in chosen], CLASSES)
    assert Matches.of(found, items, CLASSES).scores(weights)["AP"] == pytest.approx(repeated.scores()["AP"], abs=1.0)
    guesses, truths = masks(0, 8), masks(1, 8)
    tensors = [[torch.from_numpy(part[i]) for i in chosen] for part in (guesses, truths)]
    all_areas = Areas.of([torch.from_numpy(g) for g in guesses], [torch.from_numpy(t) for t in truths], CLASSES)
    assert all_areas.scores(weights) == Areas.of(*tensors, CLASSES).scores()


def test_evidence_survives_json():
    items, found = scene(4)
    kinds = [
        Matches.of(found, items, CLASSES),
        Areas.of([torch.zeros(2, 2)], [torch.ones(2, 2)], CLASSES),
        Hits(CLASSES, np.array([0, 1, 2]), np.array([True, False, True])),
    ]
    for evidence in kinds:
        back = evidence_from_json(evidence.to_json())
        assert back.scores() == pytest.approx(evidence.scores(), abs=1e-3)
        assert back.details().keys() == evidence.details().keys()


def test_detections_of_nothing_score_nothing():
    items, found = scene(5)
    none = [{"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, int)} for _ in found]
    assert Matches.of(none, items, CLASSES).scores() == {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
