"""Counts become 8 bits as documented, and what the manifest says of a frame is true of it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from msip import radiometry
from msip.errors import CollapsedFrame, FrameError, MsipError
from msip.radiometry import colour_fraction, is_colour_mapped, is_constant, phash, to_8bit, to_grey

H, W = 96, 128


def scene(seed: int = 0) -> np.ndarray:
    """A textured grey image with an edge, uint8."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.arange(H), np.arange(W)) * 0.8
    ramp[30:60, 40:90] += 50
    return (ramp + rng.integers(0, 20, (H, W))).astype(np.uint8)


GREY = scene()
COUNTS = GREY.astype(np.uint16) * 3 + 7000
COLOUR = np.dstack([scene(1), 255 - scene(2), scene(3)])  # BGR


# --- AGC -------------------------------------------------------------------------------------------------------------


def test_window_follows_the_written_formula():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    mapped, description = to_8bit(every, "window", (7000, 7531))
    expected = np.floor((np.clip(every.astype(float), 7000, 7531) - 7000) * 255 / 531 + 0.5)
    np.testing.assert_array_equal(mapped, expected)
    assert description == "agc window 7000..7531"


@pytest.mark.parametrize("method", ["percentile", "full"])
def test_linear_agc_never_decreases_and_spans_all_levels(method):
    rng = np.random.default_rng(3)
    counts = rng.normal(7200, 60, (480, 640)).astype(np.uint16)
    mapped, description = to_8bit(counts, method)
    order = np.argsort(counts, axis=None, kind="stable")
    assert (np.diff(mapped.ravel()[order].astype(int)) >= 0).all()
    assert (mapped.min(), mapped.max()) == (0, 255)
    tails = (np.percentile(counts, 0.1), np.percentile(counts, 99.9)) if method == "percentile" else (0, 0)
    lo, hi = (int(v) for v in description.split("(")[-1].split()[-1].strip("()").split(".."))
    expected = tails if method == "percentile" else (counts.min(), counts.max())
    assert (lo, hi) == pytest.approx(expected, abs=1)


def test_dead_and_hot_pixels_do_not_move_the_percentile_window():
    clean = to_8bit(COUNTS, "percentile")
    counts = COUNTS.copy()
    counts.ravel()[::20] = 0  # 5 % dead
    counts.ravel()[1::20] = 65535  # 5 % saturated
    mapped, description = to_8bit(counts, "percentile")
    good = np.ones(counts.size, bool)
    good[::20] = good[1::20] = False
    assert abs(mapped.ravel()[good].astype(int) - clean[0].ravel()[good]).max() <= 4
    assert (mapped.ravel()[0], mapped.ravel()[1]) == (0, 255)
    assert description.startswith("agc percentile 0.1..99.9 (70")


def test_clahe_keeps_more_local_contrast_than_a_line():
    counts = COUNTS.copy()
    counts[:, :64] += 4000
    (local, description), (line, _) = to_8bit(counts, "clahe"), to_8bit(counts, "percentile")
    assert local[60:, 70:].std() > 1.5 * line[60:, 70:].std()
    assert local.dtype == np.uint8
    assert "clahe" in description


@pytest.mark.parametrize("method", ["percentile", "full", "clahe"])
def test_two_counts_are_told_apart(method):
    counts = np.full((24, 40), 7000, np.uint16)
    counts[:, 20:] = 7001
    mapped, _ = to_8bit(counts, method)
    assert mapped[0, 0] < mapped[0, -1]


@pytest.mark.parametrize("method", ["percentile", "full", "clahe"])
def test_constant_counts_collapse_with_a_name(method):
    with pytest.raises(CollapsedFrame, match=r"7000\.\.7000"):
        to_8bit(np.full((24, 40), 7000, np.uint16), method)


@pytest.mark.parametrize("window", [(0, 100), (60000, 65535)])
def test_a_window_beside_the_data_collapses_and_says_where_the_data_is(window):
    with pytest.raises(CollapsedFrame, match=rf"{window[0]}\.\.{window[1]}.*{COUNTS.min()}\.\.{COUNTS.max()}"):
        to_8bit(COUNTS, "window", window)


@pytest.mark.parametrize(("method", "window"), [("window", None), ("full", (1, 2)), ("window", (9, 9)), ("log", None)])
def test_an_impossible_request_is_the_users_mistake_not_the_frames(method, window):
    with pytest.raises(MsipError) as caught:
        to_8bit(COUNTS, method, window)
    assert not isinstance(caught.value, FrameError)


# --- checks ----------------------------------------------------------------------------------------------------------


def test_colour_mapped_or_not():
    mapped = cv2.applyColorMap(GREY, cv2.COLORMAP_INFERNO)
    assert is_colour_mapped(mapped)
    assert is_colour_mapped(cv2.applyColorMap(GREY, cv2.COLORMAP_JET))
    assert is_colour_mapped(mapped.astype(np.uint16) * 257)
    noisy = np.dstack([GREY] * 3).astype(int) + np.random.default_rng(0).integers(-3, 4, (H, W, 3))
    assert not is_colour_mapped(np.clip(noisy, 0, 255).astype(np.uint8))
    bar = np.dstack([GREY] * 3)
    bar[:, -6:] = mapped[:, -6:]  # a scale bar over 4.7 % of the frame
    assert not is_colour_mapped(bar)
    assert 0.02 < colour_fraction(bar) < 0.05
    assert not is_colour_mapped(GREY)


def test_to_grey_is_exact_where_it_can_be():
    np.testing.assert_array_equal(to_grey(np.dstack([GREY] * 3)), GREY)
    np.testing.assert_array_equal(to_grey(np.dstack([GREY] * 3 + [255 - GREY])), GREY)  # transparent or not
    np.testing.assert_array_equal(to_grey(np.dstack([COUNTS] * 3)), COUNTS)
    np.testing.assert_array_equal(to_grey(COLOUR), cv2.cvtColor(COLOUR, cv2.COLOR_BGR2GRAY))


def test_constant_frames():
    constant = np.full((8, 8), 7, np.uint16)
    assert is_constant(constant)
    assert is_constant(np.full((8, 8, 3), (1, 2, 3), np.uint8))
    constant[7, 7] = 8
    assert not is_constant(constant)
    assert is_constant(np.dstack([np.full((8, 8), 7, np.uint8)] * 3 + [np.arange(64, dtype=np.uint8).reshape(8, 8)]))


def test_statistics_are_numpys():
    assert radiometry.image_statistics(GREY) == pytest.approx((GREY.mean() / 255, GREY.std() / 255), abs=1e-12)
    assert radiometry.image_statistics(np.full((4, 4), 255, np.uint8)) == (1.0, 0.0)


def distance(a: str, b: str) -> int:
    return bin(int(a, 16) ^ int(b, 16)).count("1")


def test_phash_is_near_for_near_images_and_far_for_others():
    rng = np.random.default_rng(5)
    blobs = [cv2.resize(rng.integers(0, 256, (6, 8)).astype(np.uint8), (640, 512), interpolation=2) for _ in range(6)]
    hashes = [phash(image) for image in blobs]
    assert all(len(h) == 16 for h in hashes)
    for image, own in zip(blobs, hashes, strict=True):
        jpeg = cv2.imencode(".jpg", cv2.resize(image, (320, 256)), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
        again = cv2.imdecode(jpeg, cv2.IMREAD_UNCHANGED)
        assert distance(phash(again), own) <= 4
        assert distance(phash((image * 0.7 + 30).astype(np.uint8)), own) <= 4
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) >= 16
    assert phash(np.full((40, 24), 128, np.uint8)) == "0" * 16
