"""A folder of one's own frames: nothing in it becomes an image, or is left out, without a word."""

from __future__ import annotations

import io
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
