"""A folder of one's own frames: nothing in it becomes an image, or is left out, without a word."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from msip_cli.main import app
from typer.testing import CliRunner

from msip import Manifest, build
from msip.manifest import SCHEMA

H, W = 120, 160


def scene(seed: int = 0, low: int = 7000, span: int = 900) -> np.ndarray:
    """Counts of a smooth background with warm objects and noise, uint16 (120, 160)."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.normal(size=(11, 14)), (W, H), interpolation=cv2.INTER_CUBIC)
    for y, x in ((10, 110), (70, 20), (75, 90)):
        image[y : y + 28, x : x + 24] += 4
    image = (image - image.min()) / np.ptp(image)
    return np.round(low + span * image + rng.normal(0, span / 200, (H, W))).astype(np.uint16)


def grey(seed: int = 0) -> np.ndarray:
    return cv2.normalize(scene(seed), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def put(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **options)
        path.write_bytes(file.getvalue())
    else:
        path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


@pytest.fixture
def frames(tmp_path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


def msip(*arguments: object) -> tuple[int, str]:
    """Exit code, and what is printed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def ids(out: Path) -> list[str]:
    return Manifest.read(out).table.column("image_id").to_pylist()


# --- pixels without data ---------------------------------------------------------------------------------------------


def test_pixels_without_data_are_out_of_window_rois_and_statistics(frames, tmp_path):
    counts = cv2.resize(scene(1), None, fx=2, fy=2)  # RoIs have a least size
    put(frames / "whole.tiff", counts)
    counts[:60, :70] = -9999 & 0xFFFF
    put(frames / "holed.tiff", counts)
    build(None, tmp_path / "out", folder=frames)
    manifest = Manifest.read(tmp_path / "out")
    holed, whole = manifest.table.to_pylist()
    assert (holed["nodata"], whole["nodata"]) == (60 * 70, None)
    assert "4200 pixels without data" in holed["transform"]
    stored = cv2.imread(str(manifest.path(0)), cv2.IMREAD_UNCHANGED)
    assert (stored[:60, :70] == 0).all() and np.count_nonzero(stored == 0) == 60 * 70
    measured = stored[stored > 0] / 255
    assert (holed["pixel_mean"], holed["pixel_std"]) == pytest.approx((measured.mean(), measured.std()))
    assert measured.max() == 1  # the window is the scene's
    boxes = manifest.rois(0)
    assert len(boxes) > 3
    for x, y, width, height, _ in boxes:
        assert (stored[y : y + height, x : x + width] > 0).mean() > 0.5


def test_a_manifest_without_such_frames_has_no_such_column(frames, tmp_path):
    out = tmp_path / "out"
    put(frames / "a.tiff", scene(1))
    build(None, out, folder=frames, name="plain", with_rois=False)
    assert Manifest.read(out).table.schema == SCHEMA
    other = tmp_path / "other"
    counts = scene(2)
    counts[:20] = -32768 & 0xFFFF
    put(other / "b.tiff", counts)
    build(None, out, folder=other, with_rois=False)
    assert Manifest.read(out).table.column("nodata").to_pylist() == [20 * W, None]
    (other / "b.tiff").unlink()
    put(other / "c.tiff", scene(3))
    build(None, out, folder=other)
    assert Manifest.read(out).table.schema == SCHEMA


# --- which files -----------------------------------------------------------------------------------------------------


def test_what_systems_and_network_disks_leave_is_skipped_and_counted(frames, tmp_path):
    for name in ("img0.png", "@holiday/img1.png", "#1/img2.png", "$cold/img3.png", "recycle/img4.png"):
        put(frames / name, grey(1))
    left = ("@eaDir/img0.png/SYNOPHOTO_THUMB_M.jpg", "sub/@EADIR/a.png", "$RECYCLE.BIN/S-1/$R1.png", "#recycle/b.png")
    left += (
        "lost+found/c.png",
        "System Volume Information/d.png",
        "FOUND.000/e.png",
        "@Recycle/f.png",
        ".Trash-1000/g.png",
    )
    left += ("SYNOPHOTO_THUMB_XL.jpg", "~$img.png", "x.png@SynoEAStream", "._img0.png", "sub/._img9.png", "Thumbs.db")
    for name in left:
        put(frames / "tmp.png", grey(2)).rename(
            (frames / name) if (frames / name).parent.exists() else _made(frames / name)
        )
    report = build(None, tmp_path / "out", folder=frames, with_rois=False).sources[0]
    assert (report.images, report.strays) == (5, {})
    assert report.leftovers == {
        "$RECYCLE.BIN": 1, "#recycle": 1, ".Trash-1000": 1, "._*": 2, "@EADIR": 1, "@Recycle": 1, "@eaDir": 1,
        "FOUND.000": 1, "System Volume Information": 1, "Thumbs.db": 1, "lost+found": 1, "synophoto_thumb*": 1,
        "~$*": 1, "*@synoeastream": 1,
    }  # fmt: skip
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0 and "15 files" in said and "@eaDir" in said


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (("--exclude", "*_w.jpg"), ["a_DJI_1_T", "a_DJI_2_T", "b_DJI_3_T", "b_masks_m"]),
        (("--include", "*_T.jpg"), ["a_DJI_1_T", "a_DJI_2_T", "b_DJI_3_T"]),
        (("--include", "a", "--exclude", "*_2_*"), ["a_DJI_1_T", "a_DJI_1_W"]),
        (("--exclude", "MASKS", "--exclude", "a/*"), ["b_DJI_3_T", "b_DJI_3_W"]),
        (("--include", "**/masks/*"), ["b_masks_m"]),
        (("--exclude", "*_W*", "--every", "2"), ["a_DJI_1_T", "b_DJI_3_T", "b_masks_m"]),
    ],
)
def test_globs_and_a_stride_choose_files(frames, tmp_path, options, taken):
    for name in ("a/DJI_1_T.JPG", "a/DJI_1_W.JPG", "a/DJI_2_T.JPG", "a/DJI_2_W.JPG", "b/DJI_3_T.JPG", "b/DJI_3_W.JPG"):
        put(frames / name, grey(len(name)))
    put(frames / "b/masks/m.JPG", grey(9))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois", *options)
    assert code == 0, said
    assert ids(tmp_path / "out") == [f"frames/{stem}" for stem in taken]
    record = json.loads((tmp_path / "out/build.json").read_text())["sources"]["frames"]
    assert record["seen"] == 7 and record["choice"]
    globs = [value for name, value in zip(options[::2], options[1::2], strict=True) if name != "--every"]
    assert [*record["choice"].get("include", []), *record["choice"].get("exclude", [])] == globs


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--include", "*.tif"), "matches --include '*.tif' (the first is a.png)"),
        (("--exclude", "*_W.JPG"), "matches --exclude '*_W.JPG'"),
        (("--exclude", "*"), "leave no frame of the 2"),
        (("--every", "0"), "--every is 0, expected 1 or more"),
        (("--channel", "5"), "--channel is 5, expected 1 to 4"),
    ],
)
def test_choices_that_cannot_be_are_one_sentence(frames, tmp_path, options, says):
    put(frames / "a.png", grey(1)), put(frames / "b.png", grey(2))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", *options)
    assert code == 2 and says in said, said
    assert not (tmp_path / "out").exists()


def test_choices_are_of_ones_own_frames(tmp_path):
    for options in (("--include", "*"), ("--every", "2"), ("--channel", "4")):
        code, said = msip("build", "--raw", tmp_path, "--out", tmp_path / "out", *options)
        assert code == 2 and f"{options[0]} chooses among your own frames" in said


def test_files_of_one_name_are_told_apart_by_their_suffix(frames, tmp_path):
    put(frames / "FLIR0.jpg", grey(1)), put(frames / "FLIR0.tiff", scene(1)), put(frames / "FLIR1.tiff", scene(2))
    (frames / "FLIR0.csv").write_text("1,2")
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0, said
    assert ids(tmp_path / "out") == ["frames/FLIR0_jpg", "frames/FLIR0_tiff", "frames/FLIR1"]
    assert "FLIR0.jpg and FLIR0.tiff" in said and "--exclude" in said
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois", "--exclude", "*.jpg")
    assert code == 0 and ids(tmp_path / "out") == ["frames/FLIR0", "frames/FLIR1"]
    put(frames / "a/b.png", grey(3)), put(frames / "a_b.png", grey(4))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out")
    assert code == 2 and "leave one out with --exclude" in said


def test_the_cases_of_folders(cases, tmp_path):
    folders = cases / "folders"
    report = build(None, tmp_path / "nas", folder=folders / "nas-leftovers", with_rois=False).sources[0]
    assert report.images == 3
    assert report.leftovers["@eaDir"] == 6 and report.leftovers["$RECYCLE.BIN"] == 1 and report.leftovers["._*"] == 3
    report = build(None, tmp_path / "stem", folder=folders / "same-stem", with_rois=False).sources[0]
    assert report.images == 6 and len(report.twins) == 3
    report = build(None, tmp_path / "dji", folder=folders / "jpeg-and-its-tiff", with_rois=False).sources[0]
    assert ids(tmp_path / "dji")[-1] == "jpeg-and-its-tiff/M30T_0001_tiff"
