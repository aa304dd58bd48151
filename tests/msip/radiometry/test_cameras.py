"""A camera format is one file: in the list of formats, or in a package of one's own."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from msip import Manifest, build
from msip.errors import MsipError
from msip.radiometry import cameras, decode
from msip.sources import load_source

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding-a-camera.md").read_text(), re.DOTALL)[0]


def counts(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.add.outer(np.arange(40), np.arange(50)) * 30 + rng.integers(7000, 7100, (40, 50))).astype(np.uint16)


def toy(pixels: np.ndarray) -> bytes:
    return b"TOY1" + struct.pack("<HH", *pixels.shape[::-1]) + pixels.astype("<u2").tobytes()


@pytest.fixture
def frames(tmp_path) -> Path:
    """Two frames of the toy recorder, one under a foreign name, one cut off, and a text."""
    folder = tmp_path / "frames"
    folder.mkdir()
    (folder / "a.toy").write_bytes(toy(counts(1)))
    (folder / "renamed.dat").write_bytes(toy(counts(2)))
    (folder / "cut.toy").write_bytes(toy(counts(3))[:-1])
    (folder / "readme.txt").write_text("taken in May")
    return folder


@pytest.fixture
def fresh_formats():
    caches = (cameras.camera_formats, cameras.suffixes)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


def install(site: Path, group: str, line: str, modules: dict[str, str]) -> dict[str, str]:
    """A package as an installer leaves it; returns the environment in which Python finds it."""
    info = site / "its_package-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: its-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
    for name, text in modules.items():
        (site / name).parent.mkdir(exist_ok=True)
        (site / name).write_text(text)
    return os.environ | {"PYTHONPATH": str(site)}


def msip(*arguments: object, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "msip_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_one_file_and_one_row_make_a_format(frames, tmp_path, monkeypatch, fresh_formats):
    scope: dict = {}
    exec(EXAMPLE, scope)
    monkeypatch.setitem(cameras.FORMATS, "toy", scope["TOY"])
    np.testing.assert_array_equal(decode(toy(counts(1)), name="x").pixels, counts(1))
    report = build(None, tmp_path / "out", folder=frames)
    table = Manifest.read(tmp_path / "out").frame
    assert list(table["image_id"]) == ["frames/a", "frames/renamed"]
    assert set(table["bit_depth"]) == {16}
    assert [(path, kind) for path, kind, _ in report.sources[0].problems] == [("cut.toy", "broken")]
    assert report.sources[0].strays == {".txt": 1}
    assert "| Toy recorder | .toy | the raw counts | - |" in cameras.markdown_table()


def test_an_entry_point_makes_a_format_in_every_process(frames, tmp_path):
    env = install(tmp_path / "site", "msip.cameras", "toy = its_package:TOY", {"its_package.py": EXAMPLE})
    done = msip("build", "--folder", frames, "--out", tmp_path / "out", "--workers", 2, "--no-rois", "--json", env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sources"]["frames"]["images"] == 2
    assert list(Manifest.read(tmp_path / "out").frame["image_id"]) == ["frames/a", "frames/renamed"]


FAULTY = """
from msip.radiometry import RawFrame
from msip.radiometry.camera import CameraFormat

def read(data, name):
    if data[4] == 50:  # a width
        raise KeyError("lens")
    import numpy as np
    return RawFrame(np.ones((4, 4), np.float32), 16, 1, "toy")

TOY = CameraFormat("Toy recorder", (".toy",), lambda data: data.startswith(b"TOY1"), read, "counts")
"""


def test_faults_of_a_foreign_reader_are_problems_of_frames(frames, tmp_path):
    (frames / "b.toy").write_bytes(toy(counts(4)[:20, :20]))
    cv2.imwrite(str(frames / "good.png"), counts(5))
    env = install(tmp_path / "site", "msip.cameras", "toy = its_package:TOY", {"its_package.py": FAULTY})
    done = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois", env=env)
    assert done.returncode == 0 and "1 images" in done.stdout, done.stderr
    assert "the reader of Toy recorder failed (KeyError: 'lens')" in done.stdout
    assert "the reader of Toy recorder gave float32, expected uint8 or uint16" in done.stdout


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("toy = its_package:LENS", "'toy' (its_package:LENS) in the group msip.cameras cannot be loaded"),
        ("toy = nowhere:TOY", "'toy' (nowhere:TOY) in the group msip.cameras cannot be loaded"),
        ("toy = its_package:MAGIC", "is a bytes, expected a CameraFormat"),
        ("png = its_package:TOY", "'png' in the group msip.cameras has the name of one of ours"),
    ],
)
def test_a_broken_entry_point_is_one_sentence_that_names_it(line, says, frames, tmp_path):
    env = install(tmp_path / "site", "msip.cameras", line, {"its_package.py": EXAMPLE})
    done = msip("build", "--folder", frames, "--out", tmp_path / "out", env=env)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_sources_of_another_package_are_found(tmp_path):
    theirs = (ROOT / "data_manifests/llvip.yaml").read_text().replace("name: llvip", "name: their_roads", 1)
    modules = {"its_package/__init__.py": "", "its_package/their_roads.yaml": theirs}
    env = install(tmp_path / "site", "msip.sources", "theirs = its_package", modules)
    corpus = tmp_path / "mine.yaml"
    corpus.write_text("name: mine\ntitle: Mine\nimages: 12025\nsources: {their_roads: 12025}\n")
    done = msip("sources", "--corpus", corpus, env=env)
    assert done.returncode == 0 and "their_roads" in done.stdout, done.stderr
    clash = {"its_package/llvip.yaml": (ROOT / "data_manifests/llvip.yaml").read_text()}
    env = install(tmp_path / "other", "msip.sources", "theirs = its_package", {"its_package/__init__.py": ""} | clash)
    done = msip("sources", "--corpus", corpus, env=env)
    assert done.returncode == 2 and "llvip.yaml describe one name" in done.stderr


def test_without_packages_the_sources_are_the_projects_own():
    assert load_source("llvip").name == "llvip"


@pytest.mark.parametrize("page", ["radiometry.md", "my-camera.md"])
def test_the_tables_of_the_pages_are_the_list(page):
    """If not: ``python -m msip.radiometry.cameras`` prints the table."""
    assert cameras.markdown_table() in (ROOT / "docs" / page).read_text()


def test_the_key_of_a_format_is_its_container():
    assert {key: camera.kept for key, camera in cameras.FORMATS.items() if camera.kept} == {
        "jpeg": ".jpg",
        "png": ".png",
        "bmp": ".bmp",
    }
    with pytest.raises(MsipError, match="WebP"):
        decode(b"RIFF\0\0\0\0WEBPVP8 ", name="x")
