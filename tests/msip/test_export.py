"""Exported crops against the images and the trainer's own draws."""

import csv

import cv2
import numpy as np
import pytest

from msip import Manifest, build
from msip.crops import RoiCrop, cut, sample_key, sample_rng
from msip.errors import ManifestError, OutputError
from msip.export import export_crops
from msip.proposals import write_roi_txt


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    for index in range(3):
        image = rng.normal(90, 3, (160, 200))
        image[40:110, 60:120] += 90
        (folder / "frames").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"frames/{index}.png"), cv2.GaussianBlur(image, (0, 0), 1.5).clip(0, 255).astype("u1"))
    build(None, folder / "out", folder=folder / "frames")
    return folder / "out"


def rows_of(to):
    with (to / "crops.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_rois_are_cut_out_as_they_are(built, tmp_path):
    report = export_crops(built, tmp_path / "to", mode="rois")
    manifest = Manifest.read(built)
    assert report.crops == sum(len(manifest.rois(row)) for row in range(3)) > 0
    for row in rows_of(tmp_path / "to"):
        image = cv2.imread(str(built / f"frames/thermal/{row['image_id'].split('/')[1]}.png"), 0)
        x, y, w, h = (int(row[name]) for name in ("x", "y", "width", "height"))
        assert np.array_equal(cv2.imread(str(tmp_path / "to" / row["file"]), 0), image[y : y + h, x : x + w])


def test_training_crops_are_what_the_trainer_draws(built, tmp_path):
    export_crops(built, tmp_path / "to", mode="training", per_image=2, seed=3, epoch=1)
    manifest, rows = Manifest.read(built), rows_of(tmp_path / "to")
    assert len(rows) == 6
    for row in rows:
        index = manifest.table.column("image_id").to_pylist().index(row["image_id"])
        image = cv2.imread(str(manifest.path(index)), 0)
        rng = sample_rng(3, 1, sample_key(row["image_id"]), int(row["view"]))
        box, flip = RoiCrop().draw((200, 160), manifest.rois(index), rng)
        assert [str(value) for value in box] == [row[name] for name in ("x", "y", "width", "height")]
        assert np.array_equal(cv2.imread(str(tmp_path / "to" / row["file"]), 0), cut(image, box, 224, flip=flip))


def test_an_export_replaces_its_own_files_and_nothing_else(built, tmp_path):
    export_crops(built, tmp_path / "to", mode="training", per_image=3)
    export_crops(built, tmp_path / "to", mode="training", per_image=1)
    assert len(list((tmp_path / "to/frames").iterdir())) == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").touch()
    with pytest.raises(OutputError, match="not empty"):
        export_crops(built, tmp_path / "other")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["mine.txt"]


def test_roi_txt_reads_back_as_the_reference_reads_it(built):
    manifest = Manifest.read(built)
    assert write_roi_txt(manifest) == 3
    for row in range(3):
        text = (built / f"frames/roi/{manifest.path(row).stem}.txt").read_text()
        lines = [[int(value) for value in line.strip().split(",")] for line in text.splitlines()]
        assert sorted(map(tuple, lines)) == sorted(map(tuple, manifest.rois(row)[:, :4].tolist()))


def test_a_build_without_rois_says_so(built, tmp_path):
    build(None, tmp_path / "out", folder=built.parent / "frames", with_rois=False)
    with pytest.raises(ManifestError, match="msip rois"):
        export_crops(tmp_path / "out", tmp_path / "to")
