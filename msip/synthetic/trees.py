"""Raw trees of synthetic frames: the eight sources as they lie on disk, traps included, and a folder of one's own."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from msip.errors import OutputError
from msip.files import write_bytes
from msip.pictures import encode_jpeg, encode_png
from msip.sources import load_corpus
from msip.synthetic.camera import Camera, visible
from msip.synthetic.scenes import Kind, Scene

_BORDER_PX = 100  # of DroneVehicle
_STRIDE = 10
_VIDEO_STRIDED = 7  # a video has about so many strided frames; the true sets have 20 to 50
_SHUTTER = range(-2, 3)  # frames around the middle of a video that a closed shutter blackens


def write_raw(raw: Path, *, seed: int = 0, per_mille: float = 1.0) -> Path:
    """Write all eight sources of the corpus ``msip`` in their published layouts, with ``per_mille`` of their images.

    ``raw/corpus.yaml`` describes the corpus ``synthetic`` with the exact counts of these trees. The same arguments
    give the same bytes with the same versions of NumPy and OpenCV. Returns ``raw``.

    Raises:
        OutputError: ``raw`` holds a synthetic tree of other arguments, or cannot be written.
    """
    raw = Path(raw)
    counts = {name: max(2, round(count * per_mille / 1000)) for name, count in load_corpus("msip").known_counts.items()}
    corpus = {
        "name": "synthetic",
        "title": f"Synthetic scenes in the layouts of the MSIP sources (seed {seed}, {per_mille:g} per mille)",
        "images": sum(counts.values()),
        "sources": counts,
    }
    text = yaml.safe_dump(corpus, sort_keys=False, allow_unicode=True).encode()
    described = raw / "corpus.yaml"
    if described.exists() and described.read_bytes() != text:
        raise OutputError(f"{raw} holds another synthetic tree; give an empty folder or remove that one.")
    write_bytes(described, text)
    for name, count in counts.items():
        _TREES[name](raw, seed, count)
    return raw


def write_folder(folder: Path, *, count: int, seed: int = 0) -> Path:
    """Write ``count`` frames (at least 4) of "one's own camera": 16-bit, 320x256, in two sub-folders.

    Half are PNG with 14-bit counts, half TIFF in hundredths of a kelvin; among them one constant frame (the shutter
    was closed: ``frame_0001.png``) and one truncated file (the last PNG). Returns ``folder``.
    """
    folder = Path(folder)
    pngs = count - count // 2
    gate = _Film("street", 320, 256, seed, "gate")
    for frame in range(pngs):
        counts = gate.camera.counts(gate.scene.kelvin(10 * frame))
        data = encode_png(np.full_like(counts, 7512) if frame == 1 else counts)
        whole = len(data) if frame < pngs - 1 else len(data) // 2
        write_bytes(folder / "gate" / f"frame_{frame:04d}.png", data[:whole], sync=False)
    roof = _Film("yard", 320, 256, seed, "roof")
    for frame in range(count - pngs):
        _save(folder / "roof" / f"frame_{frame:04d}.tiff", roof.camera.centikelvin(roof.scene.kelvin(10 * frame)))
    return folder


class _Film:
    """One scene before one camera; every video and every still has its own, made from the seed and a path of keys."""

    def __init__(self, kind: Kind, width: int, height: int, seed: int, *keys: str | int, dark: bool = False) -> None:
        numbers = [zlib.crc32(key.encode()) if isinstance(key, str) else int(key) for key in keys]
        rng = np.random.default_rng([seed, *numbers])
        self.scene = Scene(rng, width=width, height=height, kind=kind)
        self.camera = Camera(
            rng,
            polarity="black_hot" if rng.uniform() < 0.2 else "white_hot",
            blur_px=rng.uniform(0.5, 0.9),
            netd_kelvin=rng.uniform(0.04, 0.12),
            span=(55.0, 99.9) if dark else (rng.uniform(0.3, 8), 99.8),
        )
        self._tint = rng.uniform(0.7, 1.1, 3).astype(np.float32)

    def grey(self, frame: int = 0) -> NDArray[np.uint8]:
        return self.camera.grey(self.scene.kelvin(frame))

    def pair(self, frame: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The infrared frame (h, w) and its visible partner (h, w, 3)."""
        kelvin = self.scene.kelvin(frame)
        return self.camera.grey(kelvin), visible(kelvin, self._tint)


def _save(path: Path, pixels: NDArray[Any], quality: int = 92) -> None:
    data = encode_jpeg(pixels, quality) if path.suffix == ".jpg" else encode_png(pixels)
    write_bytes(path, data, sync=False)


def _note(path: Path, text: str) -> None:
    write_bytes(path, text.encode(), sync=False)


def _three(grey: NDArray[np.uint8]) -> NDArray[Any]:
    """One channel stored as three equal ones."""
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)


def _voc(name: str, size: tuple[int, int], depth: int) -> str:
    return (
        f"<annotation><filename>{name}</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        f"<depth>{depth}</depth></size></annotation>\n"
    )


def _video_lengths(rng: np.random.Generator, strided: int) -> list[int]:
    """Frames in each video, so that every tenth of each makes ``strided`` frames in all: sum of ceil(n / 10)."""
    videos = max(1, strided // _VIDEO_STRIDED)
    least = min(3, strided)
    shares = least + rng.multinomial(strided - least * videos, np.full(videos, 1 / videos))
    return [int(_STRIDE * (share - 1) + rng.integers(1, _STRIDE + 1)) for share in shares]


def _with_border(pixels: NDArray[Any]) -> NDArray[Any]:
    white = (255, 255, 255)
    px = _BORDER_PX
    return cv2.copyMakeBorder(pixels, px, px, px, px, borderType=cv2.BORDER_CONSTANT, value=white)


def _dronevehicle(raw: Path, seed: int, count: int) -> None:
    for split, frames in (("train", count), ("val", 2)):
        base = raw / "DroneVehicle" / split
        for number in range(1, frames + 1):
            grey, colour = _Film("aerial", 640, 512, seed, "dronevehicle", split, number).pair()
            stem = f"{number:05d}"
            _save(base / f"{split}imgr" / f"{stem}.jpg", _with_border(_three(grey)), 95)
            _save(base / f"{split}img" / f"{stem}.jpg", _with_border(colour), 95)
            for labels in (f"{split}label", f"{split}labelr"):
                _note(base / labels / f"{stem}.xml", _voc(f"DJI_{number + 300:04d}", (840, 712), 3))


def _scut(raw: Path, seed: int, count: int) -> None:
    rng = np.random.default_rng([seed, zlib.crc32(b"scut")])
    dropped = max(1, round(count * 96 / 21049))
    for video, length in enumerate(_video_lengths(rng, count + dropped)):
        folder = raw / "SCUT FIR Pedestrian Dataset" / "videos" / f"set{video // 3:02d}" / f"V{video % 3:03d}"
        film = _Film("street", 360, 288, seed, "scut", video)
        strided = (length + _STRIDE - 1) // _STRIDE
        shut = {_STRIDE * (strided // 2) + frame for frame in _SHUTTER} if video < dropped else set()
        for frame in range(length):
            grey = film.grey(frame)
            _save(folder / f"{frame}.jpg", grey // 20 if frame in shut else grey)


def _llvip(raw: Path, seed: int, count: int) -> None:
    for split, frames, first in (("train", count, 1), ("test", 3, 19)):
        for start in range(0, frames, 6):
            _llvip_scene(raw / "LLVIP", split, first + start // 6, min(6, frames - start), seed)


def _llvip_scene(root: Path, split: str, scene: int, frames: int, seed: int) -> None:
    film = _Film("yard", 640, 512, seed, "llvip", scene, dark=True)
    for number in range(1, 3 * frames, 3):  # pairs that were registered badly are missing
        name = f"{scene:02d}{number:04d}"
        grey, colour = film.pair(5 * number)
        _save(root / "infrared" / split / f"{name}.jpg", _three(grey), 95)
        _save(root / "visible" / split / f"{name}.jpg", colour // 3, 95)
        _note(root / "Annotations" / f"{name}.xml", _voc(f"{name}.jpg", (640, 512), 3))


def _aerial(raw: Path, seed: int, count: int) -> None:
    for number in range(1, 2 * count):  # an odd number of frames: every second of them makes ``count``
        film = _Film("aerial", 640, 512, seed, "aerial", number)
        _save(raw / "infrared_aerial" / f"{number:05d}.jpg", film.grey())
        _note(raw / "infrared_aerial" / f"{number:05d}.txt", "0 0.5 0.5 0.05 0.05\n")


def _ship(raw: Path, seed: int, count: int) -> None:
    dataset = raw / "红外海上船舶数据集" / "红外船舶数据库" / "dataset"
    for split, frames in (("train", count), ("test", 2)):
        for number in range(frames):
            video, frame = number // 3, 25 * (number % 3)
            if frame == 0:
                film = _Film("sea", 384, 288, seed, "ship", split, video)
            _save(dataset / "images" / split / f"ir-{video}_{frame:03d}.jpg", film.grey(frame))
            _note(dataset / "labels" / split / f"ir-{video}_{frame:03d}.txt", _yolo(film.scene, frame))


def _yolo(scene: Scene, frame: int) -> str:
    x, y, width, height = scene.box(frame)
    values = (
        (x + width / 2) / scene.width,
        (y + height / 2) / scene.height,
        width / scene.width,
        height / scene.height,
    )
    return "0 " + " ".join(f"{value:.6f}" for value in values) + "\n"


def _security(raw: Path, seed: int, count: int) -> None:
    for number in range(count):
        film = _Film(("yard", "street")[number % 2], 640, 512, seed, "security", number)
        _save(raw / "infrared_security" / "images" / f"{number:06d}.jpg", film.grey())


_LSOTB_VIDEOS: tuple[tuple[str, Kind], ...] = (
    ("car", "street"),
    ("Drone_dog", "field"),
    ("person", "yard"),
    ("Vehicle-mounted_bus", "street"),
    ("boat", "sea"),
)


def _lsotb(raw: Path, seed: int, count: int) -> None:
    rng = np.random.default_rng([seed, zlib.crc32(b"lsotb")])
    root = raw / "LSOTB-TIR_TrainingData"
    for video, length in enumerate(_video_lengths(rng, count)):
        what, kind = _LSOTB_VIDEOS[video // 2 % len(_LSOTB_VIDEOS)]
        # Two subsets in a row use the same video name, as the true set does.
        name = f"TIR_training_{video % 4 + 1:03d}/{what}_{video // 2 // len(_LSOTB_VIDEOS) + 1:03d}"
        film = _Film(kind, 320, 256, seed, "lsotb", video)
        for frame in range(length):
            _save(root / "TrainingData" / name / f"{frame + 1:08d}.jpg", film.grey(frame))
        _note(root / "Annotations" / name / "00000001.xml", _voc("00000001", (320, 256), 1))


_LASHER_NAMES: tuple[tuple[str, Callable[[str, int], str]], ...] = (
    ("blkteacher`shead", lambda sensor, frame: f"{sensor}{frame:03d}"),
    ("2ndrunningboy", lambda sensor, frame: f"v{frame + 18:06d}"),
    ("ajiandan_blkdog", lambda sensor, frame: f"{frame:06d}"),
    ("Crossingcar", lambda sensor, frame: f"{sensor}{frame}"),
    ("girl`sheadoncall", lambda sensor, frame: f"v0_{frame + 63}"),
)
"""Sequences and the ways their frames are named; further ones repeat these with a number behind."""


def _lasher(raw: Path, seed: int, count: int) -> None:
    rng = np.random.default_rng([seed, zlib.crc32(b"lasher")])
    root = raw / "LasHeR"
    for number, length in enumerate(_video_lengths(rng, count)):
        name, spell = _LASHER_NAMES[number % len(_LASHER_NAMES)]
        turn = number // len(_LASHER_NAMES)
        sequence = root / "TrainingSet" / "trainingset" / (f"{name}{turn}" if turn else name)
        _lasher_sequence(
            sequence, spell, length, _Film(("yard", "street")[number % 2], 320, 256, seed, "lasher", number)
        )
        if number == 0:
            write_bytes(sequence / "infrared" / "Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(60), sync=False)
    test = root / "TestingSet" / "testingset" / "bluecar"
    _lasher_sequence(test, _LASHER_NAMES[0][1], 4, _Film("street", 320, 256, seed, "lasher", "test"))


def _lasher_sequence(folder: Path, spell: Callable[[str, int], str], length: int, film: _Film) -> None:
    boxes = list(_boxes(film.scene, length))
    for frame in range(length):
        grey, colour = film.pair(frame)
        _save(folder / "infrared" / f"{spell('i', frame)}.jpg", grey)
        _save(folder / "visible" / f"{spell('v', frame)}.jpg", colour, 85)
    for name, lines in (("infrared.txt", boxes), ("visible.txt", boxes), ("init.txt", boxes[:1])):
        _note(folder / name, "".join(f"{line}\r\n" for line in lines))


def _boxes(scene: Scene, length: int) -> Iterator[str]:
    for frame in range(length):
        yield ",".join(str(value) for value in scene.box(frame))


_TREES: dict[str, Callable[[Path, int, int], None]] = {
    "dronevehicle": _dronevehicle,
    "scut_fir_pedestrian": _scut,
    "llvip": _llvip,
    "infrared_aerial": _aerial,
    "infrared_ship": _ship,
    "infrared_security": _security,
    "lsotb_tir": _lsotb,
    "lasher": _lasher,
}
