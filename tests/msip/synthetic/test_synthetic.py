from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from msip.errors import OutputError
from msip.frames import list_frames
from msip.sources import load_corpus, load_source
from msip.synthetic import Camera, Scene, render_scene, write_folder, write_raw

KINDS = ["street", "yard", "aerial", "sea", "field"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return write_raw(tmp_path_factory.mktemp("synthetic"), seed=3, per_mille=0.3)


def read(path: Path) -> np.ndarray:
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def every(folders: list[Path], step: int) -> list[Path]:
    """Every ``step``-th jpg of each folder, in the order of the last number in the stem."""
    taken = []
    for folder in folders:
        frames = sorted(folder.glob("*.jpg"), key=lambda path: int("".join(filter(str.isdigit, path.stem)) or 0))
        taken += frames[::step]
    return taken


def test_expected_counts_by_counting_the_trees(raw):
    lasher = sorted((raw / "LasHeR/TrainingSet/trainingset").glob("*/infrared"))
    lsotb = sorted((raw / "LSOTB-TIR_TrainingData/TrainingData").glob("TIR_training_00?/*"))
    scut = every(sorted((raw / "SCUT FIR Pedestrian Dataset/videos").glob("set*/V*")), 10)
    counted = {
        "dronevehicle": len(list((raw / "DroneVehicle/train/trainimgr").glob("*.jpg"))),
        "scut_fir_pedestrian": sum(int(read(path).max()) > 20 for path in scut),
        "llvip": len(list((raw / "LLVIP/infrared/train").glob("*.jpg"))),
        "infrared_aerial": len(every([raw / "infrared_aerial"], 2)),
        "infrared_ship": len(list((raw / "红外海上船舶数据集/红外船舶数据库/dataset/images/train").glob("*.jpg"))),
        "infrared_security": len(list((raw / "infrared_security").rglob("*.jpg"))),
        "lsotb_tir": len(every(lsotb, 10)),
        "lasher": len(every(lasher, 10)),
    }
    corpus = load_corpus(raw / "corpus.yaml")
    assert corpus.name == "synthetic"
    assert dict(corpus.sources) == counted
    assert list(corpus.sources) == list(load_corpus("msip").sources)
    assert sum(int(read(path).max()) <= 20 for path in scut) >= 1  # the filter has something to drop


@pytest.mark.parametrize("name", list(load_corpus("msip").sources))
def test_the_lister_finds_what_the_corpus_promises(raw, name):
    listing = list_frames(load_source(name), raw)
    extra = 1 if name == "scut_fir_pedestrian" else 0  # dropped later, when frames are decoded
    assert len(listing.frames) == load_corpus(raw / "corpus.yaml").sources[name] + extra
    assert listing.problems == []


def test_traps_of_the_true_trees_are_there(raw):
    drone = read(raw / "DroneVehicle/train/trainimgr/00001.jpg")
    assert drone.shape == (712, 840, 3)
    assert drone[:95].min() > 250
    assert drone[100:-100, 100:-100].std() > 10
    scut = {path.stem for path in (raw / "SCUT FIR Pedestrian Dataset/videos/set00/V000").glob("*.jpg")}
    assert {"0", "9", "10"} <= scut
    llvip = read(raw / "LLVIP/infrared/train/010001.jpg")
    assert llvip.ndim == 3
    assert (np.ptp(llvip.astype(int), axis=2) <= 2).all()
    assert (raw / "LLVIP/visible/train/010001.jpg").exists()
    assert list((raw / "LLVIP/infrared/test").glob("19*.jpg"))
    assert list((raw / "infrared_aerial").glob("*.txt"))
    assert list((raw / "红外海上船舶数据集/红外船舶数据库/dataset/images/test").glob("*.jpg"))
    subsets = [path.name for path in (raw / "LSOTB-TIR_TrainingData/TrainingData").glob("*/*")]
    assert len(subsets) > len(set(subsets))  # one video name in two subsets
    assert (raw / "LSOTB-TIR_TrainingData/TrainingData/TIR_training_001/car_001/00000001.jpg").exists()
    sequences = [path.name for path in (raw / "LasHeR/TrainingSet/trainingset").iterdir()]
    assert any("`" in name for name in sequences)
    assert list((raw / "LasHeR").rglob("infrared/Thumbs.db"))
    assert list((raw / "LasHeR").rglob("visible/v*.jpg"))
    assert list((raw / "LasHeR/TestingSet/testingset").glob("*/infrared/*.jpg"))


def test_every_frame_has_contrast_except_behind_the_shutter(raw):
    flat = [path for path in raw.rglob("*.jpg") if "visible" not in path.parts and read(path).std() < 5]
    assert flat
    assert all("videos" in path.parts and int(read(path).max()) <= 20 for path in flat)


def test_same_arguments_same_bytes(tmp_path):
    first = digests(write_raw(tmp_path / "a", seed=1, per_mille=0.01))
    assert digests(write_raw(tmp_path / "a", seed=1, per_mille=0.01)) == first
    with pytest.raises(OutputError, match="another synthetic tree"):
        write_raw(tmp_path / "a", seed=2, per_mille=0.01)


def test_own_camera_folder_has_one_blank_and_one_truncated(tmp_path):
    write_folder(tmp_path, count=8, seed=5)
    blank, broken, good = [], [], []
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        try:
            pixels = np.asarray(Image.open(path))
        except OSError:
            broken.append(path)
            continue
        (good if np.ptp(pixels) else blank).append(pixels)
    assert (len(blank), len(broken), len(good)) == (1, 1, 6)
    assert all(pixels.dtype == np.uint16 and pixels.shape == (256, 320) for pixels in good)
    counts = [pixels for pixels in good if pixels.max() < 2**14]
    kelvin = [pixels / 100 for pixels in good if pixels.max() >= 2**14]
    assert len(counts) == 2
    assert len(kelvin) == 4
    assert all(image.min() > 240 and 295 < image.max() < 380 for image in kelvin)


@pytest.mark.parametrize("kind", KINDS)
def test_scenes_are_warm_things_before_a_cooler_ground(kind):
    kelvin = render_scene(np.random.default_rng(0), width=320, height=256, kind=kind)
    assert kelvin.shape == (256, 320)
    assert kelvin.dtype == np.float32
    assert kelvin.min() > 240
    assert 270 < np.median(kelvin) < 295
    assert 298 < kelvin.max() < 371


@pytest.mark.parametrize("kind", KINDS)
def test_videos_move_and_move_smoothly(kind):
    scene = Scene(np.random.default_rng(2), width=320, height=256, kind=kind)
    first, next_one, later = scene.kelvin(0), scene.kelvin(1), scene.kelvin(40)
    near, far = np.abs(next_one - first).mean(), np.abs(later - first).mean()
    assert 0 < near < far / 2
    np.testing.assert_array_equal(scene.kelvin(0), first)  # any order
    again = Scene(np.random.default_rng(2), width=320, height=256, kind=kind)
    np.testing.assert_array_equal(again.kelvin(40), later)


def test_the_followed_box_holds_something_warm():
    scene = Scene(np.random.default_rng(4), width=320, height=256, kind="yard")
    x, y, width, height = scene.box(10)
    assert width >= 20
    assert height >= 60
    kelvin = scene.kelvin(10)
    inside = kelvin[y : y + height, x : x + width]
    assert inside.max() > 300 > np.median(kelvin)


def test_polarity_noise_and_depth_of_the_camera():
    kelvin = render_scene(np.random.default_rng(0), width=320, height=256, kind="street")
    white = Camera(np.random.default_rng(1)).grey(kelvin).astype(int)
    black = Camera(np.random.default_rng(1), polarity="black_hot").grey(kelvin).astype(int)
    assert (white + black == 255).all()
    assert white[kelvin > 303].mean() > 220
    camera = Camera(np.random.default_rng(1), netd_kelvin=0.05)
    difference = camera.sense(kelvin) - camera.sense(kelvin)  # the fixed pattern cancels
    assert difference.std() == pytest.approx(0.05 * 2**0.5, rel=0.05)
    counts = camera.counts(kelvin)
    assert counts.dtype == np.uint16
    assert counts.max() < 2**14
    assert np.corrcoef(counts.ravel(), kelvin.ravel())[0, 1] > 0.95
