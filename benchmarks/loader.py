"""How many training crops a second one core makes: the reference's pipeline against ours.

    python benchmarks/loader.py [--images N] [--rounds R] [--size S]   from a build, from tars, from decoded shards
    python benchmarks/loader.py --resize                               Pillow, ours and OpenCV: time, grey levels

The reference's pipeline is re-created from its description: Pillow opens the file and converts it to RGB, one
RoI crop resized by Pillow (bicubic) and mirrored half of the time, ToTensor, Normalize: float RGB. Ours are samples of
``pad.data.PretrainDataset``: one grey channel in uint8, which the device normalises and expands. Both are collated
into batches; the last column adds to the decoded shards what the device does, on this core. All read the same batch of
images in turn, in one process with one thread; times are its CPU time. Images come from MSIP_REALDATA.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image
from torch.utils.data import default_collate
from torchvision.transforms import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from realdata import REALDATA

from msip import build
from msip.crops import RoiCrop
from msip.manifest import Manifest
from msip.resize import resize, warm_up
from msip.shards import shard
from pad.data.dataset import PretrainDataset
from pad.data.grey import INFRARED_MEAN, INFRARED_STD, normalise
from pad.data.index import ImageIndex, open_data, write_index

GROUPS = {
    "SCUT (324x256 JPEG)": "msip_sources/SCUT FIR Pedestrian Dataset",
    "HIT-UAV (640x512 JPEG)": "downstream/det_hituav/images",
    "DroneVehicle (840x712 JPEG)": "msip_sources/DroneVehicle",
    "LLVIP (1280x1024 JPEG)": "msip_sources/LLVIP/infrared",
}
BATCH = 16
CONTESTANTS = ("reference", "JPEG folder", "tar", "raw", "raw, float RGB")


class ReferenceDataset:
    """Re-creation of the reference's dataset and transform; item: float32 (3, size, size)."""

    def __init__(self, paths: Sequence[Path], rois: Sequence[list[list[int]]], size: int) -> None:
        self.paths, self.rois, self.size = paths, rois, size

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.paths[row]) as file:
            image = file.convert("RGB")
        x, y, w, h = self._box(image, self.rois[row])
        image = functional.resized_crop(image, y, x, h, w, [self.size] * 2, functional.InterpolationMode.BICUBIC)
        if torch.rand(1) < 0.5:
            image = functional.hflip(image)
        return functional.normalize(functional.to_tensor(image), [INFRARED_MEAN] * 3, [INFRARED_STD] * 3)

    def _box(self, image: Image.Image, rois: list[list[int]]) -> tuple[int, int, int, int]:
        width, height = image.size
        larger = random.random() > 0.85
        for _ in range(20 if rois else 0):
            x, y, w, h = random.choice(rois)
            cx = x + w / 2 + random.uniform(-0.4, 0.4) * w
            cy = y + h / 2 + random.uniform(-0.4, 0.4) * h
            w, h = max(w * random.uniform(0.7, 1.5), 60), max(h * random.uniform(0.7, 1.5), 60)
            left, top = max(0, round(cx - w / 2)), max(0, round(cy - h / 2))
            w, h = min(width - 1, round(cx + w / 2)) - left, min(height - 1, round(cy + h / 2)) - top
            if w >= 60 and h >= 60 and not (larger and w * h / (width * height) < 0.15):
                return left, top, w, h
        top, left, h, w = torchvision.transforms.RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3])
        return left, top, w, h


def our_dataset(data: Path, folder: Path, size: int) -> PretrainDataset:
    """The trainer's dataset on a build or on shards."""
    opened = open_data(data)
    index = ImageIndex(write_index(opened, folder / f"{data.name}.arrow"))
    return PretrainDataset(index, opened.root, seed=0, crop=RoiCrop(size=size))


def loaders(images: list[Path], folder: Path, size: int) -> dict[str, Callable[[list[int], int], object]]:
    """What makes a batch of given rows in a given epoch, by contestant."""
    frames = folder / "frames"
    frames.mkdir()
    for path in images:
        (frames / path.name).symlink_to(path)
    build(None, folder / "build", folder=frames, workers=2)
    manifest = Manifest.read(folder / "build")
    for layout in ("webdataset", "raw"):
        shard(folder / "build", folder / layout, layout=layout)  # type: ignore[arg-type]
    rows = range(len(manifest))
    boxes = [manifest.rois(row)[:, :4].tolist() for row in rows]
    theirs = ReferenceDataset([manifest.path(row) for row in rows], boxes, size)
    ours = {name: our_dataset(folder / name, folder, size) for name in ("build", "webdataset", "raw")}

    def batch(name: str) -> Callable[[list[int], int], torch.Tensor]:
        return lambda rows, epoch: default_collate([ours[name][epoch, row] for row in rows])["image"]

    return {
        "reference": lambda rows, epoch: default_collate([theirs[row] for row in rows]),
        "JPEG folder": batch("build"),
        "tar": batch("webdataset"),
        "raw": batch("raw"),
        "raw, float RGB": lambda rows, epoch: normalise(batch("raw")(rows, epoch), 3).contiguous(),
    }


def measure(makers: dict[str, Callable[[list[int], int], object]], images: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each batch, by contestant; the order of the contestants turns."""
    seconds: dict[str, list[float]] = {name: [] for name in makers}
    turn = 0
    for epoch in range(rounds + 1):  # the first fills caches and is not counted
        order = np.random.default_rng(epoch).permutation(images)
        for first in range(0, images - BATCH + 1, BATCH):
            rows = order[first : first + BATCH].tolist()
            names = list(makers)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                start = time.process_time()
                makers[name](rows, epoch)
                if epoch:
                    seconds[name].append(time.process_time() - start)
            turn += 1
    return seconds


def print_machine() -> None:
    """What was measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    packages = ("torch", "torchvision", "pillow", "opencv-python-headless", "numpy", "numba")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{processor}, {os.cpu_count()} CPUs; Python {platform.python_version()}, {versions}")


def compare_loaders(most: int, rounds: int, size: int) -> None:
    """Print the table."""
    print(f"crops of {size} px a second and core (median batch), and the median of the ratios to the reference\n")
    print(f"{'images':<30}{'n':>4}" + "".join(f"{name:>22}" for name in CONTESTANTS))
    for name, folder in GROUPS.items():
        found = sorted(path for path in (REALDATA / folder).rglob("*.jpg") if "visible" not in str(path))
        images = random.Random(0).sample(found, min(most, len(found)))
        images = list({path.name: path for path in images}.values())
        with tempfile.TemporaryDirectory() as temporary:
            makers = loaders(images, Path(temporary), size)
            count = len(Manifest.read(Path(temporary) / "build"))
            seconds = {key: np.array(value) for key, value in measure(makers, count, rounds).items()}
        cells = []
        for key in CONTESTANTS:
            ratio = float(np.median(seconds["reference"] / seconds[key]))
            cells.append(f"{BATCH / np.median(seconds[key]):>13,.0f} ({ratio:5.2f})")
        print(f"{name:<30}{count:>4}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


def resizers() -> dict[str, Callable[[np.ndarray, tuple[int, int]], np.ndarray]]:
    """The contestants of ``--resize``, on one grey channel."""

    def pillow(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def opencv(interpolation: int) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
        return lambda image, size: cv2.resize(image, size, interpolation=interpolation)

    return {
        "Pillow bicubic": pillow,
        "msip.resize": resize,
        "OpenCV cubic": opencv(cv2.INTER_CUBIC),
        "OpenCV area": opencv(cv2.INTER_AREA),
    }


def compare_resizers(rounds: int) -> None:
    """Print time and difference to Pillow of each resizer, on crops of real images."""
    paths = sorted((REALDATA / GROUPS["LLVIP (1280x1024 JPEG)"]).rglob("*.jpg"))[:8]
    images = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths]
    print("microseconds of CPU time to resize a real crop to 224 x 224 (median), grey levels away from Pillow\n")
    print(f"{'crop':<10}{'':<18}{'us':>8}{'mean':>8}{'largest':>9}")
    for width, height in ((80, 120), (224, 300), (400, 300), (1000, 800)):
        times: dict[str, list[float]] = {name: [] for name in resizers()}
        away: dict[str, list[np.ndarray]] = {name: [] for name in resizers()}
        for number in range(rounds * len(images)):
            image = images[number % len(images)]
            crop = image[100 : 100 + height, 150 : 150 + width]
            results = {}
            for name, function in resizers().items():
                start = time.process_time()
                results[name] = function(crop, (224, 224))
                times[name].append(time.process_time() - start)
            for name, result in results.items():
                away[name].append(np.abs(result.astype(int) - results["Pillow bicubic"]))
        for name, seconds in times.items():
            difference = np.stack(away[name])
            microseconds = 1e6 * float(np.median(seconds))
            label = f"{width}x{height}" if name == "Pillow bicubic" else ""
            print(f"{label:<10}{name:<18}{microseconds:>8.0f}{difference.mean():>8.2f}{difference.max():>9}")


def main() -> int:
    """Run one of the two comparisons."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="images per group (default 64)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs over them (default 5)")
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels (default 224)")
    parser.add_argument("--resize", action="store_true", help="compare resizing alone")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    warm_up()
    print_machine()
    if arguments.resize:
        compare_resizers(arguments.rounds)
    else:
        compare_loaders(arguments.images, arguments.rounds, arguments.size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
