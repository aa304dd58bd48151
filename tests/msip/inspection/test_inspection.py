"""A manifest in FiftyOne: counts, updates, crops, tags, and what is said when something is wrong."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from inspection_fixtures import database_server, fiftyone, free_port  # noqa: F401
from PIL import Image, ImageOps
from typer.testing import CliRunner

from msip import Manifest, RoiCrop, build
from msip.crops import sample_key, sample_rng
from msip.errors import InspectionError, ManifestError
from msip.export import export_crops
from msip.inspection import app, dataset, rows
from msip.inspection.draws import Draw
from msip.inspection.rows import dataset_name
from msip.inspection.tags import pull_tags
from msip.manifest import ROI_FIELDS, SCHEMA
from msip.storage import Storage


def import_build(fiftyone, out, max_samples=None, **options):  # noqa: F811
    return dataset.import_build(fiftyone, rows.Rows(out, max_samples), **options)


def with_flags(out, flags):
    """Rewrite the manifest with ``flags`` by row."""
    manifest = Manifest.read(out)
    column = manifest.table.column("flags").to_pylist()
    for row, value in flags.items():
        column[row] = value
    manifest.with_flags(column).write()


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Twelve images with a warm object, one of them dark; spaces and letters of all kinds in the names."""
    folder = tmp_path_factory.mktemp("inspect") / "my früme s"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        image = rng.normal(90, 4, (160, 200))
        image[20 + 4 * index : 80 + 4 * index, 30:110] += 80
        if index == 3:
            image = rng.normal(12, 3, (160, 200))
        picture = cv2.GaussianBlur(image, (0, 0), 1.5).clip(0, 255).astype("u1")
        (folder / f"frame {index:02d} ü.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return folder


@pytest.fixture
def out(frames, tmp_path):
    to = tmp_path / "a build"
    build(None, to, folder=frames, name="cam")
    with_flags(to, {1: ["duplicate_of:cam/frame 00 ü"], 5: ["colour_mapped"]})
    return to


def expected_counts(manifest):
    """Every view's count, from the manifest alone and in other words than the code's."""
    frame = manifest.frame
    shares = [
        roi["width"] * roi["height"] / (width * height)
        for found, width, height in zip(frame.rois, frame.width, frame.height, strict=True)
        for roi in found
    ]
    counts = {
        "all images": len(frame),
        "RoI crops": len(shares),
        "small objects": sum(share < 0.02 for share in shares),
        "large objects": sum(share >= 0.15 for share in shares),
        "no RoI": sum(len(found) == 0 for found in frame.rois),
        "training crops": 4 * len(frame),
        "flagged": sum(len(flags) > 0 for flags in frame["flags"]),
        "dark and low contrast": int(((frame.pixel_mean < 0.1) | (frame.pixel_std < 0.05)).sum()),
    }
    return counts | frame.source.value_counts().to_dict()


def test_counts_of_every_view_are_the_manifests(fiftyone, out):  # noqa: F811
    result = import_build(fiftyone, out)
    manifest = Manifest.read(out)
    expected = expected_counts(manifest) | {"near duplicates": 2}
    found = {name: len(result.dataset.load_saved_view(name)) for name in result.dataset.list_saved_views()}
    assert found == expected == {view.name: view.count for view in result.views}
    assert found["dark and low contrast"] == 1 and found["RoI crops"] > 10 and found["small objects"] >= 0
    pair = result.dataset.load_saved_view("near duplicates").values("duplicate_group")
    assert pair == ["cam/frame 00 ü"] * 2


def test_samples_and_rois_are_the_manifests(fiftyone, out):  # noqa: F811
    data = import_build(fiftyone, out).dataset
    manifest = Manifest.read(out)
    assert data.persistent and data.name == dataset_name(out)
    for row, sample in enumerate(data.sort_by("image_id")):
        record = manifest.table.slice(row, 1).to_pylist()[0]
        assert sample.filepath == str((out / record["path"]).resolve())
        for name in ("image_id", "source", "sequence", "bit_depth", "pixel_mean", "sha256", "flags", "licence"):
            assert sample[name] == record[name]
        assert (sample.metadata.width, sample.metadata.height) == (200, 160)
        assert sample.metadata.size_bytes == (out / record["path"]).stat().st_size
        boxes = manifest.rois(row)
        assert sample.roi_count == len(boxes)
        found = sample.rois.detections if sample.rois else []
        pixels = [[box.bounding_box[0] * 200, box.bounding_box[1] * 160] for box in found]
        assert np.allclose(pixels, boxes[:, :2].reshape(-1, 2), atol=1e-4)
        assert [(box.area, box.order) for box in found] == [(int(box[4]), n) for n, box in enumerate(boxes)]


def test_training_crops_are_the_trainers(fiftyone, out):  # noqa: F811
    data = import_build(fiftyone, out, draw=Draw(seed=3, epoch=2, per_image=2)).dataset
    manifest = Manifest.read(out)
    for row, sample in enumerate(data.sort_by("image_id")):
        for view, crop in enumerate(sample.crops.detections):
            rng = sample_rng(3, 2, sample_key(sample.image_id), view)
            box, mirrored = RoiCrop().draw((200, 160), manifest.rois(row), rng)
            assert np.allclose(np.array(crop.bounding_box) * [200, 160, 200, 160], box) and crop.mirrored == mirrored
    again = import_build(fiftyone, out, draw=Draw(seed=4, epoch=2, per_image=3))
    assert (again.added, again.changed, again.removed) == (0, 0, 0)
    assert len(again.dataset.load_saved_view("training crops")) == 36


def test_only_what_changed_is_written_and_tags_stay(fiftyone, out, frames, monkeypatch):  # noqa: F811
    first = import_build(fiftyone, out)
    data = first.dataset
    before = dict(zip(*data.values(["image_id", "last_modified_at"]), strict=True))
    with monkeypatch.context() as patch:
        patch.setattr(rows.Rows, "tables", None)  # of an unchanged manifest no row is read
        again = import_build(fiftyone, out)
    assert again.views == first.views and {view.holds for view in again.views} > {12, 48}
    sample = data.match({"image_id": "cam/frame 07 ü"}).first()
    sample.tags.append("nice")
    sample.save()
    with_flags(out, {7: ["low_contrast"]})
    result = import_build(fiftyone, out)
    assert (result.added, result.changed, result.removed) == (0, 1, 0)
    assert data.match({"image_id": "cam/frame 07 ü"}).first().tags == ["low_contrast", "nice"]
    after = dict(zip(*data.values(["image_id", "last_modified_at"]), strict=True))
    assert len(data) == 12 and after.keys() == before.keys()
    table = Manifest.read(out).table
    Manifest(table.slice(0, 10), out).write()
    assert import_build(fiftyone, out).removed == 2 and len(data) == 10
    Manifest(table, out).write()
    assert import_build(fiftyone, out).added == 2 and len(data) == 12
    assert import_build(fiftyone, out, max_samples=4).removed == 8 and len(data) == 4


def test_a_killed_import_is_continued(fiftyone, out, monkeypatch):  # noqa: F811
    monkeypatch.setattr(dataset, "_CHUNK", 5)

    def die(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_build(fiftyone, out, progress=die)
    assert len(fiftyone.load_dataset(dataset_name(out))) == 5
    result = import_build(fiftyone, out)
    assert result.added == 7 and len(result.dataset) == 12
    assert len(result.dataset.load_saved_view("training crops")) == 48


def test_tags_on_patches_outlive_a_change_of_their_image(fiftyone, out):  # noqa: F811
    """A box is written anew with its image: the tag on it, not pulled yet, moves to the image under its flag's name."""
    data = import_build(fiftyone, out).dataset
    for view, tag, name in (("RoI crops", "hit", "frame 06 ü"), ("training crops", "odd", "frame 08 ü")):
        data.load_saved_view(view).match({"image_id": f"cam/{name}"}).limit(1).tag_labels(tag)
    with_flags(out, {6: ["low_contrast"], 8: ["low_contrast"], 9: ["blank"]})
    assert import_build(fiftyone, out).changed == 3
    tags = dict(zip(*data.values(["image_id", "tags"]), strict=True))
    assert tags["cam/frame 06 ü"] == ["low_contrast", "roi_hit"]
    assert tags["cam/frame 08 ü"] == ["low_contrast", "crop_odd"] and tags["cam/frame 09 ü"] == ["blank"]
    assert pull_tags(fiftyone, out).added == {"roi_hit": 1, "crop_odd": 1}
    assert Manifest.read(out).table.column("flags")[8].as_py() == ["low_contrast", "crop_odd"]


def test_near_duplicates_stand_beside_what_they_repeat(fiftyone, out):  # noqa: F811
    """Chains, two that name each other, and an original that is not there any more."""
    of = {2: "near_duplicate_of:cam/frame 06 ü", 6: "near_duplicate_of:cam/frame 01 ü", 7: "near_duplicate_of:cam/gone"}
    of |= {8: "near_duplicate_of:cam/frame 09 ü", 9: "near_duplicate_of:cam/frame 08 ü"}
    with_flags(out, {row: ["low_contrast", flag] for row, flag in of.items()})
    view = import_build(fiftyone, out).dataset.load_saved_view("near duplicates")
    found = {}
    for name, group in zip(*view.values(["image_id", "duplicate_group"]), strict=True):
        found.setdefault(group.split()[-2] if "ü" in group else group, []).append(int(name.split()[1]))
    # frame 1 repeats frame 0 exactly; the groups come one after the other
    assert {group: sorted(rows) for group, rows in found.items()} == {
        "00": [0, 1, 2, 6],
        "08": [8, 9],
        "cam/gone": [7],
    }
    assert view.values("duplicate_group") == sorted(view.values("duplicate_group"))
    assert view.match_tags("near_duplicate_of").count() == 5


def test_tags_come_back_as_flags_and_are_honoured(fiftyone, out, tmp_path):  # noqa: F811
    data = import_build(fiftyone, out).dataset
    data.match({"image_id": "cam/frame 02 ü"}).tag_samples("reject")
    data.match({"image_id": "cam/frame 05 ü"}).untag_samples("colour_mapped")
    data.load_saved_view("RoI crops").match({"image_id": "cam/frame 08 ü"}).limit(1).tag_labels("hit")
    with_flags(out, {9: ["blank"]})  # meanwhile, by another command
    report = pull_tags(fiftyone, out)
    assert report.added == {"reject": 1, "roi_hit": 1} and report.removed == {"colour_mapped": 1} and report.images == 3
    flags = dict(enumerate(Manifest.read(out).table.column("flags").to_pylist()))
    expected = {1: ["duplicate_of:cam/frame 00 ü"], 2: ["reject"], 8: ["roi_hit"], 9: ["blank"]}
    assert {row: value for row, value in flags.items() if value} == expected
    data_bytes = (out / "manifest.parquet").read_bytes()
    assert pull_tags(fiftyone, out).images == 0 and (out / "manifest.parquet").read_bytes() == data_bytes
    assert import_build(fiftyone, out).changed == 4
    assert pull_tags(fiftyone, out).images == 0 and (out / "manifest.parquet").read_bytes() == data_bytes
    crops = export_crops(out, tmp_path / "crops", mode="training", exclude_flags=("reject", "duplicate_of"))
    assert crops.images == 10
    assert len(Manifest.read(out).without_flags(["reject"])) == 11


def test_round_trip_on_the_command_line(fiftyone, out, frames, tmp_path, monkeypatch):  # noqa: F811
    """Tagged in the App, pulled, built again: training and export see the remaining images, and those alone."""
    from msip_cli.main import app as commands

    def msip(*arguments):
        done = CliRunner().invoke(commands, [*map(str, arguments), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    data = import_build(fiftyone, out).dataset
    rejected = [f"cam/frame {number:02d} ü" for number in (2, 7, 11)]
    data.match({"image_id": {"$in": rejected}}).tag_samples("reject")
    assert msip("inspect", out, "--pull-tags")["added"] == {"reject": 3}
    msip("build", "--folder", frames, "--name", "cam", "--out", out, "--workers", 1)
    remaining = {name for name in Manifest.read(out).table.column("image_id").to_pylist() if name not in rejected}
    assert len(remaining) == 9

    seen, read = [], Storage.read_grey
    monkeypatch.setattr(Storage, "read_grey", lambda self, path, *rest: seen.append(path) or read(self, path, *rest))
    small = "--model test_vit --init random --image-size 32 --workers 0 --device cpu --batch-size 3 --epochs 1"
    small += " --decoder-embed-dim 32 --decoder-depth 1 --decoder-num-heads 2"
    msip("pretrain", "--data", out, "--out", tmp_path / "run", "--exclude-flag", "reject", *small.split())
    assert {path.replace("thermal/", "").removesuffix(".png") for path in seen} == remaining

    to = tmp_path / "crops"
    msip("export-crops", out, "--to", to, "--mode", "training", "--exclude-flag", "reject", "--workers", 1)
    assert set(pd.read_csv(to / "crops.csv")["image_id"]) == remaining


def test_patches_are_bounded(fiftyone, out, monkeypatch):  # noqa: F811
    monkeypatch.setattr(rows, "MOST_PATCHES", 40)
    result = import_build(fiftyone, out)
    counts = {view.name: len(result.dataset.load_saved_view(view.name)) for view in result.views}
    assert 0 < counts["RoI crops"] <= 40 and 0 < counts["training crops"] <= 40 and counts["all images"] == 12
    assert counts == {view.name: view.count for view in result.views}


def test_16_bit_images_get_a_preview(fiftyone, out):  # noqa: F811
    manifest = Manifest.read(out)
    pixels = (np.arange(160 * 200).reshape(160, 200) % 400 + 7000).astype(np.uint16)
    manifest.path(4).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    depths = manifest.table.column("bit_depth").to_pylist()
    depths[4] = 16
    index = SCHEMA.get_field_index("bit_depth")
    Manifest(manifest.table.set_column(index, SCHEMA.field("bit_depth"), pa.array(depths, pa.int8())), out).write()
    data = import_build(fiftyone, out).dataset
    previews = {name: path for name, path in zip(*data.values(["image_id", "preview"]), strict=True) if path}
    assert list(previews) == ["cam/frame 04 ü"]
    shown = cv2.imread(previews["cam/frame 04 ü"], cv2.IMREAD_UNCHANGED)
    assert shown.dtype == np.uint8 and shown.min() < 10 and shown.max() > 245
    assert data.app_config.grid_media_field == "preview" and data.app_config.media_fallback
    patches = data.load_saved_view("training crops")
    assert set(patches.values("preview")) == {None, previews["cam/frame 04 ü"]}  # patches are cut out of it, too


def turned(pixels, orientation):
    """``pixels`` as Pillow turns them by an EXIF orientation."""
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_boxes_lie_on_turned_pictures(fiftyone, tmp_path, suffix):  # noqa: F811
    """A browser turns a picture by its EXIF orientation: boxes of the stored pixels must turn with it."""
    frames, out = tmp_path / "frames", tmp_path / "out"
    frames.mkdir()
    for orientation in range(1, 9):
        tags = Image.Exif()
        tags[0x0112] = orientation
        noise = np.random.default_rng(orientation).integers(0, 200, (160, 200)).astype(np.uint8)
        Image.fromarray(noise).save(frames / f"{orientation}.{suffix}", exif=tags)
    build(None, out, folder=frames, name="cam", with_rois=False)
    roi, table = (30, 20, 90, 60, 5400), Manifest.read(out).table
    column = pa.array([[dict(zip(ROI_FIELDS, roi, strict=True))]] * 8, SCHEMA.field("rois").type)
    Manifest(table.set_column(SCHEMA.get_field_index("rois"), SCHEMA.field("rois"), column), out).write()
    for sample in import_build(fiftyone, out, draw=Draw(per_image=2)).dataset:
        rngs = [sample_rng(0, 0, sample_key(sample.image_id), view) for view in range(2)]
        stored = [roi[:4], *(RoiCrop().draw((200, 160), np.array([roi]), rng)[0] for rng in rngs)]
        orientation = int(sample.image_id.removeprefix("cam/"))
        for detection, (x, y, w, h) in zip([*sample.rois.detections, *sample.crops.detections], stored, strict=True):
            marked = np.zeros((160, 200), np.uint8)
            marked[y : y + h, x : x + w] = 1
            shown = turned(marked, orientation)
            assert (sample.metadata.height, sample.metadata.width) == shown.shape
            left, top, width, height = np.array(detection.bounding_box) * [*shown.shape[::-1], *shown.shape[::-1]]
            below, right = np.nonzero(shown)
            assert np.allclose([left, top], [right.min(), below.min()], atol=1e-4)
            assert np.allclose([left + width, top + height], [right.max() + 1, below.max() + 1], atol=1e-4)


def test_a_build_without_rois_has_no_roi_views(fiftyone, frames, tmp_path):  # noqa: F811
    build(None, tmp_path / "b", folder=frames, name="flagged", with_rois=False)
    result = import_build(fiftyone, tmp_path / "b")
    counts = {view.name: len(result.dataset.load_saved_view(view.name)) for view in result.views}
    assert counts == {view.name: view.count for view in result.views}
    assert "RoI crops" not in counts and counts["training crops"] == 48 and counts["flagged"] == 0
    assert counts["source flagged"] == 12  # a source that is called like a view


def test_images_moved(fiftyone, out):  # noqa: F811
    (out / "cam/thermal/frame 00 ü.png").unlink()
    assert import_build(fiftyone, out).missing == ["cam/thermal/frame 00 ü.png"]
    shutil.move(out / "cam", out / "elsewhere")
    with pytest.raises(InspectionError, match="none of the 12 images is where the manifest says"):
        import_build(fiftyone, out)


def test_pull_before_import_and_manifest_gone(fiftyone, out):  # noqa: F811
    with pytest.raises(InspectionError, match="run `msip inspect"):
        pull_tags(fiftyone, out)
    import_build(fiftyone, out)
    (out / "manifest.parquet").unlink()
    for action in (import_build, pull_tags):
        with pytest.raises(ManifestError, match="no manifest"):
            action(fiftyone, out)


def test_brain_gets_the_features(fiftyone, out, monkeypatch):  # noqa: F811
    from msip.inspection import embeddings

    result = import_build(fiftyone, out)
    monkeypatch.setattr(embeddings, "missing", lambda extra: [extra])  # umap compiles for half a minute
    sample_ids = [rows.sample_id(name) for name in Manifest.read(out).table.column("image_id").to_pylist()]
    features = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    assert embeddings.add_embeddings(fiftyone, result.dataset, sample_ids, features) == "pca"
    assert sorted(result.dataset.list_brain_runs()) == ["msip_embeddings", "msip_similarity", "uniqueness"]
    points = result.dataset.load_brain_results("msip_embeddings").points
    centred = features - features.mean(0)
    assert points.shape == (12, 2)
    assert np.allclose(points.var(0).sum(), (np.linalg.svd(centred)[1][:2] ** 2).sum() / 12, rtol=1e-3)
    assert min(result.dataset.values("uniqueness")) >= 0
    first = result.dataset.first().id
    near = result.dataset.sort_by_similarity(first, k=3, brain_key="msip_similarity")
    assert near.first().id == first and len(near) == 3


def test_port_in_use_and_address_of_nobody():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InspectionError, match=r"port \d+ at 127.0.0.1 is in use.*`port`"):
            app.check_port("127.0.0.1", taken.getsockname()[1])
    app.check_port("127.0.0.1", free_port())
    with pytest.raises(InspectionError, match="`address`"):
        app.check_port("192.0.2.1", 5151)
