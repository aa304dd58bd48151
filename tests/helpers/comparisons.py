"""A comparison at toy size: its data, its file, and how it is set to work."""

import cv2
import numpy as np
import yaml
from training_runs import make_manifest

from pad.evaluation.comparison.file import Comparison
from pad.evaluation.comparison.run import Comparing

SMALL = {"image_size": 32, "steps": 2, "batch_size": 2}


def make_sets(root):
    """Bright squares to find, by mask, by box and by class; every image with noise of its own."""
    rng = np.random.default_rng(0)
    boxes = []
    for number in range(12):
        image = cv2.GaussianBlur(rng.integers(0, 90, (48, 64), dtype=np.uint8), (0, 0), 2)
        x, y = rng.integers(4, 34, 2)
        mask = np.zeros_like(image)
        mask[y : y + 10, x : x + 14] = 255
        image[mask > 0] = 230
        split = "train" if number < 8 else "test"
        for kind, pixels in (("images", image), ("masks", mask)):
            (root / "seg" / split / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "seg" / split / kind / f"{number}.png"), pixels)
        for folder in (root / "yolo" / "images" / split, root / "classes" / split / ("left" if x < 18 else "right")):
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), image)
        labels = root / "yolo" / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        boxes.append(f"0 {(x + 7) / 64} {(y + 5) / 48} {14 / 64} {10 / 48}\n")
        (labels / f"{number}.txt").write_text(boxes[-1])
    (root / "yolo" / "classes.txt").write_text("square\n")
    make_manifest(root / "build", 12)


FILE = {
    "seeds": [0, 1],
    "baseline": "none",
    "pretrain": {
        "data": "build",
        "model": "test_vit",
        "image_size": 32,
        "max_steps": 2,
        "batch_size": 4,
        "workers": 0,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
    },
    "runs": {"first": {"paradigm": "scratch"}, "pad": {"paradigm": "pad", "init": "run:first"}},
    "contestants": {
        "none": {"weights": "random:test_vit"},
        "frozen": {"weights": "run:first", "mode": "frozen"},
        "pad": {"weights": "run:pad", "mode": "adapter"},
    },
    "tasks": {
        "squares": {"task": "segmentation", "data": "seg", **SMALL},
        "boxes": {"task": "detection", "data": "yolo", "seeds": [0], **SMALL, "image_size": 64, "steps": 1},
        "sides": {"task": "probe", "data": "classes", "image_size": 32},
        "patches": {"task": "probe", "data": "seg", "image_size": 32, "seeds": [0]},
    },
}


def write_file(root, **changed):
    (root / "c.yaml").write_text(yaml.safe_dump({**FILE, **changed}, sort_keys=False))
    return root / "c.yaml"


def work(root):
    return Comparing(Comparison.read(root / "c.yaml"), root, root / "c", device="cpu")


def toy(root, **changed):
    """A comparison of its own folder with the small sets."""
    if not (root / "seg").is_dir():
        make_sets(root)
    write_file(root, **changed)
    return work(root)


ONE_TASK = {"seeds": [0], "tasks": {"squares": FILE["tasks"]["squares"]}}


ONLY_NONE = {"contestants": {"none": {"weights": "random:test_vit"}}, "runs": {}}
