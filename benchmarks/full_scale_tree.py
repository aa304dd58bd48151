"""All eight sources of MSIP at true size, as hard links to a few hundred real frames: names, counts and traps.

What is published is laid out as published (SCUT's frames per video, DroneVehicle's and LLVIP's splits); what nobody
has counted (frames per sequence of LSOTB-TIR and LasHeR) is drawn so that the strided sums are the corpus's.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import yaml
from realdata import REALDATA

from msip.sources import load_corpus, load_source

HERE = Path(__file__).resolve().parents[1]
FACTS = Path(os.environ.get("MSIP_FACTS", HERE / "../shared/facts")).resolve()
STRIDE = 10
DARK = 96
MOST_LINKS = 60_000  # ext4 allows 65,000
LASHER_SPELLINGS = ("i{:03d}", "v{:06d}", "{:06d}", "i{}", "v0_{}")
VOC = b"<annotation></annotation>\n"


class Tree:
    """Writes one raw tree. ``counts`` fills with the images that each source must give; ``files`` with what lies there.

    Args:
        raw: a new folder.
        scale: share of the sequences, or of the images of sources without sequences.
    """

    def __init__(self, raw: Path, scale: float) -> None:
        self.raw, self.scale = raw, scale
        self.counts: dict[str, int] = {}
        self.infrared = self.visible = 0
        self.rng = np.random.default_rng(0)
        self.full = load_corpus("msip").known_counts

    def write(self) -> Path:
        """Lay everything out; returns the corpus file with the exact counts."""
        for source in (self._dronevehicle, self._scut, self._llvip, self._aerial, self._ship, self._security):
            source()
        self._lsotb()
        self._lasher()
        corpus = {"name": "full-scale", "title": "full scale", "images": sum(self.counts.values())}
        (self.raw / "corpus.yaml").write_text(yaml.safe_dump({**corpus, "sources": self.counts}, sort_keys=False))
        return self.raw / "corpus.yaml"

    def _share(self, count: int, least: int = 2) -> int:
        return max(least, round(count * self.scale))

    def _pool(self, name: str, images: list[bytes], uses: int) -> list[Path]:
        """Distinct frames on disk, each in as many copies as the limit on links asks for."""
        folder = self.raw / ".pool" / name
        folder.mkdir(parents=True)
        copies = -(-uses // (MOST_LINKS * len(images)))
        paths = [folder / f"{index}" for index in range(copies * len(images))]
        for path, data in zip(paths, images * copies, strict=True):
            path.write_bytes(data)
        return paths

    def _real(self, name: str, pattern: str, uses: int) -> list[Path]:
        paths = sorted((REALDATA / "msip_sources").glob(pattern))
        if not paths:
            raise SystemExit(f"no real frames at {REALDATA}/msip_sources/{pattern}: set MSIP_REALDATA")
        return self._pool(name, [path.read_bytes() for path in paths], uses)

    def _link(self, folder: Path, names: Iterator[str] | list[str], pool: list[Path], *, visible: bool = False) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        start, prefix = int(self.rng.integers(len(pool))), f"{folder}/"
        targets = [str(path) for path in pool]
        count = -1
        for count, name in enumerate(names):
            os.link(targets[(start + count) % len(targets)], prefix + name)
        if visible:
            self.visible += count + 1
        else:
            self.infrared += count + 1
        return count + 1

    def _dronevehicle(self) -> None:
        train = self._share(self.full["dronevehicle"])
        pools = {
            "imgr": self._real("drone_ir", "DroneVehicle/train/trainimgr/*", train),
            "img": self._real("drone_visible", "LLVIP/visible/train/*", train),
        }
        for split, frames in (("train", train), ("val", self._share(1469)), ("test", self._share(8980))):
            for kind, pool in pools.items():
                names = [f"{number:05d}.jpg" for number in range(1, frames + 1)]
                self._link(self.raw / "DroneVehicle" / split / f"{split}{kind}", names, pool, visible=kind == "img")
        self.counts["dronevehicle"] = train

    def _scut(self) -> None:
        """Videos by the published frame counts; dark frames sit among the strided ones, and beside them."""
        lengths = sorted(load_source("scut_fir_pedestrian").videos.items())
        videos = [(set_, video, length) for name, length in lengths for set_, _, video in [name.partition("/")]]
        videos = videos[: self._share(len(videos))]
        strided = sum(-(-length // STRIDE) for _, _, length in videos)
        dark = self._share(DARK, 1)
        real = sorted((REALDATA / "msip_sources").glob("SCUT*/videos/*/*/*"))
        frames = [image for image in map(_as_scut, real) if image is not None]
        pool = self._pool("scut", frames, strided * STRIDE)
        shutter = self._pool("scut_dark", [_jpeg(np.full((576, 720), level, np.uint8)) for level in (0, 7, 20)], 999)
        places = {int(place) for place in self.rng.choice(strided, dark, replace=False)}
        before = 0
        for set_, video, length in videos:
            folder = self.raw / "SCUT FIR Pedestrian Dataset" / "videos" / set_ / video
            self._link(folder, [f"{number}.jpg" for number in range(length)], pool)
            own = -(-length // STRIDE)
            for place in (place - before for place in places if before <= place < before + own):
                for number in range(max(0, STRIDE * place - 2), min(length, STRIDE * place + 3)):
                    (folder / f"{number}.jpg").unlink()
                    os.link(shutter[number % 3], folder / f"{number}.jpg")
            before += own
        self.counts["scut_fir_pedestrian"] = strided - dark

    def _llvip(self) -> None:
        train, test = self._share(self.full["llvip"]), self._share(3463)
        for kind in ("infrared", "visible"):
            pool = self._real(f"llvip_{kind}", f"LLVIP/{kind}/train/*", train)
            for split, frames, scene, scenes in (("train", train, 1, 18), ("test", test, 19, 8)):
                names = [f"{scene + n % scenes:02d}{n // scenes + 1:04d}.jpg" for n in range(frames)]
                self._link(self.raw / "LLVIP" / kind / split, names, pool, visible=kind == "visible")
        self.counts["llvip"] = train

    def _aerial(self) -> None:
        count = self._share(self.full["infrared_aerial"])
        pool = self._real("aerial", "infrared_aerial/*", 2 * count)
        self._link(self.raw / "infrared_aerial", [f"{number:05d}.jpg" for number in range(2 * count)], pool)
        for number in range(0, 2 * count, 20):
            (self.raw / "infrared_aerial" / f"{number:05d}.json").write_bytes(VOC)
        self.counts["infrared_aerial"] = count

    def _ship(self) -> None:
        train = self._share(self.full["infrared_ship"])
        pool = self._real("ship", "红外船舶数据库/dataset/images/train/*", train)
        root = self.raw / "红外海上船舶数据集" / "红外船舶数据库" / "dataset" / "images"
        for split, frames in (("train", train), ("test", self._share(1000))):
            self._link(root / split, [f"ir-{n // 300}_{n % 300}.jpg" for n in range(frames)], pool)
        self.counts["infrared_ship"] = train

    def _security(self) -> None:
        count = self._share(self.full["infrared_security"])
        pool = self._real("security", "infrared_security/images/*", count)
        self._link(self.raw / "infrared_security" / "images", [f"{n:06d}.jpg" for n in range(count)], pool)
        self.counts["infrared_security"] = count

    def _lengths(self, sequences: int, strided: int) -> list[int]:
        """Frames of each sequence, at least 21, with sum(ceil(n / 10)) = ``strided``."""
        shares = 3 + self.rng.multinomial(strided - 3 * sequences, np.full(sequences, 1 / sequences))
        return [int(STRIDE * (share - 1) + self.rng.integers(1, STRIDE + 1)) for share in shares]

    def _lsotb(self) -> None:
        names = _names("lsotb_train_sequences.txt", [f"TIR_training_{i % 4 + 1:03d}/car_{i:04d}" for i in range(1280)])
        names, strided = names[: self._share(len(names))], self._share(self.full["lsotb_tir"])
        pool = self._real("lsotb", "LSOTB-TIR_TrainingData/TrainingData/*/*/*", strided * STRIDE)
        for name, length in zip(names, self._lengths(len(names), strided), strict=True):
            folder = self.raw / "LSOTB-TIR_TrainingData" / "TrainingData" / name
            self._link(folder, [f"{number:08d}.jpg" for number in range(1, length + 1)], pool)
        self.counts["lsotb_tir"] = strided

    def _lasher(self) -> None:
        names = _names("lasher_train_sequences.txt", [f"girl`s{i:04d}" for i in range(979)])
        names, strided = names[: self._share(len(names))], self._share(self.full["lasher"])
        infrared = self._real("lasher_ir", "LasHeR/TrainingSet/trainingset/*/infrared/*", strided * STRIDE)
        visible = self._real("lasher_visible", "LasHeR/TrainingSet/trainingset/*/visible/*", strided * STRIDE)
        train = self.raw / "LasHeR" / "TrainingSet" / "trainingset"
        for index, (name, length) in enumerate(zip(names, self._lengths(len(names), strided), strict=True)):
            spelling = LASHER_SPELLINGS[index % len(LASHER_SPELLINGS)] + ".jpg"
            frames = [spelling.format(number) for number in range(length)]
            self._link(train / name / "infrared", frames, infrared)
            self._link(train / name / "visible", frames, visible, visible=True)
            if index % 100 == 0:
                (train / name / "infrared" / "Thumbs.db").write_bytes(VOC)
        for name in _names("lasher_test_sequences.txt", ["10runone"])[: self._share(245)]:
            test = self.raw / "LasHeR" / "TestingSet" / "testingset" / name
            self._link(test / "infrared", [f"i{number:03d}.jpg" for number in range(STRIDE)], infrared)
            self._link(test / "visible", [f"v{number:03d}.jpg" for number in range(STRIDE)], visible, visible=True)
        self.counts["lasher"] = strided


def read_and_hash(paths: list[Path]) -> tuple[int, float]:
    """The floor: (bytes, CPU seconds) of reading and hashing some files."""
    begin = time.process_time()
    size = 0
    for path in paths:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        size += len(data)
    return size, time.process_time() - begin


def _names(file: str, otherwise: list[str]) -> list[str]:
    """Published sequence names where the list is here, else invented ones."""
    path = FACTS / file
    return path.read_text(encoding="utf-8").split() if path.exists() else otherwise


def _as_scut(path: Path) -> bytes | None:
    """A real frame at the true size of a SCUT frame; ``None`` for one that the dark filter would drop."""
    grey = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    large = cv2.resize(grey, (720, 576), interpolation=cv2.INTER_CUBIC)
    return _jpeg(large) if large.max() > 40 else None


def _jpeg(grey: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
