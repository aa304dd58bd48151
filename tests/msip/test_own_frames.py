"""A folder of one's own frames: nothing in it becomes an image, or is left out, without a word."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from msip_cli.main import app
from typer.testing import CliRunner

from msip import Manifest, build
from msip.curation.near import image_files
from msip.errors import FrameError, MsipError
from msip.manifest import SCHEMA
from msip.radiometry import decode
from msip.radiometry.cameras import suffixes
from msip.radiometry.suspects import suspicions

H, W = 120, 160


def scene(seed: int = 0, low: int = 7000, span: int = 900) -> np.ndarray:
    """Counts of a smooth background with warm objects and noise, uint16 (120, 160)."""
    rng = np.random.default_rng(seed)
    image = cv2.resize(rng.normal(size=(11, 14)), (W, H), interpolation=cv2.INTER_CUBIC)
    for y, x in ((10, 110), (70, 20), (75, 90)):
        image[y : y + 28, x : x + 24] += 4
    image = (image - image.min()) / np.ptp(image)
    return np.round(low + span * image + rng.normal(0, span / 200, (H, W))).astype(np.uint16)


def grey(seed: int = 0) -> np.ndarray:
    return cv2.normalize(scene(seed), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def put(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".tif", ".tiff"):
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, **options)
        path.write_bytes(file.getvalue())
    else:
        path.write_bytes(cv2.imencode(path.suffix.lower(), pixels)[1].tobytes())
    return path


@pytest.fixture
def frames(tmp_path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    return folder


def msip(*arguments: object) -> tuple[int, str]:
    """Exit code, and what is printed."""
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(done.exception, MsipError):
        return 2, str(done.exception)
    return done.exit_code, done.output


def ids(out: Path) -> list[str]:
    return Manifest.read(out).table.column("image_id").to_pylist()


# --- pixels without data ---------------------------------------------------------------------------------------------


def test_pixels_without_data_are_out_of_window_rois_and_statistics(frames, tmp_path):
    counts = cv2.resize(scene(1), None, fx=2, fy=2)  # RoIs have a least size
    put(frames / "whole.tiff", counts)
    counts[:60, :70] = -9999 & 0xFFFF
    put(frames / "holed.tiff", counts)
    build(None, tmp_path / "out", folder=frames)
    manifest = Manifest.read(tmp_path / "out")
    holed, whole = manifest.table.to_pylist()
    assert (holed["nodata"], whole["nodata"]) == (60 * 70, None)
    assert "4200 pixels without data" in holed["transform"]
    stored = cv2.imread(str(manifest.path(0)), cv2.IMREAD_UNCHANGED)
    assert (stored[:60, :70] == 0).all() and np.count_nonzero(stored == 0) == 60 * 70
    measured = stored[stored > 0] / 255
    assert (holed["pixel_mean"], holed["pixel_std"]) == pytest.approx((measured.mean(), measured.std()))
    assert measured.max() == 1  # the window is the scene's
    boxes = manifest.rois(0)
    assert len(boxes) > 3
    for x, y, width, height, _ in boxes:
        assert (stored[y : y + height, x : x + width] > 0).mean() > 0.5


def test_a_manifest_without_such_frames_has_no_such_column(frames, tmp_path):
    out = tmp_path / "out"
    put(frames / "a.tiff", scene(1))
    build(None, out, folder=frames, name="plain", with_rois=False)
    assert Manifest.read(out).table.schema == SCHEMA
    other = tmp_path / "other"
    counts = scene(2)
    counts[:20] = -32768 & 0xFFFF
    put(other / "b.tiff", counts)
    build(None, out, folder=other, with_rois=False)
    assert Manifest.read(out).table.column("nodata").to_pylist() == [20 * W, None]
    (other / "b.tiff").unlink()
    put(other / "c.tiff", scene(3))
    build(None, out, folder=other)
    assert Manifest.read(out).table.schema == SCHEMA


# --- which files -----------------------------------------------------------------------------------------------------


def test_what_systems_and_network_disks_leave_is_skipped_and_counted(frames, tmp_path):
    for name in ("img0.png", "@holiday/img1.png", "#1/img2.png", "$cold/img3.png", "recycle/img4.png"):
        put(frames / name, grey(1))
    left = ("@eaDir/img0.png/SYNOPHOTO_THUMB_M.jpg", "sub/@EADIR/a.png", "$RECYCLE.BIN/S-1/$R1.png", "#recycle/b.png")
    left += ("lost+found/c.png", "System Volume Information/d.png", "FOUND.000/e.png", "@Recycle/f.png", "~$img.png")
    left += (".Trash-1000/g.png", "SYNOPHOTO_THUMB_XL.jpg", "x.png@SynoEAStream", "._img0.png", "sub/._img9.png")
    for name in (*left, "Thumbs.db"):
        (frames / name).parent.mkdir(parents=True, exist_ok=True)
        put(frames / "tmp.png", grey(2)).rename(frames / name)
    report = build(None, tmp_path / "out", folder=frames, with_rois=False).sources[0]
    assert (report.images, report.strays) == (5, {})
    assert report.leftovers == {
        "$RECYCLE.BIN": 1, "#recycle": 1, ".Trash-1000": 1, "._*": 2, "@EADIR": 1, "@Recycle": 1, "@eaDir": 1,
        "FOUND.000": 1, "System Volume Information": 1, "Thumbs.db": 1, "lost+found": 1, "synophoto_thumb*": 1,
        "~$*": 1, "*@synoeastream": 1,
    }  # fmt: skip
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0 and ": 15 (" in said and "@eaDir" in said


@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (("--exclude", "*_w.jpg"), ["a_DJI_1_T", "a_DJI_2_T", "b_DJI_3_T", "b_masks_m"]),
        (("--include", "*_T.jpg"), ["a_DJI_1_T", "a_DJI_2_T", "b_DJI_3_T"]),
        (("--include", "a", "--exclude", "*_2_*"), ["a_DJI_1_T", "a_DJI_1_W"]),
        (("--exclude", "MASKS", "--exclude", "a/*"), ["b_DJI_3_T", "b_DJI_3_W"]),
        (("--include", "**/masks/*"), ["b_masks_m"]),
        (("--exclude", "*_W*", "--every", "2"), ["a_DJI_1_T", "b_DJI_3_T", "b_masks_m"]),
    ],
)
def test_globs_and_a_stride_choose_files(frames, tmp_path, options, taken):
    for name in ("a/DJI_1_T.JPG", "a/DJI_1_W.JPG", "a/DJI_2_T.JPG", "a/DJI_2_W.JPG", "b/DJI_3_T.JPG", "b/DJI_3_W.JPG"):
        put(frames / name, grey(len(name)))
    put(frames / "b/masks/m.JPG", grey(9))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois", *options)
    assert code == 0, said
    assert ids(tmp_path / "out") == [f"frames/{stem}" for stem in taken]
    record = json.loads((tmp_path / "out/build.json").read_text())["sources"]["frames"]
    assert record["seen"] == 7 and record["choice"]
    globs = [value for name, value in zip(options[::2], options[1::2], strict=True) if name != "--every"]
    assert [*record["choice"].get("include", []), *record["choice"].get("exclude", [])] == globs


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--include", "*.tif"), "matches --include '*.tif' (the first is a.png)"),
        (("--exclude", "*_W.JPG"), "matches --exclude '*_W.JPG'"),
        (("--exclude", "*"), "leave no frame of the 2"),
        (("--every", "0"), "--every is 0, expected 1 or more"),
        (("--channel", "5"), "--channel is 5, expected 1 to 4"),
    ],
)
def test_choices_that_cannot_be_are_one_sentence(frames, tmp_path, options, says):
    put(frames / "a.png", grey(1)), put(frames / "b.png", grey(2))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", *options)
    assert code == 2 and says in said, said
    assert not (tmp_path / "out").exists()


def test_choices_are_of_ones_own_frames(tmp_path):
    for options in (("--include", "*"), ("--every", "2"), ("--channel", "4")):
        code, said = msip("build", "--raw", tmp_path, "--out", tmp_path / "out", *options)
        assert code == 2 and f"{options[0]} chooses among your own frames" in said


def test_files_of_one_name_are_told_apart_by_their_suffix(frames, tmp_path):
    put(frames / "FLIR0.jpg", grey(1)), put(frames / "FLIR0.tiff", scene(1)), put(frames / "FLIR1.tiff", scene(2))
    (frames / "FLIR0.csv").write_text("1,2")
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0, said
    assert ids(tmp_path / "out") == ["frames/FLIR0_jpg", "frames/FLIR0_tiff", "frames/FLIR1"]
    assert "FLIR0.jpg and FLIR0.tiff" in said and "--exclude" in said
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois", "--exclude", "*.jpg")
    assert code == 0 and ids(tmp_path / "out") == ["frames/FLIR0", "frames/FLIR1"]
    put(frames / "a/b.png", grey(3)), put(frames / "a_b.png", grey(4))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out")
    assert code == 2 and "leave one out with --exclude" in said


def test_the_cases_of_folders(cases, tmp_path):
    folders = cases / "folders"
    report = build(None, tmp_path / "nas", folder=folders / "nas-leftovers", with_rois=False).sources[0]
    assert report.images == 3
    assert report.leftovers["@eaDir"] == 6 and report.leftovers["$RECYCLE.BIN"] == 1 and report.leftovers["._*"] == 3
    report = build(None, tmp_path / "stem", folder=folders / "same-stem", with_rois=False).sources[0]
    assert report.images == 6 and len(report.twins) == 3
    report = build(None, tmp_path / "dji", folder=folders / "jpeg-and-its-tiff", with_rois=False).sources[0]
    assert ids(tmp_path / "dji")[-1] == "jpeg-and-its-tiff/M30T_0001_tiff"


# --- what is no thermal frame ----------------------------------------------------------------------------------------


def photograph(seed: int) -> np.ndarray:
    """Pale colours that are no function of brightness, BGR."""
    rng = np.random.default_rng(seed)
    chroma = [cv2.resize(rng.normal(0, 18, (9, 12)), (W, H), interpolation=cv2.INTER_CUBIC) for _ in range(3)]
    return np.clip(grey(seed)[..., None] * 0.7 + 40 + np.stack(chroma, -1), 0, 255).astype(np.uint8)


def mask(seed: int, values: tuple[int, ...] = (1, 2)) -> np.ndarray:
    image = np.zeros((H, W), np.uint8)
    for value, (y, x) in zip(values, np.random.default_rng(seed).integers(10, 80, (len(values), 2)), strict=True):
        cv2.circle(image, (int(x) + 20, int(y)), 14, value, -1)
    return image


def flags_of(out: Path) -> dict[str, list[str]]:
    return {row["source_path"]: row["flags"] for row in Manifest.read(out).table.to_pylist()}


def test_photographs_beside_thermal_frames_are_told_counted_and_left_out(frames, tmp_path):
    for number in range(4):
        put(frames / f"DJI_000{number}_T.JPG", cv2.applyColorMap(grey(number), cv2.COLORMAP_INFERNO))
        put(frames / f"DJI_000{number}_W.JPG", photograph(number))
    put(frames / "DJI_0004_W.JPG", np.dstack([grey(4)] * 3))  # a dim one cannot be told
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0
    flags = flags_of(tmp_path / "out")
    for number in range(4):
        assert flags[f"DJI_000{number}_T.JPG"] == ["colour_mapped"]
        assert flags[f"DJI_000{number}_W.JPG"] == ["colour_mapped", "visible_photo"]
    assert "4 images, such as DJI_0000_W.JPG: by its colours a photograph" in said
    assert '--exclude "*_W.JPG" leaves them out' in said
    assert json.loads((tmp_path / "out/build.json").read_text())["sources"]["frames"]["suspects"]["visible_photo"] == {
        "images": 4, "example": "DJI_0000_W.JPG", "glob": "*_W.JPG",
    }  # fmt: skip
    msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois", "--exclude", "*_W.JPG")
    assert set(flags_of(tmp_path / "out")) == {f"DJI_000{number}_T.JPG" for number in range(4)}


@pytest.mark.parametrize("palette", [cv2.COLORMAP_BONE, cv2.COLORMAP_PINK, cv2.COLORMAP_JET, cv2.COLORMAP_HOT])
def test_false_colour_is_no_photograph(frames, tmp_path, palette):
    for number in range(3):
        put(frames / f"{number}.jpg", cv2.applyColorMap(grey(number), palette))
    build(None, tmp_path / "out", folder=frames, with_rois=False)
    assert not any("visible_photo" in flags for flags in flags_of(tmp_path / "out").values())


def test_masks_among_frames_are_flagged(frames, tmp_path):
    palette = np.array([[0, 0, 0], [0, 0, 128], [0, 128, 0]], np.uint8)
    put(frames / "images/0.png", grey(0)), put(frames / "images/1.tiff", scene(1))
    put(frames / "masks/0.png", mask(0)), put(frames / "masks/1.png", mask(1, (255, 255)))
    put(frames / "masks/2.png", palette[mask(2)]), put(frames / "masks/3.tiff", mask(3).astype(np.uint16) * 1000)
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0
    found = flags_of(tmp_path / "out")
    assert {path: "mask" in flags for path, flags in found.items()} == {p: p.startswith("masks/") for p in found}
    assert "4 images, such as masks/0.png: flat regions" in said and '--exclude "masks/*"' in said


def test_an_image_in_the_fourth_channel_is_flagged_and_can_be_chosen(frames, tmp_path):
    put(frames / "0.png", np.dstack([photograph(0), grey(5)]))
    put(frames / "1.png", np.dstack([np.dstack([grey(1)] * 3), mask(1, (255, 255))]))  # true transparency
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0 and "image_in_alpha: frames: 0.png: the fourth channel" in said and "--channel 4" in said
    assert "image_in_alpha" in flags_of(tmp_path / "out")["0.png"]
    assert "image_in_alpha" not in flags_of(tmp_path / "out")["1.png"]
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "four", "--no-rois", "--channel", "4")
    assert code == 0
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "four/frames/thermal/0.png"), -1), grey(5))
    put(frames / "2.png", grey(2))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "four", "--no-rois", "--channel", "4")
    assert code == 0 and "2.png: has no channel 4 (it has 1); correct --channel or leave it out" in said


def test_data_of_a_maker_that_is_not_read_is_flagged(frames, tmp_path):
    jpeg = put(frames / "plain.jpg", grey(1)).read_bytes()
    counts = scene(1).tobytes()

    def segment(number: int, content: bytes) -> bytes:
        return bytes([0xFF, number]) + (len(content) + 2).to_bytes(2, "big") + content

    (frames / "behind.jpg").write_bytes(jpeg + b"HDRI" + counts)
    (frames / "preview.jpg").write_bytes(jpeg + jpeg + counts)
    (frames / "inside.jpg").write_bytes(jpeg[:2] + segment(0xE3, counts) + jpeg[2:])
    (frames / "pictures.jpg").write_bytes(jpeg + jpeg)
    (frames / "film.jpg").write_bytes(jpeg + b"\0\0\0\x18ftypmp42" + counts)
    (frames / "padded.jpg").write_bytes(jpeg + bytes(50000))
    (frames / "profile.jpg").write_bytes(jpeg[:2] + segment(0xE2, b"ICC_PROFILE\0" + counts) + jpeg[2:])
    bmp = cv2.imencode(".bmp", grey(2))[1].tobytes()
    (frames / "uni.bmp").write_bytes(bmp + counts)
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0
    flagged = {path for path, flags in flags_of(tmp_path / "out").items() if "unread_data" in flags}
    assert flagged == {"behind.jpg", "preview.jpg", "inside.jpg", "uni.bmp"}
    assert "4 images, such as behind.jpg: radiometric data of the maker inside is not read" in said


def test_a_testo_thermogram_is_refused(frames, tmp_path):
    header = b"BM" + (153722).to_bytes(4, "little") + bytes(4) + (122).to_bytes(4, "little")
    info = (40).to_bytes(4, "little") + (320).to_bytes(4, "little") + (240).to_bytes(4, "little")
    info += (1).to_bytes(2, "little") + (16).to_bytes(2, "little") + bytes(24)
    pixels = np.random.default_rng(0).integers(0, 255, 153600).astype(np.uint8).tobytes()
    (frames / "IR.bmt").write_bytes((header + info).ljust(122, b"\0") + pixels + b"BM" + bytes(5000))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out")
    assert code == 1 and "unsupported: frames: IR.bmt: a Testo thermogram" in said


# --- said where people look ------------------------------------------------------------------------------------------


def test_the_console_names_every_kind_with_count_example_and_remedy(frames, tmp_path):
    put(frames / "good.png", grey(1)), put(frames / "masks/0.png", mask(0))
    for number in range(3):
        (frames / f"cut{number}.png").write_bytes(put(frames / "tmp.png", grey(number)).read_bytes()[: 900 + number])
        (frames / f"movie{number}.avi").write_bytes(b"RIFF\0\0\0\0AVI " + bytes(99))
        np.save(frames / f"stack{number}.npy", scene(number))
        (frames / f"table{number}.csv").write_text("1,2")
    put(frames / "tmp.png", np.full((H, W), 9, np.uint8))
    (frames / "Thumbs.db").write_bytes(b"x")
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out", "--no-rois")
    assert code == 0
    order = (
        "mask: frames: masks/0.png: flat regions",
        "broken: frames: 3 files, such as cut0.png: the PNG is cut off",
        "unsupported: frames: 3 files, such as movie0.avi: AVI movie is not read; save each frame as PNG",
        "unsupported: frames: 3 files, such as stack0.npy: NumPy array is not read",
        "blank: frames: tmp.png: every pixel is 9; --keep-blank keeps such frames",
        "ignored: frames: 3 files, such as table0.csv: .csv is no format",
        "ignored: frames: left by a system or a network disk: 1 (1 Thumbs.db)",
    )
    assert [sentence for sentence in order if sentence not in said] == [], said
    places = [said.index(sentence) for sentence in order]
    assert places == sorted(places)


def test_a_build_without_one_usable_frame_says_why_and_writes_it_down(frames, tmp_path):
    for number in range(3):
        (frames / f"{number}.avi").write_bytes(b"RIFF\0\0\0\0AVI " + bytes(99))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out")
    assert code == 1 and "3 files, such as 0.avi: AVI movie is not read" in said and "no frame could be used" in said
    record = json.loads((tmp_path / "out/build.json").read_text())
    assert record["images"] == 0 and len(record["sources"]["frames"]["problems"]) == 3
    assert not (tmp_path / "out/manifest.parquet").exists()
    put(frames / "good.png", grey(1))
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out")
    assert code == 0 and ids(tmp_path / "out") == ["frames/good"]
    (frames / "good.png").write_bytes(b"gone")
    code, said = msip("build", "--folder", frames, "--out", tmp_path / "out")
    assert code == 2 and "what an earlier build left stays" in said
    assert ids(tmp_path / "out") == ["frames/good"]


@pytest.mark.parametrize(
    ("folder", "flag", "flagged", "options"),
    [
        ("folders/rgb-thermal-png", "image_in_alpha", 3, ("--channel", "4")),
        ("folders/masks-among-frames", "mask", 3, ("--exclude", "masks/*")),
        ("formats/hikmicro-hdri", "unread_data", 1, ()),
        ("formats/infiray-p2pro", "unread_data", 1, ()),
        ("formats/unit-bmp", "unread_data", 3, ()),
    ],
)
def test_the_cases_of_suspects(cases, tmp_path, folder, flag, flagged, options):
    code, said = msip("build", "--folder", cases / folder, "--out", tmp_path / "out", "--no-rois")
    assert code == 0 and f"  {flag}: " in said
    assert sum(flag in flags for flags in flags_of(tmp_path / "out").values()) == flagged
    if options:
        msip("build", "--folder", cases / folder, "--out", tmp_path / "chosen", "--no-rois", *options)
        flags = flags_of(tmp_path / "chosen")
        assert len(flags) == 3 and not any(flags.values())


def test_every_case_of_formats_is_an_image_or_named(cases, tmp_path):
    for folder in sorted((cases / "formats").iterdir()):
        out = tmp_path / folder.name
        code, said = msip("build", "--folder", folder, "--out", out, "--no-rois")
        assert code in (0, 1), said
        images = ids(out) if code == 0 else []
        record = json.loads((out / "build.json").read_text())["sources"][folder.name]
        ignored = sum(record["strays"].values())
        assert len(images) + len(record["problems"]) + ignored == sum(file.is_file() for file in folder.iterdir())
        for kind in record["strays"]:
            assert f"{kind} is no format" in said


@pytest.mark.realdata
@pytest.mark.slow
def test_real_frames_are_no_suspects_and_real_masks_are(realdata):
    kinds: dict[str, Counter[str]] = {}
    for file in realdata.rglob("*"):
        if file.suffix.lower() in suffixes():
            with contextlib.suppress(FrameError):
                found = suspicions(decode(file.read_bytes(), name=file.name))
                what = "mask" if file.parent.name == "masks" else "photo" if "visible" in str(file) else "frame"
                kinds.setdefault(what, Counter()).update(found or ["none"])
    assert set(kinds["mask"]) == {"mask"}
    assert set(kinds["frame"]) == {"none", "unread_data"} and kinds["frame"]["unread_data"] == 1
    assert set(kinds["photo"]) == {"none", "visible_photo"}
    assert kinds["photo"]["visible_photo"] > 0.85 * sum(kinds["photo"].values())


def test_thumbnails_of_a_network_disk_are_no_evaluation_images(frames):
    put(frames / "a.png", grey(1)), put(frames / "@eaDir/a.png/SYNOPHOTO_THUMB_M.jpg", grey(1))
    assert image_files(frames) == [frames / "a.png"]
