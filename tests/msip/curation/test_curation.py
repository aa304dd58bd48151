"""``msip curate``: what is flagged and why, whose flags stay, what a subset keeps, what leaked."""

import csv
import json

import cv2
import numpy as np
import pyarrow as pa
import pytest
from curation_scenes import at_rest, scene, write
from msip_cli.main import app

from msip import Manifest, build
from msip.curation.curate import curate
from msip.curation.fingerprint import PRINT, Fingerprints
from msip.curation.measure import fingerprints_of, measure
from msip.curation.selection import fraction
from msip.engine import LocalEngine
from msip.errors import ManifestError, MsipError
from msip.manifest import SCHEMA
from msip.subsets import select_subset

FRAMES = 6
TOTAL = 29


@pytest.fixture
def built(tmp_path):
    """Two sequences of a camera at rest, four other scenes, a copy, a smaller copy, and every kind of odd image."""
    raw = tmp_path / "raw"
    for sequence in (1, 2):
        for frame in range(FRAMES):
            write(raw, f"seq{sequence}/{frame:03d}.png", at_rest(sequence, frame))
    for seed in range(10, 14):
        write(raw, f"other/{seed}.png", scene(seed))
    write(raw, "other/copy_bytes.png", scene(10))
    cv2.imwrite(str(raw / "other/copy_pixels.png"), np.repeat(scene(11)[:, :, None], 3, axis=2))
    write(raw, "other/copy_small.png", cv2.resize(scene(12), (100, 75), interpolation=cv2.INTER_AREA))
    odd(raw / "odd")
    out = tmp_path / "out"
    build(None, out, folder=raw, name="own", with_rois=False, keep_blank=True)
    set_column(out, "sequence", lambda name, old: name.split("_")[0] if name.startswith("seq") else None)
    (out / "own/thermal/odd_broken.png").write_bytes(b"\x89PNG\r\n")
    return out


def odd(folder):
    """One image of each kind of defect, and the scenes that they are made of."""
    shape = (192, 256)
    write(folder, "blank.png", np.full(shape, 90, np.uint8))
    write(folder, "faint.png", (100 + scene(20, shape) / 40).astype(np.uint8))
    bright = scene(21, shape).astype(int) * 3
    write(folder, "bright.png", np.clip(bright, 0, 255).astype(np.uint8))
    colours = cv2.applyColorMap(scene(22, shape), cv2.COLORMAP_INFERNO)
    write(folder, "false_colour.png", colours)
    bar = np.repeat(scene(23, shape)[:, :, None], 3, axis=2)
    bar[40:150, 240:250] = cv2.applyColorMap(np.linspace(255, 0, 110).astype(np.uint8), cv2.COLORMAP_JET)
    write(folder, "bar.png", bar)
    text = (scene(24, shape) / 4).astype(np.uint8)
    cv2.putText(text, "23.4 MAX 31.0", (10, 30), cv2.FONT_HERSHEY_SIMPLEX, 0.7, 255, 1)
    write(folder, "text.png", text)
    boxed = np.zeros(shape, np.uint8)
    boxed[24:-24] = scene(25, shape)[24:-24]
    write(folder, "boxed.png", boxed)
    cold = np.full(shape, 150, np.float32) + scene(26, shape) / 3
    for x in range(20, 250, 40):
        cv2.circle(cold, (x, 90), 5, 20, -1)
    write(folder, "black_hot.png", cold.astype(np.uint8))
    write(folder, "tiny.png", scene(27, (40, 50)))
    write(folder, "broken.png", scene(28, shape))


def flags(out):
    frame = Manifest.read(out).frame
    return {
        image_id.removeprefix("own/"): list(values)
        for image_id, values in zip(frame.image_id, frame["flags"], strict=True)
    }


def findings(out, name):
    rows = pa.parquet.read_table(out / "curation.parquet").to_pylist()
    return next(row["findings"] for row in rows if row["image_id"] == f"own/{name}")


def set_column(out, column, new):
    manifest = Manifest.read(out)
    pairs = zip(*(manifest.table.column(key).to_pylist() for key in ("image_id", column)), strict=True)
    values = [new(image_id.removeprefix("own/"), old) for image_id, old in pairs]
    field = SCHEMA.field(column)
    index = SCHEMA.get_field_index(column)
    Manifest(manifest.table.set_column(index, field, pa.array(values, field.type)), out).write()


def set_flags(out, name, values):
    set_column(out, "flags", lambda other, old: values if other == name else old)


def test_every_kind_of_odd_image_is_flagged_and_no_other(built):
    report = curate(built, workers=1)
    found = {name: values for name, values in flags(built).items() if name.startswith("odd_")}
    assert found == {
        "odd_bar": ["overlay"],
        "odd_black_hot": ["black_hot_guess"],
        "odd_blank": ["blank"],
        "odd_boxed": ["letterbox"],
        "odd_bright": ["saturated"],
        "odd_broken": ["broken"],
        "odd_faint": ["low_contrast"],
        "odd_false_colour": ["colour_mapped"],
        "odd_text": ["overlay"],
        "odd_tiny": ["too_small"],
    }
    assert report.flags["low_contrast"] == report.flags["letterbox"] == 1
    (letterbox,) = findings(built, "odd_boxed")
    assert letterbox == {"flag": "letterbox", "score": 0.25, "reason": "25% of the image is flat borders"}
    assert report.kept_flags == {"blank": 1, "colour_mapped": 1}  # the build gave them


def test_a_strip_one_pixel_high_is_measured(tmp_path):
    write(tmp_path / "raw", "strip.png", scene(1, (2, 2000))[:1])
    build(None, tmp_path / "out", folder=tmp_path / "raw", name="own", with_rois=False)
    assert curate(tmp_path / "out", workers=1).flags == {"too_small": 1}


def test_duplicates_point_to_the_first_and_relations_are_counted(built):
    report = curate(built, workers=1)
    own = flags(built)
    assert own["other_copy_bytes"] == ["duplicate_of:own/other_10"]
    assert own["other_copy_pixels"] == ["duplicate_of:own/other_11"]
    assert [item["reason"] for item in findings(built, "other_copy_bytes")] == ["the same bytes"]
    assert [item["reason"] for item in findings(built, "other_copy_pixels")] == ["the same pixels"]
    assert own["other_copy_small"] == ["near_duplicate_of:own/other_12"]
    for sequence in (1, 2):
        names = [f"seq{sequence}_{frame:03d}" for frame in range(FRAMES)]
        assert own[names[0]] == []
        assert all(own[name] == [f"near_duplicate_of:own/{names[0]}"] for name in names[1:])
    assert report.near["same sequence"] >= 2 * FRAMES and report.near["other source"] == 0


def test_again_gives_the_same_bytes_and_measures_nothing(built):
    curate(built, workers=2, subset="lean", max_similar=0.9)
    files = [built / name for name in ("manifest.parquet", "curation.parquet", "subsets/lean.parquet")]
    before = [path.read_bytes() for path in files]
    stages = []
    curate(
        built,
        workers=1,
        subset="lean",
        max_similar=0.9,
        progress=lambda stage, done, total: stages.append((stage, done, total)),
    )
    assert [path.read_bytes() for path in files] == before
    assert [done for stage, done, total in stages if stage == "measure"] == [
        TOTAL - 1,
        1,
    ]  # the broken one is tried again


def test_flags_of_people_stay_and_what_they_took_away_stays_away(built):
    curate(built, workers=1)
    set_flags(built, "other_13", ["my_own", "low_contrast"])
    set_flags(built, "odd_text", ["checked"])
    set_flags(built, "odd_bar", ["overlay", "mine"])
    for _ in range(2):
        curate(built, workers=1)
        own = flags(built)
        assert own["other_13"] == ["my_own", "low_contrast"]
        assert own["odd_text"] == ["checked"]
        assert sorted(own["odd_bar"]) == ["mine", "overlay"]
    set_flags(built, "odd_text", [])
    set_column(built, "flags", lambda name, old: [])  # as a build anew does: nobody took all of them away
    curate(built, workers=1)
    assert flags(built)["odd_tiny"] == ["too_small"] and flags(built)["odd_text"] == []


def test_a_flag_that_no_longer_holds_is_taken_back(built):
    curate(built, similarity=0.75, workers=1)
    assert flags(built)["other_copy_small"]
    curate(built, similarity=1.0, workers=1)
    assert flags(built)["other_copy_small"] == []


def similarities(out):
    manifest = Manifest.read(out)
    with LocalEngine(1) as engine:
        prints = fingerprints_of(measure(manifest, engine=engine))
    values = prints.vectors.astype(float)
    norms = np.maximum(prints.norms, 1)
    return manifest, values @ values.T / norms[:, None] / norms[None]


def test_no_two_images_of_a_subset_are_alike_and_every_other_is_like_one(built):
    curate(built, workers=1, subset="lean", max_similar=0.8)
    manifest, matrix = similarities(built)
    ids = manifest.frame.image_id.tolist()
    kept = [ids.index(name) for name in select_subset(manifest, "lean").frame.image_id]
    inner = matrix[np.ix_(kept, kept)] - np.eye(len(kept))
    assert inner.max() < 0.8
    excluded = {"own/odd_blank", "own/odd_broken", "own/other_copy_bytes", "own/other_copy_pixels"}
    for row in set(range(len(ids))) - set(kept):
        assert ids[row] in excluded or matrix[row, kept].max() >= 0.8
    assert sum(name.startswith("own/seq") for name in select_subset(manifest, "lean").frame.image_id) == 2


def test_a_fraction_is_met_exactly(built):
    total = len(Manifest.read(built))
    for share in (0.6, 0.7, 0.8):
        report = curate(built, workers=1, subset="part", keep_fraction=share)
        assert report.subset["images"] == round(share * total)
    with pytest.raises(MsipError, match="at least"):
        curate(built, workers=1, subset="part", keep_fraction=0.05)
    with pytest.raises(MsipError, match="at most"):
        curate(built, workers=1, subset="part", keep_fraction=1)


def test_the_fraction_that_is_advised_is_not_rounded_up():
    images = np.zeros(3000, PRINT)
    images["vector"] = np.random.default_rng(0).integers(-100, 100, (3000, 256))
    prints = Fingerprints.of(images)
    with pytest.raises(MsipError, match=r"give at most 0\.999666\."):
        fraction(prints, np.arange(3000) > 0, 1.0, threads=1)


def test_a_subset_of_another_build_is_refused(built):
    with pytest.raises(ManifestError, match="there is none yet"):
        select_subset(Manifest.read(built), "lean")
    curate(built, workers=1, subset="lean", max_similar=0.8)
    manifest = Manifest.read(built)
    row = manifest.frame.image_id.tolist().index("own/odd_tiny")
    with pytest.raises(ManifestError, match="1 of the"):
        select_subset(Manifest(manifest.table.filter(pa.array(np.arange(len(manifest)) != row)), built), "lean")
    with pytest.raises(ManifestError, match="there are lean"):
        select_subset(manifest, "leaner")


def test_leakage_is_listed_drawn_and_flagged(built, tmp_path):
    test_set = tmp_path / "evaluation" / "images"
    write(test_set, "a/equal.png", scene(10))
    write(test_set, "changed.jpg", cv2.resize(cv2.equalizeHist(at_rest(1, 3)), (200, 150)))
    write(test_set, "new.png", scene(77))
    (test_set / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    report = curate(built, against=[test_set], workers=1)
    (leak,) = report.leakage
    assert (leak.images, len(leak.leaked), leak.exact, leak.unreadable) == (4, 2, 1, 1)
    rows = list(csv.DictReader(leak.table.open()))
    assert [(row["set_image"], row["exact"]) for row in rows] == [("a/equal.png", "yes"), ("changed.jpg", "no")]
    assert rows[0]["image_id"] == "own/other_10" and rows[1]["image_id"].startswith("own/seq1_")
    assert cv2.imread(str(leak.sheet)).shape[1] == 4 * 244 + 4
    leaking = {name for name, values in flags(built).items() if "leaks_into:images" in values}
    assert leaking == {f"seq1_{frame:03d}" for frame in range(FRAMES)} | {"other_10", "other_copy_bytes"}
    curate(built, workers=1)  # not asked again: still known
    assert {name for name, values in flags(built).items() if "leaks_into:images" in values} == leaking
    (test_set / "a/equal.png").unlink()
    curate(built, against=[test_set], workers=1)
    assert "leaks_into:images" not in flags(built)["other_10"]
    assert len(Manifest.read(built).without_flags(["leaks_into"])) == TOTAL - FRAMES


def test_a_leak_that_was_judged_none_does_not_hide_one_into_another_set(built, tmp_path):
    write(tmp_path / "one", "equal.png", scene(10))
    write(tmp_path / "two", "equal.png", scene(10))
    curate(built, against=[tmp_path / "one"], workers=1)
    assert flags(built)["other_10"] == ["leaks_into:one"]
    set_flags(built, "other_10", [])
    curate(built, against=[tmp_path / "one", tmp_path / "two"], workers=1)
    assert flags(built)["other_10"] == ["leaks_into:two"]


def test_a_set_of_the_same_name_does_not_take_an_earlier_sets_place(built, tmp_path):
    write(tmp_path / "voc/test", "equal.png", scene(10))
    write(tmp_path / "flir/test", "equal.png", scene(11))
    curate(built, against=[tmp_path / "voc/test"], workers=1)
    for _ in range(2):
        curate(built, against=[tmp_path / "flir/test"], workers=1)
        assert flags(built)["other_10"] == ["leaks_into:test"] and flags(built)["other_11"] == ["leaks_into:flir_test"]
    write(tmp_path / "other/flir/test", "equal.png", scene(12))
    with pytest.raises(MsipError, match="rename a folder"):
        curate(built, against=[tmp_path / "other/flir/test"], workers=1)


def test_a_full_disk_takes_no_flag_away(built, tmp_path, monkeypatch):
    curate(built, workers=1)
    write(tmp_path / "set", "equal.png", scene(10))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Manifest, "write", interrupted)
        curate(built, against=[tmp_path / "set"], workers=1)
    curate(built, against=[tmp_path / "set"], workers=1)
    assert flags(built)["other_10"] == ["leaks_into:set"]


def interrupted(_):
    """In place of writing the manifest."""
    raise KeyboardInterrupt


def test_flips_are_flagged_on_request_and_left_out(tmp_path):
    raw = tmp_path / "raw"
    write(raw, "a.png", scene(1))
    write(raw, "b.png", 255 - scene(1)[:, ::-1])
    write(raw, "c.png", np.rot90(scene(1)))
    write(raw, "d.png", scene(2))
    out = tmp_path / "out"
    build(None, out, folder=raw, name="own", with_rois=False)
    report = curate(out, workers=1)
    assert report.near["same source"] == 0 and report.flags == {}
    report = curate(out, workers=1, flips=True, subset="lean", max_similar=0.9)
    assert report.near["same source"] == 3 and report.flags == {"near_duplicate_of": 2}
    assert flags(out) == {"a": [], "b": ["near_duplicate_of:own/a"], "c": ["near_duplicate_of:own/a"], "d": []}
    assert findings(out, "b")[0]["reason"] == "similarity 1.000, mirrored, inverted"
    assert findings(out, "c")[0]["reason"] == "similarity 1.000, turned left"
    lean, rest = select_subset(Manifest.read(out), "lean"), Manifest.read(out).without_flags(["near_duplicate"])
    assert lean.frame.image_id.tolist() == rest.frame.image_id.tolist() == ["own/a", "own/d"]
    curate(out, workers=1, flips=True, subset="half", keep_fraction=0.5)
    assert select_subset(Manifest.read(out), "half").frame.image_id.tolist() == ["own/a", "own/d"]


def test_a_flipped_leak_is_flagged(built, tmp_path):
    write(tmp_path / "set", "turned.png", np.rot90(scene(10), -1))
    assert curate(built, against=[tmp_path / "set"], workers=1).leakage[0].leaked == []
    (pair,) = curate(built, against=[tmp_path / "set"], workers=1, flips=True).leakage[0].leaked
    assert pair.variant == "turned right" and flags(built)["other_10"] == ["leaks_into:set"]


def test_what_is_judged_strictly_or_not_at_all_is_said(built, capsys):
    command = ["curate", str(built), "--workers", "1"]
    app([*command, "--json"], standalone_mode=False)
    summary = json.loads(capsys.readouterr().out)
    assert (summary["small"], summary["featureless"]) == (1, 1)  # tiny, blank
    app(command, standalone_mode=False)
    text = capsys.readouterr().out
    assert "Shorter side below 64 px, near-duplicates only if nearly equal: 1" in text
    assert "Without structure to compare, duplicates only if equal: 1" in text


def curated(folder, out, **options):
    build(None, out, folder=folder, name="own", with_rois=False)
    return curate(out, workers=1, **options)


def test_the_reported_flips_are_flagged(cases, tmp_path):
    report = curated(cases / "curation/flips/in", tmp_path / "out", flips=True)
    assert report.flags["near_duplicate_of"] == 3
    reasons = {name: findings(tmp_path / "out", name)[-1]["reason"].split(", ")[1] for name in flags(tmp_path / "out")
               if name != "h0"}  # fmt: skip
    assert reasons == {"h0_flip": "mirrored", "h0_rot180": "turned by 180", "h0_rot90": "turned right"}


@pytest.mark.parametrize("case", ["different-modules", "low-contrast-one-camera"])
def test_the_reported_different_images_are_no_copies(cases, tmp_path, case):
    for flips in (False, True):
        report = curated(cases / "curation" / case / "in", tmp_path / str(flips), flips=flips)
        assert "near_duplicate_of" not in report.flags and set(report.near.values()) == {0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--subset", "lean"], "--max-similar"),
        (["--max-similar", "0.9"], "--subset"),
        (["--subset", "a/b", "--max-similar", "0.9"], "cannot name"),
        (["--subset", "lean", "--max-similar", "0.2"], "0.5 to 1"),
        (["--subset", "lean", "--keep-fraction", "0"], "above 0"),
        (["--similarity", "0.1"], "0.5 to 1"),
        (["--against", "nowhere"], "no images"),
    ],
)
def test_mistakes_are_one_sentence_and_change_nothing(built, arguments, words):
    before = sorted(path.name for path in built.iterdir())
    with pytest.raises(MsipError, match=words):
        app(["curate", str(built), *arguments, "--workers", "1"], standalone_mode=False)
    assert sorted(path.name for path in built.iterdir()) == before


def test_the_command(built, capsys):
    command = ["curate", str(built), "--subset", "lean", "--max-similar", "0.9", "--workers", "1"]
    app([*command, "--json"], standalone_mode=False)
    summary = json.loads(capsys.readouterr().out)
    assert summary["flags"]["duplicate_of"] == 2 and summary["subset"]["images"] < summary["images"] == TOTAL
    app(command, standalone_mode=False)
    text = capsys.readouterr().out
    assert "near_duplicate_of" in text and "--subset lean" in text and "blank (1)" in text
