"""The training crop against the distribution of 40,000 crops of the reference code."""

import json

import numpy as np
import pytest
from PIL import Image

from msip.crops import RoiCrop, cut, sample_key, sample_rng
from msip.resize import resize


def ks_to_quantiles(sample: np.ndarray, quantiles: np.ndarray, levels: np.ndarray) -> float:
    """Kolmogorov-Smirnov distance at the reference's quantiles; ties of integers make its CDF an interval there."""
    ordered = np.sort(sample)
    below = np.searchsorted(ordered, quantiles, "left") / len(ordered)
    upto = np.searchsorted(ordered, quantiles, "right") / len(ordered)
    return float(np.maximum(0, np.maximum(below - levels, levels - upto)).max())


@pytest.mark.parametrize("case", ["one_object", "many", "no_roi"])
def test_same_distribution_as_the_reference(golden, case):
    reference = json.loads((golden / "roi_crop_distribution.json").read_text())[case]
    size, rois = tuple(reference["image_size_wh"]), np.array(reference["rois_xywh"], np.int32).reshape(-1, 4)
    crop, rng = RoiCrop(p=reference["p"]), np.random.default_rng(1)
    boxes = np.array([crop.box(size, rois, rng) for _ in range(40_000)])
    levels = np.array(reference["quantile_levels"])
    for column, name in enumerate("xywh"):
        assert ks_to_quantiles(boxes[:, column], np.array(reference["quantiles"][name]), levels) <= 0.015, name
        assert abs(boxes[:, column].mean() - reference["mean"][column]) < 5 * reference["std"][column] / 200
    small = (boxes[:, 2] * boxes[:, 3] / (size[0] * size[1]) < 0.15).mean()
    assert abs(small - reference["fraction_area_below_0.15"]) <= 0.01


@pytest.mark.parametrize("size", [(640, 512), (24, 40), (1, 1), (1000, 3)])
def test_boxes_lie_inside_any_image(size):
    rng, rois = np.random.default_rng(0), np.array([[0, 0, min(90, size[0]), min(90, size[1])]], np.int32)
    for _ in range(300):
        x, y, w, h = RoiCrop().box(size, rois, rng)
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= size[0] and y + h <= size[1]


def test_unusable_rois_fall_back_to_the_random_resized_crop():
    rois = np.array([[0, 0, 39, 200], [600, 0, 100, 100], [-1, 0, 80, 80]], np.int32)
    with_rois = [RoiCrop().box((640, 512), rois, np.random.default_rng(i))[2] for i in range(200)]
    assert min(with_rois) >= 0.35 * 512  # a fifth of the image at 3:4 is never narrower


def test_a_draw_depends_on_seed_epoch_image_and_view_only():
    rois = np.array([[200, 150, 90, 180]], np.int32)

    def draw(seed, epoch, image_id, view=0):
        return RoiCrop().draw((640, 512), rois, sample_rng(seed, epoch, sample_key(image_id), view))

    assert draw(0, 0, "a/1") == draw(0, 0, "a/1")
    others = {draw(1, 0, "a/1"), draw(0, 1, "a/1"), draw(0, 0, "a/2"), draw(0, 0, "a/1", 1)}
    assert len(others) == 4 and draw(0, 0, "a/1") not in others


@pytest.mark.parametrize("numbers", [(0, 0, 0, 0), (7, 3, sample_key("a/1"), 1), (2**40, 5, 2**64 - 1, 1 << 20)])
def test_the_generator_is_numpys_of_these_numbers(numbers):
    expected = np.random.PCG64(np.random.SeedSequence(list(numbers)))
    assert sample_rng(*numbers).bit_generator.state == expected.state


def two_passes(image, width, height):
    """Pillow before version 13 (the reference's): always horizontally first."""
    narrow = Image.fromarray(image).resize((width, image.shape[0]), Image.Resampling.BICUBIC)
    return np.asarray(narrow.resize((width, height), Image.Resampling.BICUBIC))


def test_resize_has_the_pixels_of_pillow():
    rng = np.random.default_rng(0)
    for number in range(120):
        shape, size = rng.integers(1, 400, 2), tuple(rng.integers(1, 300, 2).tolist())
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        if number % 3 == 0:
            image = np.where(image > 127, 255, 0).astype(np.uint8)  # overshoots on both sides
        assert np.array_equal(resize(image, size), two_passes(image, *size)), (shape, size)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (2, 3), (40, 24), (224, 224)])
def test_resize_of_extreme_shapes(shape):
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(resize(image, (224, 224)), two_passes(image, 224, 224))
    assert not np.shares_memory(resize(image, (224, 224)), image)


def test_resize_takes_views_and_colour():
    image = np.random.default_rng(2).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    view = image[5:70, 20:130]
    assert np.array_equal(resize(view, (64, 64)), two_passes(np.ascontiguousarray(view), 64, 64))
    assert np.array_equal(resize(view[..., 1], (64, 64)), two_passes(np.ascontiguousarray(view[..., 1]), 64, 64))


def test_pixels_are_those_of_the_reference_transform():
    import torchvision.transforms.functional as functional

    image = np.random.default_rng(0).integers(0, 256, (120, 160), np.uint8)
    theirs = functional.resized_crop(
        Image.fromarray(image).convert("RGB"), 20, 30, 70, 90, [64, 64], functional.InterpolationMode.BICUBIC
    )
    ours = cut(image, (30, 20, 90, 70), 64)
    assert np.array_equal(ours, np.asarray(theirs)[..., 0])
    assert np.array_equal(cut(image, (30, 20, 90, 70), 64, flip=True), ours[:, ::-1])
