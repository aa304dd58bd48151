"""16-bit counts that went wrong on their way into a file are put right; lawful ones stay as they are."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from msip.errors import FrameError
from msip.radiometry import RawFrame, decode
from msip.radiometry.counts import repaired

H, W = 120, 160


def scene(low: int = 7000, span: int = 900, seed: int = 0, size: tuple[int, int] = (H, W)) -> np.ndarray:
    """Counts of a smooth background with warm objects and noise, int32."""
    rng = np.random.default_rng(seed)
    small = rng.normal(size=(size[0] // 12 + 1, size[1] // 12 + 1))
    image = cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)
    for _ in range(4):
        y, x = rng.integers(10, size[0] - 20), rng.integers(10, size[1] - 20)
        image[y : y + 9, x : x + 6] += 3
    image = (image - image.min()) / np.ptp(image)
    return np.round(low + span * image + rng.normal(0, span / 200, size)).astype(np.int32)


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def as_stored(counts: np.ndarray) -> bool:
    frame = repaired(RawFrame(counts, 16, 1, "png"))
    return frame.note == "" and frame.nodata is None and np.array_equal(frame.pixels, counts)


COUNTS = scene().astype(np.uint16)


@pytest.mark.parametrize("write", [png, tiff, lambda p: tiff(p, byteorder=">")], ids=["png", "tiff", "tiff big"])
@pytest.mark.parametrize("counts", [COUNTS, COUNTS << 2, scene(16700, 200).astype(np.uint16)], ids=["14", "16", "one"])
def test_swapped_bytes_are_put_in_order(write, counts):
    frame = decode(write(counts.byteswap()), name="x")
    np.testing.assert_array_equal(frame.pixels, counts)
    assert "low byte first" in frame.note


def test_swapped_bytes_in_three_equal_channels_too():
    frame = decode(png(np.dstack([COUNTS.byteswap()] * 3)), name="x")
    np.testing.assert_array_equal(frame.pixels, np.dstack([COUNTS] * 3))


GREY8 = (scene(0, 240, 3) + 8).clip(0, 255).astype(np.uint16)
LAWFUL = {
    "14 bit": COUNTS,
    "14 bit << 2": COUNTS << 2,
    "12 bit << 4": (scene(1000, 2500).astype(np.uint16)) << 4,
    "8 bit": GREY8,
    "8 bit x 256": GREY8 << 8,
    "8 bit x 257": GREY8 * 257,
    "stretched": np.round((COUNTS - COUNTS.min()) * (65535 / np.ptp(COUNTS))).astype(np.uint16),
    "centikelvin across 327.68 K": scene(31500, 2600).astype(np.uint16),
    "fire": scene(28000, 37000).astype(np.uint16),
    "mask": (GREY8 > 128).astype(np.uint16),
    "mask x 65535": (GREY8 > 128).astype(np.uint16) * 65535,
    "instances": np.where(GREY8 > 180, 26001, np.where(GREY8 > 120, 26000, 7)).astype(np.uint16),
    "noise": np.random.default_rng(0).integers(0, 65536, (H, W)).astype(np.uint16),
    "constant": np.full((H, W), 7000, np.uint16),
    "one row": COUNTS[:1],
    "one column": COUNTS[:, :1].copy(),
}


@pytest.mark.parametrize("what", LAWFUL)
def test_lawful_counts_stay_as_they_are(what):
    assert as_stored(LAWFUL[what])


@pytest.mark.parametrize("value", [0, 65535, 60000])
def test_bad_pixels_do_not_make_a_frame_roll_over(value):
    counts = COUNTS.copy()
    where = np.random.default_rng(1).integers(0, counts.size, 30)
    counts.flat[where] = value if value != 60000 else np.random.default_rng(2).integers(50000, 65535, 30)
    assert as_stored(counts)
    counts = COUNTS.copy()
    counts[50:60, 40:60] = 65535  # a glint
    assert as_stored(counts)


@pytest.mark.parametrize("degrees", [scene(-800, 2000), scene(-4000, 9000, 5), scene(-60, 400, 6)], ids=str)
def test_degrees_below_zero_that_rolled_over_keep_their_order(degrees):
    frame = decode(tiff(degrees.astype(np.int16).view(np.uint16)), name="x")
    np.testing.assert_array_equal(frame.pixels, degrees + 32768)
    assert "rolled over" in frame.note


def telemetry(rows: int, width: int = W, zeros: float = 0.7) -> np.ndarray:
    words = np.random.default_rng(7).integers(1, 65535, (rows, width)).astype(np.uint16)
    words[np.random.default_rng(8).random((rows, width)) < zeros] = 0
    return words


@pytest.mark.parametrize("zeros", [0.7, 0.1])
@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_telemetry_rows_are_cut_off_at_either_end(rows, zeros):
    words = telemetry(rows, zeros=zeros)
    for stacked in (np.vstack([words, COUNTS]), np.vstack([COUNTS, words])):
        frame = decode(png(stacked), name="x")
        np.testing.assert_array_equal(frame.pixels, COUNTS)
        assert f"{rows} rows of telemetry" in frame.note


def test_what_only_looks_like_telemetry_stays():
    padded = np.vstack([np.zeros((2, W), np.uint16), COUNTS, np.zeros((2, W), np.uint16)])
    assert as_stored(padded)
    hot = COUNTS.copy()
    hot[-3:] += 500
    assert as_stored(hot)
    low = COUNTS.copy()
    low[:2] = 100  # a constant edge
    assert as_stored(low)


@pytest.mark.parametrize("value", [-9999, -10000, -32768])
def test_what_is_no_data_is_told_from_counts(value):
    counts = COUNTS.copy()
    counts[:40, :30] = value & 0xFFFF
    frame = decode(tiff(counts), name="x")
    np.testing.assert_array_equal(frame.pixels, counts)
    assert (frame.nodata, "1200 pixels without data" in frame.note) == (value & 0xFFFF, True)


def test_no_data_by_the_tag_of_mapping_software():
    counts = COUNTS.copy()
    counts[5:15, 5:15] = 1
    tag = [(42113, "s", 0, "1", True)]
    assert decode(tiff(counts, extratags=tag), name="x").nodata == 1
    assert decode(tiff(COUNTS, extratags=tag), name="x").nodata is None
    odd = [(42113, "s", 0, "nan", True)]
    assert decode(tiff(counts, extratags=odd), name="x").nodata is None


def test_no_data_beside_degrees_below_zero():
    degrees = scene(-800, 2000)
    degrees[:40, :30] = -9999
    frame = decode(tiff(degrees.astype(np.int16).view(np.uint16)), name="x")
    np.testing.assert_array_equal(frame.pixels, degrees + 32768)
    assert frame.nodata == -9999 + 32768


def real_counts(folder: Path) -> dict[str, np.ndarray]:
    """The 16-bit frames below a folder, by name, as their readers give them."""
    found = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        try:
            frame = decode(file.read_bytes(), name=file.name)
        except FrameError:
            continue
        if frame.pixels.dtype == np.uint16:
            found[str(file.relative_to(folder))] = frame.pixels
    return found


@pytest.mark.realdata
def test_real_frames_stay_as_they_are_and_are_found_when_swapped(realdata, cases):
    frames = real_counts(realdata / "hard_inputs") | real_counts(cases / "formats/samples")
    assert len(frames) >= 28
    for name, counts in frames.items():
        assert as_stored(counts), name
        for shift in (1, 2):
            if counts.max() < 65536 >> shift:
                assert as_stored(counts << shift), (name, shift)
        np.testing.assert_array_equal(repaired(RawFrame(counts.byteswap(), 16, 1, "png")).pixels, counts, name)
        celsius = (counts.astype(np.int32) - int(np.percentile(counts, 20))).clip(-16384, 16384)
        signed = celsius.astype(np.int16)
        np.testing.assert_array_equal(
            repaired(RawFrame(signed.view(np.uint16), 16, 1, "png")).pixels, celsius + 32768, name
        )


def test_the_cases_of_counts(cases):
    formats = cases / "formats"
    for name, at in {"FLIR_AX8_RawThermalImage.png": 16711, "FLIR_RawThermalImage.png": 12501}.items():
        frame = decode((formats / "swapped-png" / name).read_bytes(), name=name)
        assert int(frame.pixels.min()) == at and "low byte first" in frame.note
    whole = decode((formats / "lepton-telemetry-pgm/lepton_cropped.tiff").read_bytes(), name="x").pixels
    for number in range(3):
        frame = decode((formats / f"lepton-telemetry-pgm/lepton_{number}.tiff").read_bytes(), name="x")
        assert frame.pixels.shape == whole.shape and "2 rows of telemetry" in frame.note
        assert 29000 <= frame.pixels.min() < frame.pixels.max() <= 31000
    rolled = decode((formats / "centi-celsius/uint16_rollover.tif").read_bytes(), name="x")
    kelvin = decode((formats / "centi-celsius/uint16_centikelvin.tif").read_bytes(), name="x")
    assert np.ptp(rolled.pixels.astype(int) - kelvin.pixels) <= 1
    assert kelvin.note == "" and "rolled over" in rolled.note
