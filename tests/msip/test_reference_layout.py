"""A build read by the reference's directory rules, re-created from their description."""

import os
from pathlib import Path

import pytest
from PIL import Image

from msip import Manifest, build
from msip.synthetic import write_raw

SUFFIXES = ("jpg", "jpeg", "JPEG", "png", "bmp")
SOURCES = ["scut_fir_pedestrian", "llvip", "lasher", "infrared_ship"]


def read_as_the_reference(root):
    """(image, its RoIs) of every sub-dataset; numeric names in numeric order, others as the listing gives them."""
    found = []
    for name in os.listdir(root):  # noqa: PTH208 - as it does
        paths = [path for suffix in SUFFIXES for path in (Path(root) / name / "thermal").glob(f"*.{suffix}")]
        if all(path.stem.isdigit() for path in paths):
            paths.sort(key=lambda path: int(path.stem))
        for path in paths:
            text = path.parent.parent / "roi" / (path.name.split(".")[0] + ".txt")
            lines = text.read_text().splitlines() if text.exists() else []
            found.append((path, [tuple(map(int, line.strip().split(","))) for line in lines]))
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    build(write_raw(folder / "raw", per_mille=0.05), folder / "out", sources=SOURCES, roi_txt=True)
    return folder / "out"


def test_the_reference_finds_the_manifests_images_and_rois(out):
    manifest, found = Manifest.read(out), dict(read_as_the_reference(out))
    assert set(found) == {manifest.path(row) for row in range(len(manifest))}
    boxes = 0
    for row in range(len(manifest)):
        rois = [tuple(box[:4]) for box in manifest.rois(row).tolist()]
        assert sorted(found[manifest.path(row)]) == sorted(rois)
        boxes += len(rois)
    assert boxes > len(manifest)
    assert {path.parts[-3] for path in found} == set(SOURCES)


def test_what_it_finds_it_can_use(out):
    for path, rois in read_as_the_reference(out):
        with Image.open(path) as file:
            width, height = file.convert("RGB").size
        assert all(min(x, y) >= 0 and x + w <= width and y + h <= height for x, y, w, h in rois)


def test_numbered_sources_come_in_the_manifests_order(out):
    ids = [image_id for image_id in Manifest.read(out).frame.image_id if image_id.startswith("lasher/")]
    theirs = [f"lasher/{path.stem}" for path, _ in read_as_the_reference(out) if path.parts[-3] == "lasher"]
    assert theirs == ids and len(ids) > 1
