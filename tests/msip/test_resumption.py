"""A build that goes on uses of the earlier one only what still holds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from msip import Manifest, build, durability
from msip.trees import read_file
from msip.verify import verify_build


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())


def noise(seed: int, size=(24, 32)) -> np.ndarray:
    """Counts without any structure: as PNG, all have the same size."""
    return (7000 + 30 * np.random.default_rng(seed).standard_normal(size)).astype(np.uint16)


def locked(name: str):
    """``read_file`` where the file of that name cannot be read."""

    def read(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read_file(path)

    return read


def test_a_frame_that_could_not_be_read_is_read_by_the_next_build(tmp_path, monkeypatch):
    out = tmp_path / "out"
    for index in range(3):
        save(tmp_path / f"frames/{index}.png", noise(index))
    with monkeypatch.context() as patch:
        patch.setattr("msip.process.read_file", locked("1.png"))
        report = build(None, out, folder=tmp_path / "frames", with_rois=False)
    assert report.sources[0].problems == [("1.png", "broken", "cannot be read: Permission denied")]
    report = build(None, out, folder=tmp_path / "frames", with_rois=False)
    assert report.images == 3 and not report.sources[0].problems and report.sources[0].done_before == 2
    assert verify_build(out).ok


def test_a_dark_frame_that_could_not_be_read_is_judged_by_the_next_build(tmp_path, monkeypatch):
    for index in range(0, 40):
        image = np.full((48, 64), 18 if index == 20 else 90, np.uint8)
        save(tmp_path / f"raw/SCUT_FIR_101/videos/set00/V000/{index}.png", image)
    with monkeypatch.context() as patch:
        patch.setattr("msip.process.read_file", locked("20.png"))
        build(tmp_path / "raw", tmp_path / "out", sources=["scut_fir_pedestrian"], with_rois=False)
    report = build(tmp_path / "raw", tmp_path / "out", sources=["scut_fir_pedestrian"], with_rois=False)
    assert (report.images, report.sources[0].dropped_dark) == (3, 1)


def test_images_of_an_unfinished_build_with_other_options_are_not_taken_for_ones_own(tmp_path):
    for index in range(70):
        save(tmp_path / f"frames/{index:02d}.png", noise(index))
    build(None, tmp_path / "out", folder=tmp_path / "frames", with_rois=False)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == 64:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        window = {"agc": "window", "agc_window": (6900, 7100)}
        build(None, tmp_path / "out", folder=tmp_path / "frames", with_rois=False, progress=interrupt, **window)
    build(None, tmp_path / "out", folder=tmp_path / "frames", with_rois=False)
    assert verify_build(tmp_path / "out").ok


def test_after_a_power_cut_torn_images_of_sources_that_are_built_later_are_found(tmp_path, monkeypatch):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for index in range(3):
        save(raw / f"LLVIP/infrared/train/{index}.jpg", noise(index) >> 6)
        save(raw / f"dronevehicle/train/trainimgr/{index}.jpg", np.full((300, 300), 250 + index, np.uint8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("msip.pipeline.flush", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        build(raw, out, sources=["llvip", "dronevehicle"], with_rois=False)
    torn = out / "llvip/thermal/1.jpg"
    torn.write_bytes(bytes(torn.stat().st_size))
    monkeypatch.setattr(durability, "system_start", lambda: "another")
    build(raw, out, sources=["dronevehicle"], with_rois=False)
    build(raw, out, sources=["llvip", "dronevehicle"], with_rois=False)
    assert not verify_build(out).damaged


def test_linked_folders_hold_frames_too_and_loops_end(tmp_path):
    frames, disk = tmp_path / "frames", tmp_path / "disk"
    save(frames / "a.png", noise(0))
    save(disk / "b.png", noise(1))
    (frames / "cam").symlink_to(disk)
    (frames / "loop").symlink_to(frames)
    (disk / "back").symlink_to(frames)
    build(None, frames / "out", folder=frames, with_rois=False)
    assert Manifest.read(frames / "out").table.column("source_path").to_pylist() == ["a.png", "cam/b.png"]
