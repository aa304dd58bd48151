"""One pixel, a solar cell, one line, no contrast, 67 megapixels: through RoIs, shards, crops and the loader."""

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from msip import Manifest, build
from msip.crops import RoiCrop
from msip.export import export_crops
from msip.shards import shard
from msip.verify import verify_build
from pad.data.dataset import PretrainDataset
from pad.data.index import ImageIndex, open_data, write_index

SHAPES = {"flat": (120, 160), "line": (1, 300), "one": (1, 1), "solar": (40, 24)}


def dataset(path):
    data = open_data(path)
    return PretrainDataset(ImageIndex(write_index(data, path / ".index")), data.root, seed=0, crop=RoiCrop(size=64))


def same_samples(places, epochs):
    """Samples of the build, after a look that all places give the same."""
    first, *others = (dataset(place) for place in places)
    for key in [(epoch, row) for epoch in range(epochs) for row in range(len(first))]:
        sample = first[key]
        assert sample["used"] == key[1] and sample["image"].shape == (1, 64, 64)
        assert all(np.array_equal(sample["image"], other[key]["image"]) for other in others)
        yield key, sample["image"]


def test_small_and_flat_images(tmp_path):
    frames, rng = tmp_path / "frames", np.random.default_rng(0)
    frames.mkdir()
    for name, shape in SHAPES.items():
        pixels = np.full(shape, 90, np.uint8) if name == "flat" else rng.integers(0, 256, shape, np.uint8)
        cv2.imwrite(str(frames / f"{name}.png"), pixels)
    build(None, tmp_path / "out", folder=frames, keep_blank=True)
    manifest = Manifest.read(tmp_path / "out")
    assert [(row.height, row.width) for row in manifest.frame.itertuples()] == list(SHAPES.values())
    # One region, as wide as from the first pixel to the last; nothing of 40 pixels on both sides in the others.
    assert [manifest.rois(row).tolist() for row in range(4)] == [[[0, 0, 159, 119, 19200]], [], [], []]
    for layout in ("webdataset", "raw"):
        shard(tmp_path / "out", tmp_path / layout, layout=layout)
        assert verify_build(tmp_path / layout).ok
    for (_, row), image in same_samples([tmp_path / name for name in ("out", "webdataset", "raw")], 5):
        constant = manifest.frame.image_id[row] != "frames/solar"  # a line is cropped to one pixel: 4 to 3 at most
        assert (image.min() == image.max()) == constant


@pytest.mark.slow
def test_67_megapixels(tmp_path):
    frames, side = tmp_path / "frames", 8192
    frames.mkdir()
    pixels = np.full((side, side), 40, np.uint8)
    cv2.rectangle(pixels, (3000, 5000), (3799, 5399), 220, -1)
    cv2.imwrite(str(frames / "mosaic.png"), pixels)
    build(None, tmp_path / "out", folder=frames)
    boxes = Manifest.read(tmp_path / "out").rois(0)[:, :4]
    assert np.abs(boxes - [3000, 5000, 799, 399]).max(axis=1).min() <= 3  # smoothed by a pixel or so
    shard(tmp_path / "out", tmp_path / "raw", layout="raw")
    assert (tmp_path / "raw/msip-000000.raw").stat().st_size == side**2
    assert len(list(same_samples([tmp_path / "out", tmp_path / "raw"], 2))) == 2
    report = export_crops(tmp_path / "out", tmp_path / "crops", min_size=300, per_image=3)
    with (tmp_path / "crops/crops.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 0 < report.crops == len(rows) <= 3
    assert all(cv2.imread(str(tmp_path / "crops" / row["file"]), 0) is not None for row in rows)


MEASURE = """
import numpy as np
from pathlib import Path
from msip import selective_search

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024

shape = {shape}
image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
selective_search(image[:64, :64])  # machine code and libraries
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = peak()
selective_search(image)
print((peak() - before) / (shape[0] * shape[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's peak of a process's memory")
@pytest.mark.parametrize(("shape", "most"), [((1536, 2048), 77), ((1536, 2048, 3), 93)])
def test_memory_of_selective_search_is_bounded(shape, most):
    run = [sys.executable, "-c", MEASURE.format(shape=shape)]
    grown = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert 10 < grown < most + 8  # beside the workspace: regions and boxes
