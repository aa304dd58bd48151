"""Near-duplicates of infrared images, ours against imagededup's hashes: `python benchmarks/near_duplicates.py --help`.

Three sets of pairs whose truth is known without any hash:

  copies      an image and what is made of it (JPEG, resizing, another gain control ...); pairs of images from different
              folders of the real data are no copies
  sequences   frames of a standing camera, and frames of different sequences
  hit-uav     neighbouring frames of HIT-UAV: near-duplicates where SIFT and RANSAC find that the view moved by less
              than 3 % of the width, none where it moved by more than 25 % or nothing fits; pairs over 100 frames apart
              are none

Each method is shown twice: at its own default, and, as (none), at the widest threshold at which it names no wrong pair
of different folders. Then the time to hash an image and to compare 1 k, 10 k and 179 k of them. imagededup comes
with `pip install 'msip-pad[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from imagededup.methods import DHash, PHash
from numpy.typing import NDArray

from msip.curation import SIMILARITY
from msip.curation.fingerprint import LENGTH, PRINT, Fingerprints, fingerprint, turned
from msip.curation.matching import best_matches, leaders
from msip.curation.selection import LEAST_SIMILARITY
from msip.radiometry.cameras import suffixes

Grey = NDArray[np.uint8]
Pairs = NDArray[np.int64]
"""(n, 2) rows."""

FOLDERS = (
    "downstream/det_hituav/images", "downstream/det_msrs/images", "downstream/seg_buffalo/train/images",
    "downstream/seg_sirst/images", "pretrain_misc/roadscene_ir", "pretrain_misc/tno_ir",
    "msip_sources/LLVIP/infrared/train", "msip_sources/infrared_security",
    "msip_sources/LSOTB-TIR_TrainingData", "hard_inputs/cheetah",
)  # fmt: skip
MOST_PER_FOLDER = 60
SEQUENCES = {"LLVIP": "msip_sources/LLVIP/infrared/train", "LSOTB-TIR": "msip_sources/LSOTB-TIR_TrainingData"}
GAPS = (1, 5, 10)  # of files; MSIP takes every tenth frame of LSOTB-TIR
DEFAULT_DISTANCE = 10  # imagededup's max_distance_threshold
NEAR, FAR = 0.03, 0.25  # of the width


def jpeg(quality: int) -> Callable[[Grey], Grey]:
    """Compressed and read again."""
    return lambda grey: cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 0)


def scaled(factor: float) -> Callable[[Grey], Grey]:
    """Made smaller by area averaging."""
    return lambda grey: cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def stretched(low: float, high: float) -> Callable[[Grey], Grey]:
    """Gain control that clips all below and above these percentiles."""

    def change(grey: Grey) -> Grey:
        bottom, top = np.percentile(grey, [low, high])
        return np.clip((grey - bottom) / max(top - bottom, 1) * 255, 0, 255).astype(np.uint8)

    return change


def contrast(levels: float) -> Callable[[Grey], Grey]:
    """Standard deviation of so many grey levels around 100."""

    def change(grey: Grey) -> Grey:
        values = grey.astype(np.float32)
        values = (values - values.mean()) / max(float(values.std()), 1e-3) * levels + 100
        return np.clip(np.round(values), 0, 255).astype(np.uint8)

    return change


def noisy(grey: Grey) -> Grey:
    """Gaussian noise of ten grey levels."""
    noise = np.random.default_rng(0).normal(0, 10, grey.shape)
    return np.clip(grey + noise, 0, 255).astype(np.uint8)


TRANSFORMS: dict[str, Callable[[Grey], Grey]] = {
    "JPEG quality 50": jpeg(50),
    "JPEG quality 10": jpeg(10),
    "half size": scaled(0.5),
    "quarter size": scaled(0.25),
    "squashed to 224 x 224": lambda grey: cv2.resize(grey, (224, 224), interpolation=cv2.INTER_AREA),
    "AGC: gamma 0.5": lambda grey: (255 * (grey / 255) ** 0.5).astype(np.uint8),
    "AGC: equalised": cv2.equalizeHist,
    "AGC: CLAHE": lambda grey: cv2.createCLAHE(3, (8, 8)).apply(grey),
    "AGC: clipped at 2 and 90 %": stretched(2, 90),
    "contrast of 2 grey levels": contrast(2),
    "noise of 10 grey levels": noisy,
    "border of 3 % cut off": lambda grey: np.ascontiguousarray(
        grey[int(0.03 * len(grey)) : int(0.97 * len(grey)), int(0.03 * grey.shape[1]) : int(0.97 * grey.shape[1])]
    ),
    "mirrored": lambda grey: np.ascontiguousarray(grey[:, ::-1]),
    "upside down": lambda grey: np.ascontiguousarray(grey[::-1]),
    "inverted (black-hot)": lambda grey: 255 - grey,
}


@dataclass
class Finder:
    """One way to compare: an image's code, and for pairs of codes a score that is high where they are alike.

    ``least``: the score from which a pair counts, by default.
    """

    name: str
    encode: Callable[[Grey], NDArray]
    score: Callable[[NDArray, NDArray], NDArray]
    least: float


def cosine(first: NDArray, second: NDArray) -> NDArray:
    """Row by row, of int8 (..., n, 256)."""
    one, two = first.astype(np.float32), second.astype(np.float32)
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(two, axis=-1)
    return (one * two).sum(axis=-1) / np.maximum(norms, 1)


def similarity(first: NDArray, second: NDArray, flips: bool = False) -> NDArray:
    """Row by row, of ``PRINT`` (n,), as the matching judges: -1 where the details are not alike."""
    one, two = Fingerprints.of(first), Fingerprints.of(second)
    pairs = ((one.vectors, two.vectors), (one.details, two.details))
    vectors, details = (cosine(turned(ours, flips), theirs) for ours, theirs in pairs)
    alike = details >= np.maximum(one.least_detail, two.least_detail)
    return np.where(alike & ~one.featureless & ~two.featureless, vectors, -1).max(axis=0)


def bits_apart(first: NDArray, second: NDArray) -> NDArray:
    """Minus the Hamming distance of bool (n, 64)."""
    return -(first != second).sum(axis=1).astype(np.float32)


def finders() -> list[Finder]:
    """Ours, ours with ``--flips``, and imagededup's hashes."""
    result = [
        Finder("msip", fingerprint, similarity, SIMILARITY),
        Finder("msip --flips", fingerprint, partial(similarity, flips=True), SIMILARITY),
    ]
    for name, hasher in (("PHash", PHash(verbose=False)), ("DHash", DHash(verbose=False))):
        result.append(Finder(name, lambda grey, h=hasher: _bits(hash_of(h, grey)), bits_apart, -DEFAULT_DISTANCE))
    return result


def hash_of(hasher: PHash | DHash, grey: Grey) -> str:
    """imagededup's own preprocessing and hash of a grey image."""
    return hasher.encode_image(image_array=cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB))


def _bits(digest: str) -> NDArray:
    return np.unpackbits(np.frombuffer(bytes.fromhex(digest), np.uint8)).astype(bool)


def read(path: Path) -> Grey | None:
    """A file in grey, or ``None``."""
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def chosen_files(folder: Path) -> list[Path]:
    """At most ``MOST_PER_FOLDER`` images, evenly spaced."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes())
    return files[:: max(1, -(-len(files) // MOST_PER_FOLDER))]


def different_folders(labels: NDArray) -> Pairs:
    """All pairs of rows with different labels."""
    first, second = np.triu_indices(len(labels), 1)
    return np.stack([first, second], 1)[labels[first] != labels[second]]


def thresholds(finder: Finder, codes: NDArray, wrong: Pairs) -> tuple[float, float, int]:
    """Default threshold, the widest allowed without a wrong pair, and the wrong pairs at the default."""
    scores = np.concatenate([finder.score(codes[part[:, 0]], codes[part[:, 1]]) for part in _parts(wrong)])
    top = scores.max()
    widest = max(float(np.nextafter(top, 2)), LEAST_SIMILARITY) if finder.least > 0 else float(top) + 1
    return finder.least, widest, int((scores >= finder.least).sum())


def _parts(pairs: Pairs, size: int = 20_000) -> Iterator[Pairs]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def displacement(one: Sift, two: Sift) -> float:
    """How far the corners move between two views, in widths; infinite where nothing fits, NaN where too few points."""
    if len(one.points) < 15 or len(two.points) < 15:
        return float("nan")
    matches = cv2.BFMatcher().knnMatch(one.descriptors, two.descriptors, k=2)
    good = [best for best, second in matches if best.distance < 0.75 * second.distance]
    if len(good) < 12:
        return float("inf")
    source = one.points[[match.queryIdx for match in good]]
    target = two.points[[match.trainIdx for match in good]]
    homography, inliers = cv2.findHomography(source, target, cv2.RANSAC, 3)
    if homography is None or int(inliers.sum()) < 12:
        return float("inf")
    corners = np.array([[[0, 0]], [[319, 0]], [[319, 255]], [[0, 255]]], np.float32)
    moved = cv2.perspectiveTransform(corners, homography)
    return float(np.linalg.norm(moved - corners, axis=2).mean() / 320)


@dataclass
class Sift:
    """Key points of an image at 320 x 256."""

    points: NDArray[np.float32]
    descriptors: NDArray[np.float32] | None

    @classmethod
    def of(cls, grey: Grey) -> Sift:
        """500 at most."""
        small = cv2.resize(grey, (320, 256), interpolation=cv2.INTER_AREA)
        points, descriptors = cv2.SIFT_create(500).detectAndCompute(small, None)
        return cls(np.array([point.pt for point in points], np.float32).reshape(-1, 2), descriptors)


@dataclass
class Truth:
    """Codes of a set, its pairs that are near-duplicates and its pairs that are not."""

    codes: dict[str, NDArray]
    right: Pairs
    wrong: Pairs


def hit_uav(folder: Path, methods: list[Finder]) -> tuple[Truth, list[str]]:
    """Neighbouring frames with their truth, and the official split of each image."""
    files = sorted(folder.glob("*/*.jpg"), key=lambda path: path.stem.split("_")[4])
    found: dict[str, list[NDArray]] = {method.name: [] for method in methods}
    moved = np.empty(len(files) - 1)
    before: Sift | None = None
    for number, path in enumerate(files):
        image = read(path)
        for method in methods:
            found[method.name].append(method.encode(image))
        points = Sift.of(image)
        if before is not None:
            moved[number - 1] = displacement(before, points)
        before = points
    neighbours = np.stack([np.arange(len(files) - 1), np.arange(1, len(files))], 1)
    apart = np.random.default_rng(0).integers(0, len(files), (200_000, 2))
    apart = apart[np.abs(apart[:, 0] - apart[:, 1]) > 100]
    codes = {name: np.array(values) for name, values in found.items()}
    wrong = np.concatenate([neighbours[moved > FAR], apart])
    return Truth(codes, neighbours[moved < NEAR], wrong), [path.parent.name for path in files]


def sequences(root: Path, methods: list[Finder]) -> dict[str, Truth]:
    """Frames of standing cameras: a frame and one so many after it; pairs of two sequences are none."""
    images, labels = [], []
    for name, folder in SEQUENCES.items():
        files = sorted(path for path in (root / folder).rglob("*") if path.suffix.lower() in suffixes())
        images += [read(path) for path in files]
        labels += [name] * len(files)
    names, rows = np.array(labels), np.arange(len(labels))
    codes = {method.name: np.array([method.encode(image) for image in images]) for method in methods}
    wrong = different_folders(names)
    found = {}
    for name, gap in ((name, gap) for name in SEQUENCES for gap in GAPS):
        first = rows[:-gap][(names[:-gap] == name) & (names[gap:] == name)]
        found[f"{name}, frame n and n + {gap}"] = Truth(codes, np.stack([first, first + gap], 1), wrong)
    return found


def judge(truth: Truth, finder: Finder, least: float) -> tuple[float, float, int]:
    """Recall, precision over the pairs of known truth, and wrong pairs."""
    codes = truth.codes[finder.name]
    right = sum(int((finder.score(codes[p[:, 0]], codes[p[:, 1]]) >= least).sum()) for p in _parts(truth.right))
    wrong = sum(int((finder.score(codes[p[:, 0]], codes[p[:, 1]]) >= least).sum()) for p in _parts(truth.wrong))
    return right / len(truth.right), right / max(1, right + wrong), wrong


def copies(root: Path, methods: list[Finder]) -> dict[str, dict[str, tuple[float, float]]]:
    """Prints recall per transform, at both thresholds, and returns the thresholds (default, fair) of each method."""
    files = [(folder, path) for folder in FOLDERS for path in chosen_files(root / folder)]
    images = [(folder, image) for folder, path in files if (image := read(path)) is not None]
    labels, greys = np.array([folder for folder, _ in images]), [image for _, image in images]
    codes = {method.name: np.array([method.encode(grey) for grey in greys]) for method in methods}
    wrong = different_folders(labels)
    limits: dict[str, tuple[float, float]] = {}
    print(f"\ncopies: {len(greys)} images of {len(set(labels))} folders, {len(wrong):,} pairs of different folders")
    for method in methods:
        least, widest, count = thresholds(method, codes[method.name], wrong)
        limits[method.name] = (least, widest)
        print(f"  {method.name:14s} {count:6,} wrong pairs at its default {abs(least):g}; none at {abs(widest):.3g}")
    columns = [(method, place) for method in methods for place in range(2)]
    titles = [method.name + (" (none)" if place else "") for method, place in columns]
    print("\nrecall, %".ljust(29) + "  ".join(title.rjust(19) for title in titles))
    for name, transform in TRANSFORMS.items():
        changed = [transform(grey) for grey in greys]
        scores = {m.name: m.score(np.array([m.encode(image) for image in changed]), codes[m.name]) for m in methods}
        shares = [100 * (scores[m.name] >= limits[m.name][place]).mean() for m, place in columns]
        print(f"{name:28s}" + "  ".join(f"{share:19.1f}" for share in shares))
    return limits


def print_truth(name: str, truth: Truth, methods: list[Finder], limits: dict[str, tuple[float, float]]) -> None:
    """Recall and precision of each method at both thresholds."""
    print(f"\n{name}: {len(truth.right):,} near-duplicate pairs, {len(truth.wrong):,} pairs that are none")
    print("method".ljust(28) + "recall %   precision %   wrong pairs")
    for method in methods:
        for place, title in enumerate(("", " (none)")):
            recall, precision, wrong = judge(truth, method, limits[method.name][place])
            print(f"{method.name + title:28s}{100 * recall:8.1f}{100 * precision:14.1f}{wrong:14,}")


def print_leak(truth: Truth, splits: list[str], threads: int) -> None:
    """How much of HIT-UAV's official test split is in its training split."""
    prints = Fingerprints.of(truth.codes["msip"])
    split = np.array(splits)
    test, train = np.flatnonzero(split == "test"), np.flatnonzero(split == "train")
    found = best_matches(prints.take(test), prints.take(train), least=SIMILARITY, threads=threads)
    share = float((found.partner[:, 2] >= 0).mean())
    print(f"\nHIT-UAV's own split: {100 * share:.1f} % of its {len(test)} test images are like a training image")
    known = {(int(a), int(b)) for a, b in truth.right}
    crossing = [pair for pair in known if {split[pair[0]], split[pair[1]]} == {"test", "train"}]
    codes = truth.codes["msip"]
    rows = np.array(crossing)
    hit = (similarity(codes[rows[:, 0]], codes[rows[:, 1]]) >= SIMILARITY).mean()
    print(f"of {len(rows)} neighbouring pairs that cross from test to train (by SIFT), {100 * hit:.1f} % are found")


def synthetic(count: int) -> Fingerprints:
    """Random fingerprints in groups of a hundred that are alike, as sequences are."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 30, (count // 100 + 1, LENGTH)).astype(np.float32)
    prints = np.empty(count, PRINT)
    prints["side"] = 255
    for start in range(0, count, 50_000):
        rows = np.arange(start, min(start + 50_000, count))
        noise = rng.normal(0, 12, (len(rows), LENGTH)).astype(np.float32)
        prints["vector"][rows] = prints["detail"][rows] = np.clip(centres[rows // 100] + noise, -127, 127)
    return Fingerprints.of(prints)


def print_times(counts: list[int], peer_most: int, rounds: int, threads: int) -> None:
    """Hash an image; compare n of them with each other. imagededup is measured up to ``peer_most``."""
    grey = np.random.default_rng(0).integers(0, 255, (512, 640), np.uint8)
    hasher = PHash(verbose=False)
    each: dict[str, list[float]] = {"msip": [], "PHash": []}
    for _ in range(20 * rounds):
        for name, encode in (("msip", fingerprint), ("PHash", lambda image: hash_of(hasher, image))):
            start = time.perf_counter()
            encode(grey)
            each[name].append(1e3 * (time.perf_counter() - start))
    ours, theirs = (statistics.median(each[name]) for name in each)
    print(f"\nto code one 640 x 512 image: msip {ours:.2f} ms, PHash {theirs:.2f} ms (ratio {theirs / ours:.1f})")
    print("\nto compare all (s)          msip   msip groups   imagededup PHash   ratio")
    for count in counts:
        prints = synthetic(count)
        times: dict[str, list[float]] = {"match": [], "group": [], "peer": []}
        codes = {f"{row}.jpg": f"{int(code):016x}" for row, code in enumerate(prints.codes[:, 0])}
        turns = rounds if count <= peer_most else 1
        for _ in range(turns):
            times["match"].append(_timed(lambda p=prints: best_matches(p, least=SIMILARITY, threads=threads)))
            times["group"].append(_timed(lambda p=prints: leaders(p, least=SIMILARITY, threads=threads)))
            if count <= peer_most:
                search = {"encoding_map": codes, "num_dist_workers": threads}
                times["peer"].append(_timed(lambda s=search: hasher.find_duplicates(**s)))
        match, group = (statistics.median(times[key]) for key in ("match", "group"))
        peer = statistics.median(times["peer"]) if times["peer"] else None
        told = f"{peer:18.2f}{peer / match:8.1f}" if peer else "      not measured       -"
        print(f"{count:>12,} images {match:12.2f}{group:14.2f}{told}")


def _timed(task: Callable[[], object]) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(os.environ.get("MSIP_REALDATA", "../shared/realdata"))
    parser.add_argument("--realdata", type=Path, default=default, help="folder of real infrared images")
    parser.add_argument("--hit-uav", type=Path, help="HIT-UAV's folder normal_json, with train, val and test")
    parser.add_argument("--counts", type=int, nargs="*", default=[1_000, 10_000, 178_756], help="sizes to time")
    parser.add_argument("--peer-most", type=int, default=10_000, help="time imagededup up to this size")
    parser.add_argument("--rounds", type=int, default=3, help="timings taken in turns; the median is shown")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    packages = {name: version(name) for name in ("imagededup", "numpy", "opencv-python-headless", "numba")}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(json.dumps(packages))
    methods = finders()
    limits = copies(arguments.realdata, methods)
    for name, truth in sequences(arguments.realdata, methods).items():
        print_truth(name, truth, methods, limits)
    if arguments.hit_uav:
        truth, splits = hit_uav(arguments.hit_uav, methods)
        print_truth("hit-uav", truth, methods, limits)
        print_leak(truth, splits, arguments.threads)
    warm = synthetic(300)
    best_matches(warm, least=SIMILARITY)
    leaders(warm, least=SIMILARITY)
    print_times(arguments.counts, arguments.peer_most, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
