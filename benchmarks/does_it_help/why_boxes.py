"""Why pre-training did not help detection in docs/results.md: what a frozen trunk hands to the detector.

    python benchmarks/does_it_help/why_boxes.py --work WORK [--detectors]

WORK is run.py's, with its pre-trainings in WORK/runs. Three questions, each of random and of pre-trained weights:

  place      shares of the variance of the last block's tokens, each normalised: of the patch's place (mean over
             images), of the image (mean over places), of what is left, its content; msrs at 384 px, hit-uav at 320 px
  patches    average precision of a logistic regression that tells patches in a box from others, on msrs' test images
  detectors  AP50 of a detector on the frozen trunk as it is, and without each place's mean over the training images:
             1,000 steps of 2 at 256 px, a fifth of msrs' training images held out; five minutes of a core each. That
             mean is of images made square, while the detector sees them jittered and padded: it is near, not exact
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from torch import Tensor

from pad.adapters.attach import blocks_of
from pad.data.grey import normalise
from pad.evaluation.sets.base import DetectionData, DetectionItem
from pad.evaluation.sets.detection import read_detection
from pad.evaluation.tasks.base import Contestant
from pad.evaluation.tasks.detection import Detection, DetectionModel
from pad.evaluation.tasks.encoder import TaskModel, prepare_encoder

RANDOM = "random:vit_tiny_patch16_224"
PATCH = 16
IN_A_BOX = 0.3
"""Share of a patch that boxes must cover to count as an object."""


def maps(weights: str, items: tuple[DetectionItem, ...], size: int) -> Tensor:
    """The last block's tokens before the final norm, (images, patches, D), of images made square."""
    encoder = prepare_encoder(weights, "frozen", image_size=size, drop_path=0.0, seed=0)
    model, last = TaskModel(encoder).eval(), [len(blocks_of(encoder)) - 1]
    parts = []
    for item in items:
        image = torch.from_numpy(cv2.resize(item.image, (size, size), interpolation=cv2.INTER_AREA))
        parts.append(model.features(normalise(image[None, None], 3), last)[0].flatten(2).transpose(1, 2))
    return torch.cat(parts)


def shares(tokens: Tensor) -> list[float]:
    """Of the variance of normalised tokens: by place, by image, the rest."""
    tokens = F.layer_norm(tokens, tokens.shape[-1:])
    tokens = tokens - tokens.mean((0, 1))
    place, image = tokens.mean(0, keepdim=True), tokens.mean(1, keepdim=True)
    whole = tokens.square().mean()
    return [float(part.square().mean() / whole) for part in (place, image, tokens - place - image)]


def objects(items: tuple[DetectionItem, ...], size: int) -> NDArray[np.bool_]:
    """Which patches of all images lie in a box."""
    grid, found = size // PATCH, []
    for item in items:
        covered = np.zeros((size, size), np.float32)
        height, width = item.image.shape
        for left, top, right, bottom in item.boxes * (np.array([1 / width, 1 / height] * 2) * size):
            covered[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1
        found.append(covered.reshape(grid, PATCH, grid, PATCH).mean((1, 3)).ravel() > IN_A_BOX)
    return np.concatenate(found)


def patches(weights: str, data: DetectionData, size: int) -> float:
    """Average precision of the logistic regression, in percent."""
    train, test = (maps(weights, items, size).flatten(0, 1).numpy() for items in (data.train, data.test))
    mean, std = train.mean(0), train.std(0) + 1e-6
    told = LogisticRegression(max_iter=2000, class_weight="balanced")
    told.fit((train - mean) / std, objects(data.train, size))
    return float(average_precision_score(objects(data.test, size), told.decision_function((test - mean) / std)) * 100)


def detector(weights: str, data: DetectionData, *, centred: bool) -> float:
    """AP50 on every fifth of the training images by name, learnt from the others."""
    names = sorted(item.name for item in data.train)
    held = set(names[::5])
    train, test = (tuple(i for i in data.train if (i.name in held) == part) for part in (False, True))
    options = {"image_size": 256, "steps": 1000, "batch_size": 2, "lr": 5e-4, "decoder_channels": 64}
    task = Detection.of("held out", Path(), precision="bf16", **options)
    mean = maps(weights, train, task.options.image_size).mean(0).T.unflatten(1, (task.options.image_size // PATCH, -1))
    last_map = DetectionModel.last_map
    with patch.object(DetectionModel, "last_map", lambda model, images: last_map(model, images) - mean * centred):
        found = task.run(
            replace(data, train=train, test=test),
            train,
            Contestant(weights, weights, "frozen"),
            seed=0,
            device=torch.device("cpu"),
            threads=1,
            label=weights,
        )
    return found.evidence[""].scores()["AP50"]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--detectors", action="store_true")
    given = parser.parse_args()
    weights = {"random": RANDOM} | {n: str(given.work / "runs" / n) for n in ("rgb", "scratch", "pad-patchwise")}
    msrs, hit_uav = (read_detection(given.work / name) for name in ("msrs", "hit-uav"))
    print(f"{'':<15}{'msrs: place image content':>27}{'hit-uav: place image content':>31}{'patches, AP':>13}")
    for name, place in weights.items():
        row: list[float] = []
        for data, size in ((msrs, 384), (hit_uav, 320)):
            row += shares(maps(place, data.train[:: max(1, len(data.train) // 60)], size))
        numbers = "".join(f"{share:>{10 - column % 3}.0%}" for column, share in enumerate(row))
        print(f"{name:<15}{numbers}{patches(place, msrs, 384):>13.1f}", flush=True)
    if given.detectors:
        print(f"\n{'AP50, held out':<15}{'as it is':>10}{'centred':>10}")
        for name in ("random", "rgb"):
            print(f"{name:<15}", end="", flush=True)
            for centred in (False, True):
                print(f"{detector(weights[name], msrs, centred=centred):>10.1f}", end="", flush=True)
            print(flush=True)


if __name__ == "__main__":
    main()
