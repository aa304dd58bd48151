"""Selective search against the reference: how much faster, and whether it is the same.

    python benchmarks/selective_search.py [--images N]      times, interleaved per image, and images per second
    python benchmarks/selective_search.py --verify [--minutes M] [--share I/N]
                                                            labels and ordered regions on all real images

The reference is what PAD's preprocessing runs: ``selectivesearch`` 0.4 with scale 600, sigma 0.9, min_size 30, and a
filter on its regions. Times are process CPU time of one thread. Images come from MSIP_REALDATA.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import random
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import selectivesearch
from realdata import REALDATA

from msip.rois import regions, segment, selective_search, warm_up

GROUPS = {
    "SCUT (324x256)": "msip_sources/SCUT FIR Pedestrian Dataset",
    "LSOTB-TIR (473x356)": "msip_sources/LSOTB-TIR_TrainingData",
    "MSRS (640x480)": "downstream/det_msrs/images",
    "HIT-UAV (640x512)": "downstream/det_hituav/images",
    "RoadScene (640x512)": "pretrain_misc/roadscene_ir",
    "DroneVehicle (840x712)": "msip_sources/DroneVehicle",
    "LLVIP (1280x1024)": "msip_sources/LLVIP/infrared",
}
VERIFIED = ("pretrain_misc", "msip_sources", "downstream", "hard_inputs", "kaist_pairs")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")


def reference_regions(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ordered rows x, y, width, height, area of the reference."""
    labelled, found = selectivesearch.selective_search(image, scale=600, sigma=0.9, min_size=30)
    return labelled[:, :, 3], np.array([(*region["rect"], region["size"]) for region in found])


def reference_boxes(image: np.ndarray) -> set[tuple[int, ...]]:
    """The boxes that PAD's preprocessing would write."""
    boxes: set[tuple[int, ...]] = set()
    for x, y, width, height, area in reference_regions(image)[1].tolist():
        large = area >= 600 and width >= 40 and height >= 40
        if large and max(width, height) / min(width, height) <= 3:
            boxes.add((x, y, width, height))
    return boxes


def our_boxes(image: np.ndarray) -> set[tuple[int, ...]]:
    """The boxes that msip finds."""
    return {tuple(row) for row in selective_search(image)[:, :4].tolist()}


def cpu_seconds(function: Callable[[np.ndarray], set[tuple[int, ...]]], image: np.ndarray) -> tuple[float, set]:
    """CPU time of one call, and what it returned."""
    start = time.process_time()
    boxes = function(image)
    return time.process_time() - start, boxes


def images_in(folder: Path) -> list[Path]:
    """Image files, in order of their names."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]


def time_group(paths: list[Path]) -> dict[str, float]:
    """Both codes on the same images, in turn."""
    ours, theirs, boxes, different, pixels = [], [], 0, 0, 0
    for path in paths:
        image = cv2.imread(str(path))
        before, found = cpu_seconds(our_boxes, image)
        their_time, wanted = cpu_seconds(reference_boxes, image)
        after, _ = cpu_seconds(our_boxes, image)
        our_time = (before + after) / 2
        ours.append(our_time)
        theirs.append(their_time)
        boxes += len(wanted)
        different += found != wanted
        pixels += image.shape[0] * image.shape[1]
    return {
        "images": len(paths),
        "boxes": boxes,
        "different": different,
        "reference": 1e3 * float(np.median(theirs)),
        "ours": 1e3 * float(np.median(ours)),
        "ratio": float(np.median(np.array(theirs) / np.array(ours))),
        "ns": 1e9 * sum(ours) / pixels,
    }


def decode_and_search(path: str) -> int:
    """The work of a build per image."""
    return len(selective_search(cv2.imread(path)))


def throughput(paths: list[Path], processes: int) -> float:
    """Images per second of wall time, with decoding."""
    names = [str(path) for path in paths]
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(decode_and_search, names[: 2 * processes]))  # start, load the compiled code
        start = time.perf_counter()
        list(pool.map(decode_and_search, names, chunksize=4))
        return len(names) / (time.perf_counter() - start)


def print_machine() -> None:
    """What was measured on."""
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    packages = ("numpy", "numba", "llvmlite", "scikit-image", "selectivesearch", "opencv-python-headless")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    print(f"{processor}, {os.cpu_count()} CPUs; Python {platform.python_version()}, {versions}")


def compare_times(images: int) -> None:
    """Print the table."""
    print("CPU milliseconds per image, one thread, medians; the ratio is the median of the ratios image by image\n")
    print(
        f"{'images':<24}{'n':>4}{'reference':>11}{'msip':>8}{'ratio':>8}{'ns/pixel':>10}{'boxes':>8}{'different':>11}"
    )
    for name, folder in GROUPS.items():
        found = images_in(REALDATA / folder)
        paths = random.Random(0).sample(found, min(images, len(found)))
        row = time_group(paths)
        print(
            f"{name:<24}{row['images']:>4}{row['reference']:>11.0f}{row['ours']:>8.1f}{row['ratio']:>8.1f}"
            f"{row['ns']:>10.0f}{row['boxes']:>8}{row['different']:>11}",
            flush=True,
        )
    paths = images_in(REALDATA / GROUPS["HIT-UAV (640x512)"])[:200]
    for processes in (1, 2):
        print(f"\n{throughput(paths, processes):.1f} images/s at 640x512, decoding included, {processes} process(es)")


def verify(minutes: float, share: str) -> int:
    """Compare labels and ordered regions image by image; returns how many images differ."""
    part, parts = (int(number) for number in share.split("/"))
    # Label masks are no images: few flat levels, where the order of ties decides and numpy's depends on the processor.
    paths = [path for folder in VERIFIED for path in images_in(REALDATA / folder) if "mask" not in path.parent.name]
    random.Random(0).shuffle(paths)
    deadline = time.monotonic() + 60 * minutes
    counts: dict[str, int] = defaultdict(int)
    regions_compared, boxes_compared, megapixels, different = 0, 0, 0.0, []
    mine = paths[part - 1 :: parts]
    for path in mine:
        if time.monotonic() > deadline:
            break
        image = cv2.imread(str(path))
        if image is None:
            counts["not decoded by cv2"] += 1
            continue
        labels, rows = reference_regions(image)
        ours = regions(image)
        if not (np.array_equal(segment(image), labels) and np.array_equal(ours, rows)):
            different.append(path)
            print(f"different: {path.relative_to(REALDATA)}", flush=True)
        colour = bool((image != image[:, :, :1]).any())
        counts["three-channel" if colour else "grey"] += 1
        counts["/".join(path.relative_to(REALDATA).parts[:2])] += 1
        regions_compared += len(rows)
        boxes_compared += len(selective_search(image))
        megapixels += labels.size / 1e6
        if (compared := counts["grey"] + counts["three-channel"]) % 200 == 0:
            print(f"  {compared} compared, {len(different)} different", flush=True)
    compared = counts["grey"] + counts["three-channel"]
    print(f"{compared} of {len(mine)} images compared, {megapixels:.0f} megapixels: the labels of every pixel,")
    print(f"{regions_compared} ordered regions, {boxes_compared} boxes kept; images that differ: {len(different)}")
    for name, count in sorted(counts.items()):
        print(f"  {count:>6} {name}")
    return len(different)


def main() -> int:
    """Run the benchmark or the verification."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=9, help="images per group (default 9)")
    parser.add_argument("--verify", action="store_true", help="compare on all real images instead of timing")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop verifying after so long")
    parser.add_argument("--share", default="1/1", help="verify the I-th of N parts, to use several processes")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    cv2.setNumThreads(1)
    warm_up()
    print_machine()
    if arguments.verify:
        return min(verify(arguments.minutes, arguments.share), 1)
    compare_times(arguments.images)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
