"""Selective search against the package it reproduces: selectivesearch 0.4 on scikit-image's felzenszwalb."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT, missing

from msip.errors import MsipError
from msip.rois import regions, segment, selective_search

try:
    import selectivesearch
except ImportError:
    selectivesearch = None

PARAMETERS = {"scale": 600, "sigma": 0.9, "min_size": 30}
FOLDERS = [
    "downstream/det_hituav/images",
    "downstream/det_msrs/images",
    "downstream/seg_buffalo/train/images",
    "msip_sources/LLVIP/infrared",
    "msip_sources/LSOTB-TIR_TrainingData",
    "msip_sources/SCUT FIR Pedestrian Dataset",
    "msip_sources/DroneVehicle",
    "pretrain_misc/roadscene_ir",
]


def reference(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and the ordered (x, y, width, height, area) rows of the oracle."""
    if selectivesearch is None:
        missing("selectivesearch==0.4 (the test extra)")
    colour = image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labelled, found = selectivesearch.selective_search(colour, **PARAMETERS)
    return labelled[:, :, 3], np.array([(*region["rect"], region["size"]) for region in found])


def boxes_kept(rows: np.ndarray) -> list[tuple[int, ...]]:
    """What the published preprocessing writes, region by region: large, wide and high enough, not too thin."""
    kept: list[tuple[int, ...]] = []
    for x, y, width, height, area in rows.tolist():
        if area < 600 or width < 40 or height < 40:
            continue
        if width / height > 3 or height / width > 3 or (x, y, width, height) in kept:
            continue
        kept.append((x, y, width, height))
    return kept


def assert_as_reference(image: np.ndarray, tie_order: str = "index") -> int:
    labels, rows = reference(image)
    np.testing.assert_array_equal(segment(image, tie_order=tie_order), labels)
    np.testing.assert_array_equal(regions(image, tie_order=tie_order), rows)
    ours = selective_search(image, tie_order=tie_order)
    assert [tuple(row) for row in ours[:, :4].tolist()] == boxes_kept(rows)
    return len(ours)


def frames_in(folder: Path) -> list[Path]:
    frames = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".png", ".bmp")]
    if not frames:
        missing(f"images in {folder}")
    return frames


def crop_of(path: Path, width: int = 288, height: int = 224) -> np.ndarray:
    image = cv2.imread(str(path))
    y, x = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[max(y, 0) : y + height, max(x, 0) : x + width])


def few_levels(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blocks of four grey values, enlarged: nearly all costs are tied, the order of ties decides labels."""
    blocks = np.random.default_rng(seed).integers(0, 4, (height // 8 + 1, width // 8 + 1))
    return (np.kron(blocks, np.ones((8, 8), int))[:height, :width] * 60).astype(np.uint8)


@pytest.mark.realdata
@pytest.mark.parametrize("folder", FOLDERS)
def test_real_infrared_crops_are_as_the_reference(realdata, folder):
    frames = frames_in(realdata / folder)
    crop = crop_of(frames[len(frames) // 2])
    assert assert_as_reference(crop) > 0
    np.testing.assert_array_equal(selective_search(crop), selective_search(crop[:, :, 0]))


@pytest.mark.realdata
def test_three_different_channels_are_as_the_reference(realdata):
    assert assert_as_reference(crop_of(sorted((realdata / "msip_sources/LLVIP/visible").rglob("*.jpg"))[3])) > 0
    grey = crop_of(frames_in(realdata / FOLDERS[0])[0])[:, :, 0]
    assert_as_reference(np.stack([grey, grey[::-1], grey[:, ::-1]], axis=2))


@pytest.mark.realdata
@pytest.mark.slow
def test_full_size_frames_are_as_the_reference(realdata):
    sample = [frame for folder in FOLDERS for frame in frames_in(realdata / folder)[::37][:2]][:14]
    assert len(sample) >= 12
    assert sum(assert_as_reference(cv2.imread(str(path))) for path in sample) > 100


SIZES = [(1, 1), (1, 5), (5, 1), (2, 2), (3, 40), (40, 24), (64, 128), (65, 129)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_size_from_one_pixel_is_as_the_reference(height, width):
    # 64 x 128 is one tile exactly, 65 x 129 has tiles of one row and one column
    rng = np.random.default_rng(height * width)
    assert_as_reference(rng.integers(0, 256, (height, width), np.uint8))
    assert_as_reference(rng.integers(0, 256, (height, width, 3), np.uint8))
    assert_as_reference(np.full((height, width), 77, np.uint8))


@pytest.mark.parametrize("tie_order", ["index", "numpy"])
def test_constant_image_is_one_region(tie_order):
    image = np.full((96, 160), 200, np.uint8)
    assert regions(image, tie_order=tie_order).tolist() == [[0, 0, 159, 95, 96 * 160]]
    assert_as_reference(image, tie_order)


@pytest.mark.parametrize("seed", range(4))
def test_tied_costs_in_numpy_order_are_as_the_reference(seed):
    assert_as_reference(few_levels(120, 150, seed), "numpy")
    assert_as_reference(np.random.default_rng(seed).integers(0, 2, (90, 140), np.uint8) * 9, "numpy")


@pytest.mark.parametrize("across", [False, True])
def test_ramp_is_as_the_reference(across):
    ramp = np.tile(np.arange(200, dtype=np.uint8), (150, 1))
    assert_as_reference(np.ascontiguousarray(ramp.T if across else ramp))


def simple_segments(image: np.ndarray, scale: float, min_size: int) -> np.ndarray:
    """The textbook process in plain Python, with ties in edge order, on costs computed here."""
    from scipy.ndimage import gaussian_filter

    height, width = image.shape
    smooth = gaussian_filter(image * (1.0 / 255.0), 0.9, mode="reflect")
    index = np.arange(height * width).reshape(height, width)
    ends = [
        (index[:, 1:], index[:, :-1]),
        (index[1:], index[:-1]),
        (index[1:, 1:], index[:-1, :-1]),
        (index[:-1, 1:], index[1:, :-1]),
    ]
    first, second = (np.concatenate([pair[side].ravel() for pair in ends]) for side in (0, 1))
    square = (smooth.ravel()[first] - smooth.ravel()[second]) ** 2
    costs = np.sqrt((square + square) + square)
    root, size, internal = list(range(height * width)), [1] * (height * width), [0.0] * (height * width)

    def find(node: int) -> int:
        while root[node] != node:
            node = root[node]
        return node

    k = scale / 255.0
    order = np.argsort(costs, kind="stable")
    for joining_small in (False, True):
        for edge in order:
            a, b = find(first[edge]), find(second[edge])
            if a == b:
                continue
            inner = min(np.float32(internal[a] + k / size[a]), np.float32(internal[b] + k / size[b]))
            if min(size[a], size[b]) < min_size if joining_small else costs[edge] < inner:
                a, b = min(a, b), max(a, b)
                root[b], size[a] = a, size[a] + size[b]
                internal[a] = internal[a] if joining_small else costs[edge]
    roots = np.array([find(node) for node in range(height * width)])
    return np.unique(roots, return_inverse=True)[1].reshape(height, width)


@pytest.mark.parametrize(("scale", "min_size"), [(600, 30), (40, 0), (5, 3), (20000, 1)])
def test_tied_costs_come_in_edge_order_by_default(scale, min_size):
    for image in (few_levels(70, 140), np.random.default_rng(1).integers(0, 256, (66, 131), np.uint8)):
        ours = segment(image, scale=scale, min_size=min_size)
        np.testing.assert_array_equal(ours, simple_segments(image, scale, min_size))
        assert ours.max() > 2 or scale == 20000


def test_edges_never_outgrow_their_buffers(monkeypatch):
    """A tiny scale rejects nearly every edge, so that nearly all that were left out come back."""
    from msip.rois import felzenszwalb

    image = np.random.default_rng(5).integers(0, 3, (110, 140, 3), np.uint8) * 50
    listed: list[int] = []
    original = felzenszwalb.list_small_edges

    def recording(*args):
        listed.append(original(*args[:-1], np.empty(5 * image.size, np.uint64)))  # room for all, whatever happens
        return original(*args) if listed[-1] <= len(args[-1]) else 0

    monkeypatch.setattr(felzenszwalb, "list_small_edges", recording)
    segment(image, scale=1, min_size=100)
    assert 110 * 140 < listed[0] <= 3 * 110 * 140


def synthetic(kind: str, side: int) -> np.ndarray:
    rng = np.random.default_rng(side)
    return {
        "constant": lambda: np.full((side, side), 90, np.uint8),
        "ramp": lambda: np.tile((np.arange(side) % 256).astype(np.uint8), (side, 1)),
        "diagonal": lambda: (np.add.outer(np.arange(side), np.arange(side)) % 256).astype(np.uint8),
        "noise": lambda: rng.integers(0, 256, (side, side), np.uint8),
        "few levels": lambda: few_levels(side, side),
        "stripes": lambda: np.tile((np.arange(side) // 3 % 2 * 200).astype(np.uint8), (side, 1)),
    }[kind]()


@pytest.mark.parametrize("kind", ["constant", "ramp", "diagonal", "noise", "few levels", "stripes"])
def test_work_grows_with_the_pixels_only(kind, monkeypatch):
    from msip.rois import felzenszwalb

    handled: list[int] = []
    for name, work in (("settle_tiles", lambda result: result[1]), ("grow", lambda result: int(result.sum()))):
        original = getattr(felzenszwalb, name)

        def counting(*args, original=original, work=work):
            result = original(*args)
            handled[-1] += work(result)
            return result

        monkeypatch.setattr(felzenszwalb, name, counting)
    for side in (128, 256, 512):
        handled.append(0)
        segment(synthetic(kind, side))
        assert handled[-1] <= 4 * side * side  # edges left by the tiles, joins, rejections and returns together
    assert handled[2] <= 8 * max(handled[1], 512)  # four times the pixels


def test_long_runs_of_nearly_equal_costs_are_sorted_by_the_exact_costs():
    from msip.rois.ordering import sort_words

    rng = np.random.default_rng(3)
    pixels = 5000
    for noise in (0.0, 1e-16, 1e-13, 1e-9):
        smoothed = np.zeros((1, 2 * pixels + 2))
        smoothed[0, 1::2] = 0.25 + noise * rng.integers(0, 900, pixels + 1)
        even = np.arange(0, 2 * pixels, 2, dtype=np.uint64)
        difference = smoothed[0, even + np.uint64(1)] - smoothed[0, even]
        costs = np.sqrt((difference**2 + difference**2) + difference**2)
        key = (costs.view(np.uint64) >> np.uint64(25)) - np.uint64(961 << 27)
        words = np.concatenate([(key << np.uint64(31)) | even, np.zeros(8, np.uint64)])
        ordered = np.empty_like(words)
        sort_words(words, np.zeros(1, np.int64), np.array([pixels]), smoothed, np.uint64(2 * pixels + 2), ordered)
        expected = even[np.lexsort((even, costs))]
        np.testing.assert_array_equal(ordered[:pixels] & np.uint64((1 << 29) - 1), expected)


def test_filter_keeps_what_is_large_and_compact_and_no_box_twice():
    from msip.rois.search import choose, first_of_each_box

    rows = np.array(
        [
            [0, 0, 40, 40, 600],
            [0, 0, 40, 40, 599],
            [1, 0, 39, 80, 3000],
            [2, 0, 120, 40, 700],
            [3, 0, 121, 40, 700],
            [4, 0, 50, 151, 900],
            [0, 0, 40, 40, 900],
        ],
        np.int32,
    )
    assert choose(rows).tolist() == [rows[i].tolist() for i in (0, 3, 6)]
    assert first_of_each_box(choose(rows)).tolist() == [rows[0].tolist(), rows[3].tolist()]
    image = few_levels(200, 240)
    everything = selective_search(image, filtered=False)
    assert len(np.unique(everything[:, :4], axis=0)) == len(everything)
    np.testing.assert_array_equal(everything, first_of_each_box(regions(image)))
    assert boxes_kept(regions(image)) == [tuple(row) for row in selective_search(image)[:, :4].tolist()]
    assert everything.dtype == np.int32


def test_repeats_threads_and_mixed_sizes_give_the_same_rows():
    images = [few_levels(90, 130), few_levels(200, 140, 1), np.full((3, 7), 4, np.uint8), synthetic("noise", 150)]
    images.append(np.stack([images[3], images[3].T, images[3][::-1]], axis=2))
    wanted = [regions(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda i: (i % 5, regions(images[i % 5])), range(40)):
            np.testing.assert_array_equal(got[1], wanted[got[0]])


def test_views_and_read_only_arrays_are_taken_and_left_alone():
    image = few_levels(160, 200)
    view = np.repeat(image[:, :, None], 3, axis=2)[::-1, ::2]
    view.flags.writeable = False
    before = view.copy()
    np.testing.assert_array_equal(regions(view), regions(np.ascontiguousarray(image[::-1, ::2])))
    np.testing.assert_array_equal(view, before)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((5, 5), np.uint16), "uint16"),
        (np.zeros((5, 5)), "float64"),
        ([[1, 2]], "list"),
        (np.zeros((5, 5, 4), np.uint8), "(5, 5, 4)"),
        (np.zeros((0, 5), np.uint8), "(0, 5)"),
        (np.zeros(5, np.uint8), "(5,)"),
    ],
)
def test_what_is_not_an_8_bit_image_is_refused_in_one_sentence(image, words):
    with pytest.raises(MsipError) as error:
        selective_search(image)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [{"scale": 0}, {"sigma": -1}, {"min_size": -3}, {"tie_order": "random"}])
def test_impossible_parameters_are_refused(bad):
    with pytest.raises(MsipError, match=next(iter(bad))):
        segment(np.zeros((9, 9), np.uint8), **bad)


def test_works_where_compiled_code_cannot_be_cached():
    """numba raises at decoration when no cache folder can be written; that must not reach the user."""
    program = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "caching.FunctionCache._impl_class._locator_classes = []\n"
        "from msip.jit import exact_jit\n"
        "assert exact_jit(lambda x: x + 1)(1) == 2\n"
        "import msip.rois.gaussian\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_importing_the_package_does_not_load_the_compiler():
    program = "import sys, msip.rois; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
