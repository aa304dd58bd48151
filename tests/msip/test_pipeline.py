"""Raw trees to a manifest: counts, names, damage, resumption."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from msip import Manifest, build
from msip.build_report import read_build
from msip.crops import RoiCrop
from msip.errors import LayoutError, ManifestError, OptionError, OutputError, SourceError, StemCollisionError
from msip.export import export_crops
from msip.frames import natural_key, stem_of
from msip.manifest import carried_flags
from msip.verify import verify_build

REAL_COUNTS = {
    "dronevehicle": 60,
    "scut_fir_pedestrian": 18,
    "llvip": 32,
    "infrared_aerial": 40,
    "infrared_ship": 40,
    "infrared_security": 70,
    "lsotb_tir": 38,
    "lasher": 8,
}


def picture(seed: int, size=(48, 64), low=30, high=200) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(low, high, (6, 8), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower() if path.suffix else ".jpg", image)[1].tobytes())


def manifest_bytes(out: Path) -> bytes:
    return (out / "manifest.parquet").read_bytes()


@pytest.fixture(scope="module")
def real_build(realdata, tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "out"
    report = build(realdata / "msip_sources", out, workers=2, with_rois=False)
    return realdata / "msip_sources", out, report


def test_real_sources_give_the_counts_made_by_hand(real_build):
    _, out, report = real_build
    assert {part.name: part.images for part in report.sources} == REAL_COUNTS
    assert Manifest.read(out).counts() == REAL_COUNTS
    assert all(part.causes for part in report.sources)  # each is far below 178,756's share, and says why
    assert not verify_build(out).ok and not verify_build(out).damaged


def test_real_build_takes_no_visible_no_dark_no_border(real_build):
    _, out, _ = real_build
    frame = Manifest.read(out).frame
    assert not frame["source_path"].str.contains("visible").any()
    scut = frame[frame["source"] == "scut_fir_pedestrian"]
    assert list(scut["image_id"]) == [f"scut_fir_pedestrian/{i:07d}" for i in range(18)]
    assert "videos/set00/V000/120.jpg" not in set(scut["source_path"])
    for path in frame[frame["source"] == "dronevehicle"]["path"]:
        image = cv2.imread(str(out / path), cv2.IMREAD_UNCHANGED)
        assert image.shape == (512, 640)
        edges = np.concatenate([image[:2].ravel(), image[-2:].ravel(), image[:, :2].ravel(), image[:, -2:].ravel()])
        assert np.median(edges) < 240
    assert set(frame[frame["source"] == "dronevehicle"]["transform"]) == {"crop 100px; grey"}


def test_untouched_sources_keep_their_bytes(real_build):
    raw, out, _ = real_build
    frame = Manifest.read(out).frame
    llvip = frame[frame["source"] == "llvip"]
    for stored, original in zip(llvip["path"], llvip["source_path"], strict=True):
        assert (out / stored).read_bytes() == (raw / "LLVIP" / original).read_bytes()
    assert (llvip["sha256"] == llvip["source_sha256"]).all()


def test_worker_count_and_repetition_do_not_change_a_byte(real_build, tmp_path):
    raw, out, _ = real_build
    before = manifest_bytes(out)
    again = build(raw, out, workers=1, with_rois=False)
    assert manifest_bytes(out) == before
    assert sum(part.done_before for part in again.sources) == 306
    build(raw, tmp_path / "one", sources=["llvip", "lasher"], with_rois=False)
    build(raw, tmp_path / "one", with_rois=False)
    assert manifest_bytes(tmp_path / "one") == before


def test_dark_frames_in_the_middle_do_not_shift_the_stride(tmp_path):
    for index in range(60):
        dark = 15 <= index < 25  # the strided frame 20 is among them
        image = np.full((48, 64), 18, np.uint8) if dark else picture(index)
        save(tmp_path / f"raw/SCUT_FIR_101/videos/set00/V000/{index}.png", image)
    build(tmp_path / "raw", tmp_path / "out", sources=["scut_fir_pedestrian"], with_rois=False)
    frame = Manifest.read(tmp_path / "out").frame
    assert [int(Path(path).stem) for path in frame["source_path"]] == [0, 10, 30, 40, 50]
    assert list(frame["frame_index"]) == [0, 10, 30, 40, 50]
    assert [Path(path).stem for path in frame["path"]] == [f"{i:07d}" for i in range(5)]


def test_sequences_are_keyed_by_subset_and_ordered_by_number(tmp_path):
    for subset in ("TIR_training_001", "TIR_training_002"):
        for index in range(1, 13):
            save(tmp_path / f"raw/lsotb_tir/TrainingData/{subset}/car_001/{index:08d}.jpg", picture(index))
    build(tmp_path / "raw", tmp_path / "out", sources=["lsotb_tir"], with_rois=False)
    frame = Manifest.read(tmp_path / "out").frame
    assert list(frame["sequence"]) == ["TIR_training_001/car_001"] * 2 + ["TIR_training_002/car_001"] * 2
    assert list(frame["frame_index"]) == [0, 10, 0, 10]


def test_lasher_natural_order_and_strays(tmp_path):
    folder = tmp_path / "raw/LasHeR/TrainingSet/trainingset/girl`shead/infrared"
    for index in range(21):
        save(folder / f"i{index}.jpg", picture(index))
        save(folder.parent / f"visible/v{index}.jpg", picture(index + 100))
    (folder / "Thumbs.db").write_bytes(b"stray")
    report = build(tmp_path / "raw", tmp_path / "out", sources=["lasher"], with_rois=False)
    frame = Manifest.read(tmp_path / "out").frame
    assert [Path(path).name for path in frame["source_path"]] == ["i0.jpg", "i10.jpg", "i20.jpg"]
    assert report.sources[0].strays == {".db": 1}


def test_own_folder_names_extensions_and_left_out_frames(tmp_path):
    folder = tmp_path / "frames"
    save(folder / "cam.1/día/a.b.JPG", picture(1))
    save(folder / "cam.1/x.tiff", picture(2))
    save(folder / "y.png", np.full((20, 20), 7, np.uint8))
    save(folder / "deep.bmp", picture(3))
    counts = (np.arange(48 * 64).reshape(48, 64) + 21000).astype(np.uint16)
    save(folder / "radiometric.png", counts)
    (folder / "wrong.jpg").write_bytes(cv2.imencode(".png", picture(4))[1].tobytes())
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no image")
    (folder / "cut.jpg").write_bytes(cv2.imencode(".jpg", picture(5))[1].tobytes()[:300])
    (folder / "labels.txt").write_text("0 0 0")
    report = build(None, tmp_path / "out", folder=folder, name="mine", with_rois=False)
    frame = Manifest.read(tmp_path / "out").frame.set_index("source_path")
    assert frame.loc["cam.1/día/a.b.JPG", "path"] == "mine/thermal/cam_1_día_a_b.jpg"
    assert frame.loc["cam.1/x.tiff", "path"] == "mine/thermal/cam_1_x.png"
    assert frame.loc["wrong.jpg", "path"] == "mine/thermal/wrong.png"
    assert frame.loc["deep.bmp", "path"] == "mine/thermal/deep.bmp"
    row = frame.loc["radiometric.png"]
    assert row["bit_depth"] == 16 and "agc percentile" in row["transform"] and row["pixel_std"] > 0.2
    stored = cv2.imread(str(tmp_path / "out" / row["path"]), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint8 and stored[0, 0] == 0 and stored[-1, -1] == 255
    left_out = {path: kind for path, kind, _ in report.sources[0].problems}
    assert left_out == {"y.png": "blank", "empty.jpg": "broken", "text.png": "broken", "cut.jpg": "broken"}
    assert {p["source_path"] for p in read_build(tmp_path / "out")["sources"]["mine"]["problems"]} == set(left_out)
    assert report.sources[0].strays == {".txt": 1}


def test_blank_frames_are_kept_and_flagged_on_request(tmp_path):
    save(tmp_path / "frames/a.png", np.full((20, 20), 7, np.uint8))
    save(tmp_path / "frames/b.png", np.full((20, 20), 9000, np.uint16))
    build(None, tmp_path / "out", folder=tmp_path / "frames", keep_blank=True, with_rois=False)
    assert [list(flags) for flags in Manifest.read(tmp_path / "out").frame["flags"]] == [["blank"], ["blank"]]


def test_a_window_outside_the_data_is_named_not_stored_white(tmp_path):
    save(tmp_path / "frames/a.png", (picture(1).astype(np.uint16) + 21000))
    save(tmp_path / "frames/b.png", picture(2))
    report = build(
        None, tmp_path / "out", folder=tmp_path / "frames", agc="window", agc_window=(0, 100), with_rois=False
    )
    assert [(path, kind) for path, kind, _ in report.sources[0].problems] == [("a.png", "collapsed")]


def test_changed_added_and_removed_frames_are_followed(tmp_path):
    folder, out = tmp_path / "frames", tmp_path / "out"
    for index in range(4):
        save(folder / f"{index}.png", picture(index))
    build(None, out, folder=folder, with_rois=False)
    (folder / "0.png").unlink()
    save(folder / "9.png", picture(9))
    save(folder / "1.png", picture(42))
    (out / "frames/thermal/2.png").unlink()
    report = build(None, out, folder=folder, with_rois=False)
    assert report.sources[0].done_before == 1
    assert sorted(path.name for path in (out / "frames/thermal").iterdir()) == ["1.png", "2.png", "3.png", "9.png"]
    build(None, tmp_path / "fresh", folder=folder, with_rois=False)
    assert manifest_bytes(out) == manifest_bytes(tmp_path / "fresh")
    assert verify_build(out).ok


def test_a_build_never_takes_its_own_images_for_frames(tmp_path):
    folder, security = tmp_path / "frames", tmp_path / "raw/infrared_security"
    for index in range(3):
        save(folder / f"cam/{index}.png", picture(index))
        save(security / f"{index}.png", picture(index))
    before = sorted(tmp_path.rglob("*"))
    places = [(folder, {}), (tmp_path, {}), (folder / "..", {"name": "frames"}), (folder, {"name": "cam"})]
    for out, options in places:
        with pytest.raises(OutputError, match=r"among the frames in .*choose another `out`"):
            build(None, out, folder=folder, with_rois=False, **options)
    for out in (tmp_path / "raw", security, security / "out"):
        with pytest.raises(OutputError, match=r"among the frames in .*choose another `out`"):
            build(tmp_path / "raw", out, sources=["infrared_security"], with_rois=False)
    assert sorted(tmp_path.rglob("*")) == before
    for _ in range(2):
        assert build(None, folder / "data", folder=folder, with_rois=False).images == 3


def test_builds_below_a_folder_of_frames_are_left_out_and_named(tmp_path):
    folder = tmp_path / "frames"
    for index in range(3):
        save(folder / f"{index}.png", picture(index))
    for name in ("old/whole", "stopped", "copied"):
        build(None, folder / name, folder=folder, with_rois=False)
    (folder / "stopped/manifest.parquet").unlink()
    shutil.rmtree(folder / "copied/.msip")
    report = build(None, tmp_path / "out", folder=folder, with_rois=False)
    assert report.images == 3
    assert report.sources[0].strays == {"old/whole/": 1, "stopped/": 1, "copied/": 1}
    with pytest.raises(LayoutError, match=r"no image beside what msip wrote itself, in whole/ \("):
        build(None, tmp_path / "none", folder=folder / "old", with_rois=False)
    assert build(None, tmp_path / "again", folder=folder / "old/whole", with_rois=False).images == 3  # when asked to


def test_crops_runs_and_evaluations_are_no_frames_either(tmp_path):
    folder, crops = tmp_path / "frames", tmp_path / "frames/crops"
    for name in ("0", "1", "run/panels/step-1", "run/checkpoints/x", "evaluation/cells/x", "mine/cells/2"):
        save(folder / f"{name}.png", picture(len(name)))
    for name in ("run/run.yaml", "evaluation/results.csv"):
        (folder / name).write_text("")
    (folder / "evaluation/tasks").mkdir()
    build(None, tmp_path / "first", folder=folder)
    export_crops(tmp_path / "first", crops, crop=RoiCrop(size=32))
    shutil.copytree(crops, folder / "copied", ignore=lambda *_: [".msip"])
    report = build(None, tmp_path / "out", folder=folder, with_rois=False)
    assert report.images == 3 and len(list(crops.rglob("*.png"))) > 3
    assert report.sources[0].strays == {"crops/": 1, "copied/": 1, "run/": 1, "evaluation/": 1}


def test_verify_finds_damage(tmp_path):
    for index in range(4):
        save(tmp_path / f"frames/{index}.png", picture(index))
    out = tmp_path / "out"
    build(None, out, folder=tmp_path / "frames", with_rois=False)
    assert verify_build(out).ok
    (out / "frames/thermal/0.png").unlink()
    shutil.copy(out / "frames/thermal/2.png", out / "frames/thermal/1.png")
    save(out / "frames/thermal/stranger.png", picture(1))
    report = verify_build(out)
    assert (report.missing, report.damaged, report.strangers) == (
        ["frames/thermal/0.png"],
        ["frames/thermal/1.png"],
        ["frames/thermal/stranger.png"],
    )


def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path):
    save(tmp_path / "frames/a.b.png", picture(1))
    save(tmp_path / "frames/a_b.png", picture(2))
    (tmp_path / "raw/LLVIP/visible/train").mkdir(parents=True)
    out = tmp_path / "out"
    for error, words, arguments in [
        (StemCollisionError, "a_b", {"raw": None, "folder": tmp_path / "frames"}),
        (LayoutError, "infrared/train", {"raw": tmp_path / "raw", "sources": ["llvip"]}),
        (LayoutError, "does not exist", {"raw": tmp_path / "nowhere"}),
        (LayoutError, "does not exist", {"raw": None, "folder": tmp_path / "nowhere"}),
        (SourceError, "llvp", {"raw": tmp_path / "raw", "sources": ["llvp"]}),
        (SourceError, "no corpus", {"raw": tmp_path / "raw", "corpus": "mspi"}),
        (OptionError, "`agc_window`", {"raw": tmp_path / "raw", "agc": "window"}),
    ]:
        with pytest.raises(error, match=words):
            build(out=out, **arguments)
        assert not out.exists()
    (tmp_path / "file").touch()
    save(tmp_path / "good/a.png", picture(1))
    with pytest.raises(OutputError, match="is a file"):
        build(None, tmp_path / "file", folder=tmp_path / "good")
    build(None, out, folder=tmp_path / "good", with_rois=False)
    (out / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(ManifestError, match="remove it and build it again"):
        build(None, out, folder=tmp_path / "good", with_rois=False)


def test_names_in_another_encoding_than_utf8(tmp_path):
    latin = tmp_path / os.fsdecode(b"caf\xe9")
    save(latin / "a.png", picture(1))
    with pytest.raises(SourceError, match=r"caf\\udce9 cannot name a source.*`name`"):
        build(None, tmp_path / "out", folder=latin, with_rois=False)
    assert build(None, tmp_path / "out", folder=latin, name="cafe", with_rois=False).images == 1
    save(tmp_path / "raw/LLVIP/infrared/train/1.jpg", picture(1))
    (tmp_path / "raw/LLVIP/infrared/train" / os.fsdecode(b"notiz\xfcber")).touch()
    build(tmp_path / "raw", tmp_path / "out", sources=["llvip"], with_rois=False)
    assert (read_build(tmp_path / "out") or {})["sources"]["llvip"]["strays"] == {r"notiz\udcfcber": 1}


def test_file_urls_are_folders(tmp_path):
    save(tmp_path / "frames/a.png", picture(1))
    url = (tmp_path / "frames").as_uri()
    assert build(None, (tmp_path / "out").as_uri(), folder=url, with_rois=False).images == 1
    assert verify_build(tmp_path / "out").ok


def test_names():
    assert stem_of("cam1/2024.05/img.001.tiff") == "cam1_2024_05_img_001"
    assert stem_of("noextension") == "noextension"
    assert len(stem_of("x" * 400 + ".png").encode()) <= 200
    assert sorted(["i10", "i9", "i009", "v1"], key=natural_key) == ["i009", "i9", "i10", "v1"]


_BUILD = "from msip import build; build(None, {out!r}, folder={folder!r}, workers=2, with_rois=False)"


def test_flags_given_since_the_build_survive_the_next_one(tmp_path):
    """What people and other commands flagged stays with the image; what the build finds it flags again."""
    folder, out = tmp_path / "frames", tmp_path / "out"
    for index in range(10):
        image = picture(index)
        save(folder / f"{index}.png", cv2.applyColorMap(image, cv2.COLORMAP_JET) if index == 3 else image)
    (folder / "copy").mkdir()
    shutil.copy(folder / "7.png", folder / "copy/7.png")

    def flags():
        table = Manifest.read(out).table
        columns = (table.column(name).to_pylist() for name in ("image_id", "flags"))
        return {name: found for name, found in zip(*columns, strict=True) if found}

    build(None, out, folder=folder, name="cam", with_rois=False)
    untouched = manifest_bytes(out)
    assert flags() == {"cam/3": ["colour_mapped"]}
    given = {
        "cam/0": ["reject"],
        "cam/1": ["roi_hit", "near_duplicate_of:cam/2"],
        "cam/3": ["reject"],
        "cam/4": ["blank", "late:at night"],
        "cam/5": ["near_duplicate_of:cam/6"],
        "cam/copy_7": ["duplicate_of:cam/7"],
        "cam/8": ["reject"],
        "cam/9": ["reject"],
    }
    manifest = Manifest.read(out)
    manifest.with_flags([given.get(name, []) for name in manifest.table.column("image_id").to_pylist()]).write()
    flagged = manifest_bytes(out)
    (folder / "6.png").unlink()
    save(folder / "8.png", picture(88))
    build(None, out, folder=folder, name="cam", with_rois=False, workers=2)
    expected = given | {"cam/3": ["colour_mapped", "reject"]}
    for gone in ("cam/5", "cam/8"):  # the image that its flag names is no longer there; other pixels
        del expected[gone]
    assert flags() == expected
    once = manifest_bytes(out)
    build(None, out, folder=folder, name="cam", with_rois=False)
    assert manifest_bytes(out) == once

    shutil.rmtree(out)
    save(folder / "6.png", picture(6))
    save(folder / "8.png", picture(8))
    for workers in (1, 2):  # from nothing, and from another build's ledgers: the same bytes as before
        shutil.rmtree(out, ignore_errors=True)
        build(None, out, folder=folder, name="cam", with_rois=False, workers=workers)
        assert manifest_bytes(out) == untouched
        (out / "manifest.parquet").write_bytes(flagged)
        build(None, out, folder=folder, name="cam", with_rois=False, workers=workers)
        assert flags() == given | {"cam/3": ["colour_mapped", "reject"]}


def test_flags_of_sources_that_are_not_rebuilt(tmp_path):
    """They stay, but for those that name an image of the rebuilt source that is gone."""
    for name in ("day", "night"):
        for index in range(3):
            save(tmp_path / name / f"{index}.png", picture(index + len(name)))
        build(None, tmp_path / "out", folder=tmp_path / name, with_rois=False)
    given = [[], [], [], ["near_duplicate_of:day/1"], ["near_duplicate_of:day/2", "reject"], []]
    Manifest.read(tmp_path / "out").with_flags(given).write()
    (tmp_path / "day/2.png").unlink()
    build(None, tmp_path / "out", folder=tmp_path / "day", with_rois=False)
    found = Manifest.read(tmp_path / "out").table.column("flags").to_pylist()
    assert found == [[], [], ["near_duplicate_of:day/1"], ["reject"], []]


def test_flags_follow_renumbered_images():
    """A new sequence in the middle gives the images behind it other numbers."""

    def rows(names):
        return [
            {"image_id": f"s/{number:07d}", "source": "s", "path": "p", "source_path": name, "sha256": name}
            for number, name in enumerate(names)
        ]

    before = Manifest.from_rows(rows("abd"), Path())
    before = before.with_flags([["reject"], [], ["near_duplicate_of:s/0000001", "blank"]])
    after = Manifest.from_rows(rows("abcd"), Path())
    expected = [["reject"], [], [], ["near_duplicate_of:s/0000001", "blank"]]
    assert carried_flags(after.table, before.table) == expected
    before = before.with_flags([[], ["duplicate_of:s/0000002"], []])
    assert carried_flags(after.table, before.table)[1] == ["duplicate_of:s/0000003"]


@pytest.mark.slow
def test_killed_five_times_and_continued_gives_the_same_manifest(tmp_path):
    folder = tmp_path / "frames"
    for index in range(900):
        save(folder / f"{index}.jpg", picture(index, size=(256, 320)))
    build(None, tmp_path / "undisturbed", folder=folder, with_rois=False)
    out, chance = tmp_path / "killed", random.Random(0)
    command = [sys.executable, "-c", _BUILD.format(out=str(out), folder=str(folder))]
    kills = 0
    while kills < 5:
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(1.0 + chance.random())
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    subprocess.run(command, check=True)
    assert manifest_bytes(out) == manifest_bytes(tmp_path / "undisturbed")
    assert verify_build(out).ok
    assert not list(out.rglob("*.msip-tmp")) or verify_build(out).ok
