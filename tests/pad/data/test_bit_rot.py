"""A stored image that the disk has damaged after the build is named and replaced, whatever its format."""

import cv2
import numpy as np
import pytest
from training_runs import config, heard, train

from msip import Manifest, build
from msip.shards import shard


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rot")
    rng = np.random.default_rng(3)
    (folder / "frames").mkdir()
    for number in range(9):
        noise = cv2.GaussianBlur(rng.integers(0, 255, (96, 128), dtype=np.uint8), (0, 0), 2)
        suffix = ("jpg", "png", "bmp")[number % 3]
        cv2.imwrite(str(folder / f"frames/{number}.{suffix}"), cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX))
    build(None, folder / "out", folder=folder / "frames", name="cam", workers=1)
    shard(folder / "out", folder / "tars")
    return folder


def damage(path, at, count=64):
    data = bytearray(path.read_bytes())
    data[at : at + count] = bytes(value ^ 0x55 for value in data[at : at + count])
    path.write_bytes(data)


def unreadable(data, run):
    with heard() as said:
        result = train(config(data, run, batch_size=3, epochs=1))
    return result.unreadable_images, [line for line in said if "takes its place" in line]


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp"])
def test_wrong_bytes_in_a_file_are_named_and_replaced(built, tmp_path, suffix):
    out = tmp_path / "out"
    build(None, out, folder=built / "frames", name="cam", workers=1)
    path = next(p for p in Manifest.read(out).frame.path if p.endswith(suffix))
    damage(out / path, (out / path).stat().st_size // 2)
    assert unreadable(out, tmp_path / "run") == (
        1,
        [f"warning: {path} is damaged or cannot be read; another image takes its place."],
    )


def test_wrong_bytes_in_a_tar_are_named_and_replaced(built, tmp_path):
    tar = next((built / "tars").glob("*.tar"))
    whole = tar.read_bytes()
    try:
        damage(tar, whole.index(b"\xff\xd8\xff") + 600)
        count, said = unreadable(built / "tars", tmp_path / "run")
        assert count == 1 and tar.name in said[0]
    finally:
        tar.write_bytes(whole)


def test_the_cases_of_real_people_are_noticed(cases, tmp_path):
    damaged = sorted((cases / "training/bit-rot/in").glob("*.jpg"))
    frames = tmp_path / "frames"
    frames.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        cv2.imwrite(
            str(frames / f"{number}.jpg"), cv2.GaussianBlur(rng.integers(0, 255, (96, 128), np.uint8), (0, 0), 2)
        )
    build(None, tmp_path / "out", folder=frames, name="cam", workers=1)
    for number, bad in enumerate(damaged):
        (tmp_path / f"out/cam/thermal/{number}.jpg").write_bytes(bad.read_bytes())
    assert unreadable(tmp_path / "out", tmp_path / "run")[0] == len(damaged) == 3
