"""The sources beyond MSIP: each built from a small tree of its documented layout, with what lies beside it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from msip_cli.main import app
from typer.testing import CliRunner

from msip import Manifest, build
from msip.download.job import members_of
from msip.errors import BrokenFrame
from msip.frames import list_frames
from msip.process import Recipe, render
from msip.radiometry import decode
from msip.sources import load_corpus, load_source
from msip.verify import verify_build

VIDEO = range(12)  # frames; every 10th is taken: two

# Per source: top folder, frames that become images, files beside them that do not.
TREES: dict[str, tuple[str, list[str], list[str]]] = {
    "hit_uav": (
        "HIT-UAV-Infrared-Thermal-Dataset-main",
        [f"normal_json/train/0_60_30_0_0{n}.jpg" for n in range(3)],
        [
            "normal_json/val/1.jpg",
            "normal_json/test/2.jpg",
            "normal_xml/JPEGImages/0_60_30_0_00.jpg",
            "rotate_json/train/0_60_30_0_00.jpg",
            "normal_json/annotations/train.json",
        ],
    ),
    "m3fd": ("M3FD_Detection", ["Ir/00000.png", "Ir/00002.png"], ["Vis/00000.png", "Annotation/00000.xml"]),
    "msrs": (
        "MSRS-main",
        ["train/ir/00001D.png", "train/ir/00003N.png"],
        ["train/vi/00001D.png", "test/ir/00004N.png", "detection/ir/1.png", "train/Segmentation_labels/00001D.png"],
    ),
    "kaist": (
        "kaist-cvpr15",
        [f"images/set0{s}/V00{v}/lwir/I{n:05d}.jpg" for s, v in ((0, 0), (5, 1)) for n in VIDEO],
        ["images/set00/V000/visible/I00000.jpg", "images/set06/V000/lwir/I00000.jpg", "annotations/set00/V000/I0.txt"],
    ),
    "cvc14": (
        "CVC-14",
        [f"{time}/FIR/Train/FramesPos/2014_05_01_23_14_3{n}.tif" for time in ("Day", "Night") for n in range(2)],
        [
            "Day/FIR/Train/FramesPos/files.txt",
            "Day/FIR/Train/Annotations/2014_05_01_23_14_30.txt",
            "Day/FIR/NewTest/FramesPos/a.tif",
            "Day/Visible/Train/FramesPos/2014_05_01_23_14_30.tif",
        ],
    ),
    "flir_v2": (
        "FLIR_ADAS_v2",
        [f"images_thermal_train/data/video-a-frame-00000{n}-x.jpg" for n in range(3)],
        [
            "images_thermal_val/data/v.jpg",
            "images_rgb_train/data/video-a-frame-000000-x.jpg",
            "video_thermal_test/data/t.jpg",
            "images_thermal_train/analyticsData/video-a-frame-000000-x.tiff",
            "images_thermal_train/coco.json",
        ],
    ),
    "birdsai": (
        "TrainReal",
        [f"TrainReal/images/00000000{s}_00/00000000{s}_00_{n:010d}.jpg" for s in (1, 2) for n in VIDEO],
        ["TrainReal/annotations/000000001_00.csv"],
    ),
    "roadscene": (
        "RoadScene-master",
        ["infrared/FLIR_00006.png", "infrared/FLIR_video_00018.png"],
        ["cropinfrared/FLIR_00006.jpg", "crop_HR_visible/FLIR_00006.jpg", "crop_LR_visible/FLIR_00006.jpg"],
    ),
    "caltech_aerial": (
        "labeled_thermal_singles",
        [f"labeled_thermal_singles/{p}/2021-0{p}/thermal8/thermal_{n}.png" for p in (1, 2) for n in range(2)],
        [f"labeled_thermal_singles/1/2021-01/{folder}/thermal_0.png" for folder in ("masks", "thermal16")],
    ),
    "sirst_v2": (
        "open-sirst-v2-master",
        ["mixed/Misc_1.png", "mixed/S3_21.png"],
        ["images/targets/Misc_1.png", "annotations/masks/Misc_1_pixels0.png", "splits/test_v1.txt"],
    ),
    "soda": (
        "SODA",
        ["InfraredSemanticLabel/JPEGImages/0001.jpg", "InfraredSemanticLabel/JPEGImages/0002.jpg"],
        [
            "InfraredSemanticLabel/JPEGImages/0001 (1).jpg",
            "InfraredSemanticLabel/JPEGImages/~temp_0002.jpg",
            "InfraredSemanticLabel/SegmentationClassPNG/0001.png",
            "InfraredSemanticLabel/train_infrared.txt",
            "TIR_leftImg8bit/train/aachen.png",
        ],
    ),
    "mfnet": (
        "ir_seg_dataset",
        ["images/00001D.png", "images/00002N.png"],
        ["images/00001D_flip.png", "labels/00001D.png", "train.txt"],
    ),
    "flir_v1": (
        "FLIR_ADAS_1_3",
        ["train/thermal_8_bit/FLIR_00001.jpeg", "val/thermal_8_bit/FLIR_08863.jpeg", "video/thermal_8_bit/FLIR_1.jpeg"],
        ["train/RGB/FLIR_00001.jpg", "train/thermal_16_bit/FLIR_00001.tiff", "val/Annotated_thermal_8_bit/F.jpeg"],
    ),
    "scut_seg": (
        "SCUT-SEG",
        ["images/train/a/img2.jpg", "images/train/a/img10.jpg", "images/val/b/img2.jpg"],
        ["gt_instance/train/a/img2_labelIds.png", "scut_train.txt"],
    ),
}  # fmt: skip
TAKEN = {name: len(frames) for name, (_, frames, _) in TREES.items()} | {"kaist": 4, "birdsai": 4}


def encoded(path: str) -> bytes:
    suffix = Path(path).suffix
    if suffix not in (".jpg", ".jpeg", ".png", ".tif", ".tiff"):
        return b"0001 0001\n"
    rng = np.random.default_rng(sum(path.encode()))
    channels = (4,) if path.startswith("images/") and suffix == ".png" else ()
    image = cv2.resize(rng.integers(20, 220, (6, 8, *channels), np.uint8), (64, 48), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(suffix, image)[1].tobytes()


def plant(folder: Path, paths: list[str]) -> None:
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(encoded(path))


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    for top, frames, others in TREES.values():
        plant(folder / top, frames + others)
    return folder


def test_every_source_of_the_corpora_has_a_tree_here():
    beyond = set(load_corpus("msip-plus").sources) - set(load_corpus("msip").sources)
    assert set(TREES) == beyond | set(load_corpus("evaluation").sources)


@pytest.mark.parametrize("name", TREES)
def test_exactly_the_documented_frames_become_images(name, raw, tmp_path):
    corpus = "evaluation" if name in load_corpus("evaluation").sources else "msip-plus"
    report = build(raw, tmp_path, corpus=corpus, sources=[name], with_rois=False)
    frame = Manifest.read(tmp_path).frame
    assert report.images == len(frame) == TAKEN[name] and not report.sources[0].problems
    chosen = set(TREES[name][1])
    assert {path for path in frame["source_path"] if path not in chosen} == set()
    assert set(frame["licence"]) == {load_source(name).licence.name}
    assert verify_build(tmp_path).ok == (
        load_source(name).expected_images == "unknown"
    )  # a small tree is not the whole set


def test_sequences_and_strides(raw, tmp_path):
    build(raw, tmp_path, corpus="msip-plus", sources=["kaist", "birdsai"], with_rois=False)
    frame = Manifest.read(tmp_path).frame
    assert list(zip(frame["sequence"], frame["frame_index"], strict=True)) == [
        (sequence, index)
        for sequence in ("000000001_00", "000000002_00", "set00/V000", "set05/V001")
        for index in (0, 10)
    ]
    build(raw, tmp_path / "v1", corpus="evaluation", sources=["flir_v1"], with_rois=False)
    assert list(Manifest.read(tmp_path / "v1").frame["sequence"]) == ["train", "val", "video"]


def test_mfnet_stores_the_fourth_channel_and_nothing_else(raw, tmp_path):
    build(raw, tmp_path, corpus="evaluation", sources=["mfnet"], with_rois=False)
    frame = Manifest.read(tmp_path).frame
    assert set(frame["transform"]) == {"channel 4"} and set(frame["channels"]) == {1}
    for source_path, path in zip(frame["source_path"], frame["path"], strict=True):
        rgba = cv2.imread(str(raw / "ir_seg_dataset" / source_path), cv2.IMREAD_UNCHANGED)
        stored = cv2.imread(str(tmp_path / path), cv2.IMREAD_UNCHANGED)
        assert stored.shape == (48, 64) and np.array_equal(stored, rgba[..., 3])


@pytest.mark.parametrize(("channel", "value"), [(1, 10), (2, 20), (3, 30), (4, 40)])
def test_channels_are_counted_as_they_are_stored(channel, value):
    rgba = np.full((8, 8, 4), (30, 20, 10, 40), np.uint8)  # OpenCV's order: blue first
    rgba[0, 0] += 1  # not constant
    data = cv2.imencode(".png", rgba)[1].tobytes()
    stored = render(decode(data, name="x"), data, Recipe("x", channel=channel))
    assert stored.extension == ".png" and np.array_equal(np.unique(stored.grey), [value, value + 1])


def test_an_absent_channel_is_a_broken_frame():
    data = encoded("a.jpg")
    with pytest.raises(BrokenFrame, match=r"has no channel 4 \(it has 1\), which its source says is the image"):
        render(decode(data, name="x"), data, Recipe("x", licence="MIT", channel=4))


@pytest.mark.parametrize("name", TREES)
def test_what_is_unpacked_is_what_is_built(name, tmp_path):
    """The members chosen from an archive with any folder around it lie where the layout looks for them."""
    top, frames, others = TREES[name]
    wanted = members_of(load_source(name))
    kept = [(path, wanted(f"around/{top}/{path}")) for path in frames + others]
    plant(tmp_path / name, [path if place is True else str(place) for path, place in kept if place])
    assert len(list_frames(load_source(name), tmp_path).frames) == TAKEN[name]


def test_dry_run_of_both_corpora_says_for_each_source_what_is_to_do(tmp_path):
    for corpus in ("msip-plus", "evaluation"):
        result = CliRunner().invoke(
            app, ["download", "--raw", str(tmp_path), "--corpus", corpus, "--dry-run", "--json"]
        )
        assert result.exit_code == 0, result.output
        outcomes = json.loads(result.stdout)
        assert [one["source"] for one in outcomes] == list(load_corpus(corpus).sources)
        assert {one["status"] for one in outcomes} == {"planned", "manual"}
        assert all(one["note"] for one in outcomes)
    assert not any(tmp_path.iterdir())


def test_sources_lists_the_corpus_and_what_is_here(raw):
    result = CliRunner().invoke(app, ["sources", "--corpus", "msip-plus", "--raw", str(raw), "--json"])
    assert result.exit_code == 0, result.output
    listed = {row["source"]: row for row in json.loads(result.stdout)["sources"]}
    assert listed["kaist"]["images"] == "unknown" and listed["kaist"]["frames here"] == 24
    assert listed["hit_uav"]["evidence"] == "verified" and listed["llvip"]["frames here"] == 0
    text = CliRunner().invoke(app, ["sources", "--corpus", "msip-plus"]).stdout
    assert "201,131 images, and those of kaist, cvc14, birdsai" in text
