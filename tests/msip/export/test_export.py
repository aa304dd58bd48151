"""Exported crops against the images and the trainer's own draws."""

import csv
import json

import cv2
import numpy as np
import pytest
import webdataset
from msip_cli.main import app
from pycocotools.coco import COCO

from msip import Manifest, build
from msip.crops import RoiCrop, cut, sample_key, sample_rng
from msip.errors import ManifestError, MsipError, OutputError
from msip.export import export_crops
from msip.export.recipe import boxes_in_crop
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


def contents(folder):
    """What a user sees of an export."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".msip" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


FORMATS = [("coco", {"mode": "training", "per_image": 2}), ("webdataset", {"tar_pixels": 30_000})]


@pytest.mark.parametrize(("fmt", "options"), FORMATS)
def test_same_bytes_with_more_workers_and_after_a_kill(built, tmp_path, monkeypatch, fmt, options):
    monkeypatch.setattr("msip.export.chunks.IMAGES_A_CHUNK", 1)
    one, two = tmp_path / "one", tmp_path / "two"
    report = export_crops(built, one, fmt=fmt, **options)
    export_crops(built, two, fmt=fmt, workers=2, **options)
    assert contents(one) == contents(two) and report.kept == 0
    (two / "crops.csv").unlink()  # killed: the lists not yet written, a part not noted, a file cut off
    max((two / ".msip/export").iterdir()).unlink()
    crop = next(path for path in sorted(two.rglob("*")) if path.suffix == ".tar" or path.name.endswith("_0.png"))
    crop.write_bytes(crop.read_bytes()[:-1])
    again = export_crops(built, two, fmt=fmt, **options)
    assert contents(one) == contents(two) and 0 < again.kept < 3


def test_what_a_killed_export_left_is_removed_by_another(built, tmp_path, monkeypatch):
    def killed(folder, *_):
        raise KeyboardInterrupt

    monkeypatch.setattr("msip.export.run.write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        export_crops(built, tmp_path / "to", mode="training", per_image=9)
    monkeypatch.undo()
    export_crops(built, tmp_path / "to", fmt="webdataset")
    assert set(contents(tmp_path / "to")) == {"crops-000000.tar", "crops.csv", "contact_sheet.png"}


def test_webdataset_reads_the_crops(built, tmp_path):
    report = export_crops(built, tmp_path / "tars", fmt="webdataset", padding=5, tar_pixels=30_000)
    tars = sorted(str(path) for path in (tmp_path / "tars").glob("*.tar"))
    assert len(tars) > 1
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert len(samples) == report.crops == len(rows_of(tmp_path / "tars"))
    manifest = Manifest.read(built).frame.set_index("image_id")
    for sample, row in zip(samples, rows_of(tmp_path / "tars"), strict=True):
        record = json.loads(sample["json"])
        assert record["image_id"] == row["image_id"] and sample["__key__"] + ".png" == row["file"]
        image = cv2.imread(str(built / manifest.path[record["image_id"]]), 0)
        x, y, w, h = (record[name] for name in ("x", "y", "width", "height"))
        crop = cv2.imdecode(np.frombuffer(sample["png"], np.uint8), 0)
        assert np.array_equal(crop, image[y : y + h, x : x + w])
        assert record["transform"].endswith(f"crop {w}x{h} at {x},{y}")
        assert record["image_sha256"] == manifest.sha256[record["image_id"]]


@pytest.mark.parametrize("mode", ["rois", "training"])
def test_pycocotools_reads_the_crops(built, tmp_path, mode):
    report = export_crops(built, tmp_path / "coco", fmt="coco", mode=mode, per_image=4)
    coco, manifest = COCO(tmp_path / "coco/annotations.json"), Manifest.read(built)
    assert len(coco.imgs) == report.crops > 0 and coco.cats[1]["name"] == "proposal"
    ids = manifest.table.column("image_id").to_pylist()
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(tmp_path / "coco" / image["file_name"]), 0)
        assert pixels.shape == (image["height"], image["width"])
        rois = manifest.rois(ids.index(image["image_id"]))
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        if mode == "rois":  # the crop is the proposal
            assert [a["bbox"] for a in annotations] == [[0, 0, image["width"], image["height"]]]
            assert [*image["box"], annotations[0]["area"]] in rois.tolist()
        else:
            wanted = boxes_in_crop(rois, image["box"], 224, flip=bool(image["flip"]))
            assert np.allclose([[*a["bbox"], a["area"]] for a in annotations], wanted.reshape(-1, 5))
    assert len(coco.anns) > 0


def test_boxes_follow_the_pixels_of_a_training_crop():
    image = np.zeros((100, 200), np.uint8)
    image[40:60, 100:130] = 255
    rois = np.array([[100, 40, 30, 20, 600], [0, 0, 90, 90, 8100]], np.int32)
    box = (80, 20, 100, 50)
    for flip in (False, True):
        crop = cut(image, box, 200, flip=flip)
        ((x, y, w, h, area),) = boxes_in_crop(rois, box, 200, flip=flip)  # the other one is outside but for a corner
        assert (x, y, w, h, area) == (100 if flip else 40, 80, 60, 80, 4800)
        assert crop[int(y) + 2 : int(y + h) - 2, int(x) + 2 : int(x + w) - 2].min() > 250
        assert crop.astype(int).sum() < 255 * area * 1.05


def test_padding_stays_inside_the_image_and_small_proposals_are_left_out(built, tmp_path):
    plain, padded = tmp_path / "plain", tmp_path / "padded"
    export_crops(built, plain, mode="rois")
    export_crops(built, padded, mode="rois", padding=30)
    assert len(rows_of(plain)) == len(rows_of(padded))
    for before, after in zip(rows_of(plain), rows_of(padded), strict=True):
        x, y, w, h = (int(before[name]) for name in ("x", "y", "width", "height"))
        left, top, right, bottom = max(0, x - 30), max(0, y - 30), min(200, x + w + 30), min(160, y + h + 30)
        box = [left, top, right - left, bottom - top]
        assert [int(after[name]) for name in ("x", "y", "width", "height")] == box
        assert [after[f"roi_{name}"] for name in ("x", "y", "width", "height")] == [str(v) for v in (x, y, w, h)]
        assert cv2.imread(str(padded / after["file"]), 0).shape == (box[3], box[2])
    smallest = sorted(min(int(row["width"]), int(row["height"])) for row in rows_of(plain))
    least = smallest[len(smallest) // 2] + 1
    export_crops(built, tmp_path / "large", min_size=least, padding=40)  # padding does not make it large
    assert 0 < len(rows_of(tmp_path / "large")) == sum(size >= least for size in smallest) < len(smallest)
    with pytest.raises(MsipError, match="`mode=rois`"):
        export_crops(built, tmp_path / "no", mode="training", padding=1)


def test_images_without_rois_and_extreme_ones(tmp_path):
    frames = tmp_path / "frames"
    frames.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in {"one": (1, 1), "solar": (40, 24), "line": (1, 300), "flat": (120, 160)}.items():
        image = np.full(shape, 90, np.uint8) if name == "flat" else rng.integers(0, 256, shape, np.uint8)
        cv2.imwrite(str(frames / f"{name}.png"), image)
    build(None, tmp_path / "out", folder=frames, keep_blank=True)
    report = export_crops(tmp_path / "out", tmp_path / "rois")
    assert report.images == 4 and report.crops == len(rows_of(tmp_path / "rois"))
    assert {row["image_id"] for row in rows_of(tmp_path / "rois")} <= {"frames/flat"}
    training = export_crops(tmp_path / "out", tmp_path / "training", mode="training", fmt="coco", per_image=3)
    assert (training.crops, training.without_crops) == (12, 0)
    for image in COCO(tmp_path / "training/annotations.json").imgs.values():
        assert cv2.imread(str(tmp_path / "training" / image["file_name"]), 0).shape == (224, 224)
    empty = export_crops(tmp_path / "out", tmp_path / "rois", fmt="coco", min_size=5000)
    assert (empty.crops, empty.without_crops) == (0, 4) and not COCO(tmp_path / "rois/annotations.json").imgs
    assert set(contents(tmp_path / "rois")) == {"crops.csv", "annotations.json"}


def test_the_command(built, tmp_path, capsys):
    arguments = ["export-crops", str(built), "--to", str(tmp_path / "to"), "--format", "coco", "--padding", "4"]
    app([*arguments, "--min-size", "45", "--json"], standalone_mode=False)
    summary = json.loads(capsys.readouterr().out)
    assert summary["crops"] == len(COCO(tmp_path / "to/annotations.json").imgs) and summary["kept"] == 0


def test_roi_txt_reads_back_as_the_reference_reads_it(built):
    manifest = Manifest.read(built)
    assert write_roi_txt(manifest) == 3
    for row in range(3):
        text = (built / f"frames/roi/{manifest.path(row).stem}.txt").read_text()
        lines = [[int(value) for value in line.strip().split(",")] for line in text.splitlines()]
        assert sorted(map(tuple, lines)) == sorted(map(tuple, manifest.rois(row)[:, :4].tolist()))


def test_a_damaged_image_is_refused(built, tmp_path):
    for path in built.glob("frames/thermal/*"):
        (tmp_path / "out/frames/thermal").mkdir(parents=True, exist_ok=True)
        (tmp_path / "out/frames/thermal" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "out/manifest.parquet").write_bytes((built / "manifest.parquet").read_bytes())
    victim = Manifest.read(tmp_path / "out").path(1)
    cv2.imwrite(str(victim), cv2.imread(str(victim), 0)[::-1])
    with pytest.raises(ManifestError, match=f"{victim.name} is not what the manifest says"):
        export_crops(tmp_path / "out", tmp_path / "to")


def test_a_build_without_rois_says_so(built, tmp_path):
    build(None, tmp_path / "out", folder=built.parent / "frames", with_rois=False)
    with pytest.raises(ManifestError, match="msip rois"):
        export_crops(tmp_path / "out", tmp_path / "to")
