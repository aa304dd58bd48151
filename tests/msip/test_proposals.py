"""Other proposals than the exact ones: what they find, what is recorded, what is computed again."""

import json

import cv2
import numpy as np
import pytest
from msip_cli.main import app

from msip import Manifest, build
from msip.errors import ImageError, ManifestError
from msip.rois import extremal_boxes, half_size_search, selective_search


def scene(warm=True):
    """A noisy background with three things on it: small, middle, large."""
    image = np.random.default_rng(0).normal(110, 2, (240, 320))
    for x, y, width, height in THINGS:
        image[y : y + height, x : x + width] += 60 if warm else -60
    return cv2.GaussianBlur(image, (0, 0), 1.0).clip(0, 255).astype(np.uint8)


THINGS = [(30, 40, 12, 20), (120, 60, 50, 44), (200, 130, 100, 90)]


def overlap(box, other):
    x, y, w, h = box
    across = min(x + w, other[0] + other[2]) - max(x, other[0])
    down = min(y + h, other[1] + other[3]) - max(y, other[1])
    common = max(across, 0) * max(down, 0)
    return common / (w * h + other[2] * other[3] - common)


@pytest.mark.parametrize("warm", [True, False])
def test_warm_and_cold_things_are_the_best_boxes(warm):
    boxes = extremal_boxes(scene(warm), filtered=False)[:12, :4].tolist()
    for thing in THINGS:
        assert max(overlap(thing, box) for box in boxes) > 0.75


def test_small_things_are_widened_for_crops_and_stay_inside():
    boxes = extremal_boxes(scene())
    assert 3 <= len(boxes) <= 40 and boxes[:, 2:4].min() >= 40
    assert (boxes[:, 0] >= 0).all() and (boxes[:, 0] + boxes[:, 2] <= 320).all()
    assert (boxes[:, 1] >= 0).all() and (boxes[:, 1] + boxes[:, 3] <= 240).all()
    x, y, width, height = THINGS[0]
    inside = (boxes[:, 0] <= x) & (boxes[:, 1] <= y) & (boxes[:, 0] + boxes[:, 2] >= x + width)
    assert (inside & (boxes[:, 1] + boxes[:, 3] >= y + height) & (boxes[:, 2] <= 44)).any()


@pytest.mark.parametrize("find", [extremal_boxes, half_size_search, selective_search])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (40, 24), (39, 300), (64, 64, 3)])
def test_tiny_and_constant_images_have_defined_boxes(find, shape):
    for image in (np.full(shape, 90, np.uint8), np.random.default_rng(1).integers(0, 256, shape, np.uint8)):
        for filtered in (True, False):
            boxes = find(image, filtered=filtered)
            assert boxes.dtype == np.int32 and boxes.shape[1] == 5
            assert (boxes[:, 0] + boxes[:, 2] <= shape[1]).all() and (boxes[:, 1] + boxes[:, 3] <= shape[0]).all()
            assert len(boxes) == 0 or not filtered or min(shape[:2]) >= 40


def test_what_is_no_image_is_refused():
    with pytest.raises(ImageError, match="uint16"):
        extremal_boxes(np.zeros((5, 5), np.uint16))


def run(*arguments):
    app(["rois", *map(str, arguments)], standalone_mode=False)


def test_the_choice_is_recorded_kept_by_a_build_and_can_be_undone(tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"frames/{number}.png"), np.roll(scene(), 9 * number, axis=1))
    out = tmp_path / "out"
    build(None, out, folder=tmp_path / "frames")
    record, exact = json.loads((out / "build.json").read_text()), Manifest.read(out)
    assert record["proposals"] == "exact"
    assert all(
        np.array_equal(exact.rois(row), selective_search(cv2.imread(str(exact.path(row)), 0))) for row in range(3)
    )
    run(out, "--proposals", "extremal", "--workers", 2)
    found = Manifest.read(out)
    assert all(np.array_equal(found.rois(row), extremal_boxes(cv2.imread(str(found.path(row)), 0))) for row in range(3))
    record = json.loads((out / "build.json").read_text())
    assert record["proposals"] == "extremal" and record["rois"] == sum(len(found.rois(row)) for row in range(3))
    build(None, out, folder=tmp_path / "frames")
    assert Manifest.read(out).table.equals(found.table)
    run(out, "--json")
    assert Manifest.read(out).table.equals(exact.table)
    assert '"proposals": "exact"' in capsys.readouterr().out
    record |= {"proposals": "another"}
    (out / "build.json").write_text(json.dumps(record))
    with pytest.raises(ManifestError, match="another"):
        build(None, out, folder=tmp_path / "frames")
