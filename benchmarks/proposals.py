"""Which proposals hit labelled infrared objects, and what that costs.

    python benchmarks/proposals.py [--every N]

Labels: HIT-UAV (COCO boxes), MSRS (YOLO boxes), boxes around the connected components of the masks of buffalo udders
and SIRST, all from MSIP_REALDATA. For every way to find RoIs: the share of objects that a box hits with an
intersection over union of at least 0.5 and 0.7, boxes and CPU milliseconds an image (one thread, all ways in turn on
each image), and recall per millisecond. "equal" takes of each image at most as many boxes as the exact search gives:
the best first for ``extremal``; selective search has no order of merit, its largest come first.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from realdata import REALDATA
from selective_search import print_machine

from msip.proposals import PROPOSALS

Labelled = tuple[Path, np.ndarray]


def hit_uav(folder: Path) -> Iterator[Labelled]:
    """COCO boxes."""
    coco = json.loads((folder / "annotations_coco.json").read_text())
    boxes: dict[int, list[list[float]]] = {}
    for annotation in coco["annotations"]:
        boxes.setdefault(annotation["image_id"], []).append(annotation["bbox"])
    for image in coco["images"]:
        if image["id"] in boxes:
            yield folder / "images" / image["file_name"], np.array(boxes[image["id"]], float)


def msrs(folder: Path) -> Iterator[Labelled]:
    """YOLO lines: class, centre x, centre y, width, height, as shares of the image."""
    for path in sorted((folder / "labels").glob("*.txt")):
        image = folder / "images" / f"{path.stem}.png"
        text = path.read_text().split()
        if text:
            values = np.array(text, float).reshape(-1, 5)
            height, width = cv2.imread(str(image), 0).shape
            centre, sides = values[:, 1:3] * (width, height), values[:, 3:5] * (width, height)
            yield image, np.concatenate([centre - sides / 2, sides], axis=1)


def masks(*folders: Path) -> Iterator[Labelled]:
    """A box around each connected component."""
    for folder in folders:
        for path in sorted((folder / "masks").iterdir()):
            mask = (cv2.imread(str(path), 0) > 0).astype(np.uint8)
            boxes = cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, :4]
            if len(boxes):
                yield next((folder / "images").glob(f"{path.stem}.*")), boxes.astype(float)


def labelled_sets() -> dict[str, list[Labelled]]:
    """Every set's images and boxes."""
    root = REALDATA / "downstream"
    return {
        "HIT-UAV": list(hit_uav(root / "det_hituav")),
        "MSRS": list(msrs(root / "det_msrs")),
        "buffalo": list(masks(root / "seg_buffalo/train", root / "seg_buffalo/val")),
        "SIRST": list(masks(root / "seg_sirst")),
    }


def best_overlap(objects: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Of each object (n, 4) the largest intersection over union with any of the boxes (m, >= 4)."""
    if len(boxes) == 0:
        return np.zeros(len(objects))
    a, b = objects[:, None], boxes[None].astype(float)
    sides = np.minimum(a[..., :2] + a[..., 2:4], b[..., :2] + b[..., 2:4]) - np.maximum(a[..., :2], b[..., :2])
    common = np.clip(sides, 0, None).prod(axis=2)
    return (common / (a[..., 2:4].prod(axis=2) + b[..., 2:4].prod(axis=2) - common)).max(axis=1)


@dataclass
class Score:
    """Of one way to find RoIs on one set."""

    times: list[float] = field(default_factory=list)
    boxes: int = 0
    overlaps: list[np.ndarray] = field(default_factory=list)
    equal: list[np.ndarray] = field(default_factory=list)


def measure(images: list[Labelled], filtered: bool) -> dict[str, Score]:
    """All ways in turn on each image."""
    scores = {name: Score() for name in PROPOSALS}
    for path, objects in images:
        grey = cv2.imread(str(path), 0)
        found = {}
        for name, proposals in PROPOSALS.items():
            start = time.process_time()
            found[name] = proposals.find(grey, filtered=filtered)
            scores[name].times.append(time.process_time() - start)
        for name, boxes in found.items():
            order = np.arange(len(boxes)) if name == "extremal" else np.argsort(-boxes[:, 2] * boxes[:, 3])
            scores[name].boxes += len(boxes)
            scores[name].overlaps.append(best_overlap(objects, boxes))
            scores[name].equal.append(best_overlap(objects, boxes[order[: len(found["exact"])]]))
    return scores


def print_scores(name: str, images: list[Labelled], scores: dict[str, Score]) -> None:
    """One row a way."""
    print(f"\n{name}: {len(images)} images, {sum(len(objects) for _, objects in images)} objects")
    print(f"{'':<10}{'boxes':>7}{'ms':>8}{'R@0.5':>8}{'R@0.7':>8}{'R@0.5/ms':>10}{'equal 0.5':>11}{'equal 0.7':>11}")
    for way, score in scores.items():
        overlaps, equal = np.concatenate(score.overlaps), np.concatenate(score.equal)
        milliseconds = 1e3 * float(np.median(score.times))
        half, most = (overlaps >= 0.5).mean(), (overlaps >= 0.7).mean()
        print(
            f"{way:<10}{score.boxes / len(images):>7.0f}{milliseconds:>8.1f}{half:>8.3f}{most:>8.3f}"
            f"{half / milliseconds:>10.4f}{(equal >= 0.5).mean():>11.3f}{(equal >= 0.7).mean():>11.3f}",
            flush=True,
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="take every N-th image (default 1)")
    every = parser.parse_args().every
    cv2.setNumThreads(1)
    for proposals in PROPOSALS.values():
        proposals.warm_up()
    print_machine()
    sets = {name: images[::every] for name, images in labelled_sets().items()}
    for filtered in (False, True):
        print("\nboxes for cropping (filtered)" if filtered else "all boxes")
        for name, images in sets.items():
            print_scores(name, images, measure(images, filtered))


if __name__ == "__main__":
    main()
