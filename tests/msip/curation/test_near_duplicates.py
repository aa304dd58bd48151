"""Near-duplicates: the scan equals the plain definition, copies are found whatever was done to them, others are not."""

import cv2
import numpy as np
import pytest
from curation_scenes import scene

from msip.curation import near_duplicates
from msip.curation.fingerprint import (
    LEAST_DETAIL,
    LEAST_DETAIL_SMALL,
    PRINT,
    VARIANTS,
    Fingerprints,
    fingerprint,
    turned,
)
from msip.curation.matching import best_matches, leaders
from msip.curation.near import image_files, read_image_prints
from msip.errors import ManifestError


def similarities(first, second):
    """The cosines of both vectors of two images."""
    one, two = (fingerprint(image) for image in (first, second))
    return [cosines(one[name][None], two[name][None])[0, 0] for name in ("vector", "detail")]


def cosines(first, second):
    one, two = (part.astype(np.float64) for part in (first, second))
    return one @ two.T / (np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(two, axis=1))


def groups(count, seed=0):
    """Random fingerprints in groups of six that are alike, some in no detail, and the similarities, -1 for those.

    One image in five is small.
    """
    rng = np.random.default_rng(seed)
    prints = np.zeros(count, PRINT)
    for name, noise in (("vector", 9), ("detail", 15)):
        centres = rng.normal(0, 30, (count // 6 + 1, 256))
        vectors = centres[np.arange(count) // 6] + rng.normal(0, noise, (count, 256))
        prints[name] = np.clip(vectors, -127, 127)
    prints["detail"][::6] = rng.integers(-127, 127, (len(prints[::6]), 256))
    prints["side"] = np.where(np.arange(count) % 5, 255, 40)
    small = prints["side"] < 64
    least = np.where(small[:, None] | small, LEAST_DETAIL_SMALL, LEAST_DETAIL)
    agree = cosines(prints["detail"], prints["detail"]) >= least
    matrix = cosines(prints["vector"], prints["vector"])
    assert 0.3 < agree[matrix > 0.8].mean() < 0.7
    return Fingerprints.of(prints), np.where(agree, matrix, -1)


def test_best_matches_are_those_of_the_whole_matrix():
    prints, matrix = groups(700)
    sources, sequences = (np.arange(700) // 50).astype(np.int32), (np.arange(700) // 4).astype(np.int32)
    sequences[::7] = -1
    found = best_matches(prints, least=0.8, sources=sources, sequences=sequences, threads=2)
    np.fill_diagonal(matrix, -1)
    together = (sequences[:, None] == sequences) & (sequences >= 0)
    same_source = sources[:, None] == sources
    for relation, of_relation in enumerate((together & same_source, ~together & same_source, ~same_source)):
        values = np.where(of_relation, matrix, -1)
        assert np.array_equal(found.count[:, relation], (values >= 0.8).sum(axis=1))
        hit = values.max(axis=1) >= 0.8
        assert hit.any() and np.array_equal(found.partner[:, relation] >= 0, hit)
        assert np.array_equal(found.partner[hit, relation], values.argmax(axis=1)[hit])
        assert np.allclose(found.similarity[hit, relation], values.max(axis=1)[hit], atol=1e-6)


def test_two_sets_are_compared_with_each_other_only():
    prints, matrix = groups(300)
    first, second = np.arange(0, 300, 2), np.arange(1, 300, 2)
    found = best_matches(prints.take(first), prints.take(second), least=0.8)
    across = matrix[np.ix_(first, second)]
    assert np.array_equal(found.partner[:, 2], np.where(across.max(axis=1) >= 0.8, across.argmax(axis=1), -1))
    assert (found.partner[:, :2] == -1).all()


def test_leaders_are_the_greedy_choice_whatever_the_threads():
    prints, matrix = groups(5000)  # more than one tile
    chosen = []
    for row in range(5000):
        if not chosen or matrix[row, chosen].max() < 0.8:
            chosen.append(row)
    leader, values, _ = leaders(prints, least=0.8, threads=1)
    assert np.array_equal(np.flatnonzero(leader == np.arange(5000)), chosen)
    assert (values >= 0.8).all() and np.allclose(values, matrix[np.arange(5000), leader], atol=1e-6)
    assert np.array_equal(leader, leaders(prints, least=0.8, threads=3)[0])


TURNS = {
    "same": lambda image: image,
    "mirrored": lambda image: image[:, ::-1],
    "upside down": lambda image: image[::-1],
    "turned by 180": lambda image: np.rot90(image, 2),
    "turned left": np.rot90,
    "turned right": lambda image: np.rot90(image, -1),
    "mirrored and turned left": lambda image: np.rot90(image[:, ::-1]),
    "mirrored and turned right": lambda image: np.rot90(image[:, ::-1], -1),
}


def test_each_variant_is_undone_exactly():
    image = scene(1, (256, 320))
    original = fingerprint(image)
    copies = {name: turn(image) for name, turn in TURNS.items()}
    copies |= {f"{name}, inverted": 255 - copy for name, copy in copies.items()}
    assert tuple(copies) == VARIANTS
    for number, copy in enumerate(copies.values()):
        found = fingerprint(np.ascontiguousarray(copy))
        for name in ("vector", "detail"):
            undone = turned(found[name][None], flips=True)[number, 0]
            assert np.abs(undone.astype(int) - original[name]).max() <= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda g: cv2.imdecode(cv2.imencode(".jpg", g, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], 0),
        lambda g: cv2.resize(g, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA),
        lambda g: cv2.resize(g, (224, 224)),
        cv2.equalizeHist,
        lambda g: (255 * (g / 255) ** 2.2).astype(np.uint8),
        lambda g: np.rint(120 + (g - g.mean()) / g.std() * 1.5).astype(np.uint8),
        lambda g: np.clip(g + np.random.default_rng(0).normal(0, 12, g.shape), 0, 255).astype(np.uint8),
        lambda g: np.ascontiguousarray(g[2:, 2:]),
    ],
    ids=["jpeg", "smaller", "aspect", "equalised", "gamma", "three grey levels", "noise", "cut"],
)
def test_a_changed_copy_is_alike_and_another_scene_is_not(change):
    scenes = [scene(seed, (192, 256)) for seed in range(12)]
    copies = np.min([similarities(change(image), image) for image in scenes], axis=0)
    others = np.max([similarities(change(scenes[i]), scenes[i - 1]) for i in range(12)], axis=0)
    assert copies[0] > 0.75 and others[0] < 0.6, (copies, others)
    assert copies[1] > 0.5, (copies, others)


def test_an_image_without_structure_is_like_no_other(tmp_path):
    for name, value in (("a", 30), ("b", 30), ("c", 200)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((64, 64), value, np.uint8))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    assert near_duplicates(tmp_path) == []


def test_gradients_are_like_equals_only(tmp_path):
    """An image that its rows and columns explain: another one is no copy, the same pixels in another file are."""
    for name, power in (("a", 1), ("b", 1.3), ("c", 1.6)):
        rows = 255 * np.linspace(0, 1, 96) ** power
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.repeat(rows[:, None], 128, axis=1).astype(np.uint8))
    assert near_duplicates(tmp_path) == []
    cv2.imwrite(str(tmp_path / "b.bmp"), cv2.imread(str(tmp_path / "b.png")))
    found = near_duplicates(tmp_path)
    assert [(item.path.name, item.other.name, item.exact) for item in found] == [
        ("b.bmp", "b.png", True),
        ("b.png", "b.bmp", True),
    ]


def one_camera(frame, copy=False):
    """A frame behind a lens that darkens the corners, with the detector's stripes; two discs are all that differs."""
    down, along = np.mgrid[-1:1:192j, -1:1:256j]
    image = 120 + np.random.default_rng(0).normal(0, 8, 256) - 30 * (down**2 + along**2)
    image += np.random.default_rng((frame, copy)).normal(0, 2, image.shape)
    for x, y in ((30 + 28 * frame, 50), (226 - 28 * frame, 140)):
        image += cv2.circle(np.zeros_like(image), (x, y), 10 + frame, 12, -1)
    return np.clip(image, 0, 255).astype(np.uint8)


def test_a_camera_s_stripes_and_vignetting_make_no_copies(tmp_path):
    for frame in range(8):
        cv2.imwrite(str(tmp_path / f"{frame}.png"), one_camera(frame))
    whole = [similarities(one_camera(0), one_camera(frame))[0] for frame in range(1, 8)]
    assert min(whole) > 0.75 and near_duplicates(tmp_path) == []
    cv2.imwrite(str(tmp_path / "again.png"), cv2.resize(one_camera(5, copy=True), (200, 150)))
    assert {item.path.name for item in near_duplicates(tmp_path)} == {"5.png", "again.png"}


def module(seed, shape=(40, 24)):
    """A solar module cut out: the frame around it, a hot cell somewhere below, and little else."""
    rng = np.random.default_rng(seed)
    image = np.full(shape, 150.0)
    image[:2] = image[-2:] = 100
    image[:, :2] = image[:, -2:] = 120
    image += rng.normal(0, 6, shape)
    cv2.circle(image, (int(rng.integers(5, 19)), int(rng.integers(5, 35))), int(rng.integers(2, 5)), 190, -1)
    return cv2.GaussianBlur(image, (0, 0), 1).astype(np.uint8)


def test_of_small_images_only_nearly_equal_ones_are_copies(tmp_path):
    for seed in range(30):
        cv2.imwrite(str(tmp_path / f"{seed}.png"), module(seed))
    whole = [similarities(module(one), module(other))[0] for one in range(30) for other in range(one)]
    assert max(whole) > 0.75 and near_duplicates(tmp_path) == []
    cv2.imwrite(str(tmp_path / "again.jpg"), module(7), [cv2.IMWRITE_JPEG_QUALITY, 90])
    cv2.imwrite(str(tmp_path / "brighter.png"), module(8) + 20)
    cv2.imwrite(str(tmp_path / "larger.png"), cv2.resize(module(9), (96, 160), interpolation=cv2.INTER_CUBIC))
    found = {(item.path.name, item.other.name) for item in near_duplicates(tmp_path) if ".jpg" in str(item.path)
             or item.path.stem.isalpha()}  # fmt: skip
    assert found == {("again.jpg", "7.png"), ("brighter.png", "8.png"), ("larger.png", "9.png")}


def test_files_of_two_folders(tmp_path):
    train, test = tmp_path / "train", tmp_path / "test"
    train.mkdir()
    test.mkdir()
    for seed in range(6):
        cv2.imwrite(str(train / f"{seed}.png"), scene(seed))
    cv2.imwrite(str(test / "leaked.jpg"), cv2.resize(scene(3), (320, 240)))
    cv2.imwrite(str(test / "mirrored.png"), 255 - scene(5)[:, ::-1])
    cv2.imwrite(str(test / "new.png"), scene(99))
    (found,) = near_duplicates(test, train)
    assert (found.path, found.other, found.variant) == (test / "leaked.jpg", train / "3.png", "same")
    assert found.similarity > 0.98
    both = near_duplicates(sorted(test.iterdir()), sorted(train.iterdir()), flips=True)
    assert [(item.path.name, item.other.name, item.variant) for item in both] == [
        ("leaked.jpg", "3.png", "same"),
        ("mirrored.png", "5.png", "mirrored, inverted"),
    ]


def test_equal_vectors_are_wholly_alike():
    prints, _ = groups(60)
    found = best_matches(prints, prints.take(np.arange(60)), least=1.0)
    assert np.array_equal(found.partner[:, 2], np.arange(60)) and (found.similarity[:, 2] == 1).all()


def test_of_two_that_are_equally_alike_the_one_of_equal_pixels_is_named(tmp_path):
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    mine.mkdir()
    theirs.mkdir()
    image = scene(3)
    cv2.imwrite(str(mine / "a.png"), image)
    cv2.imwrite(str(theirs / "b_equal.png"), image)
    image[0, 0] ^= 1
    cv2.imwrite(str(theirs / "a_nearly.png"), image)
    (found,) = near_duplicates(mine, theirs)
    assert found.exact and found.other.name == "b_equal.png" and found.similarity == 1


def test_every_file_that_a_build_looks_at_is_looked_at(tmp_path):
    data = cv2.imencode(".jpg", scene(3))[1].tobytes()
    for name in ("a.JPE", "no_suffix", "refused.webp"):
        (tmp_path / name).write_bytes(data if "refused" not in name else b"RIFF")
    (tmp_path / "labels.txt").write_text("1 0.5")
    found = read_image_prints(image_files(tmp_path), 1)
    assert [path.name for path in found.paths] == ["a.JPE", "no_suffix", "refused.webp"]
    assert [path.name for path in found.unreadable] == ["refused.webp"]


def test_refusals(tmp_path):
    with pytest.raises(ManifestError, match="no images"):
        near_duplicates(tmp_path)
    with pytest.raises(ValueError, match="min_similarity"):
        near_duplicates(tmp_path, min_similarity=0)


@pytest.mark.realdata
def test_real_modules_and_empty_skies_are_no_copies_of_each_other(realdata, tmp_path):
    """1,716 modules of 24 x 40 px, 150 skies with a target; some modules written again, some larger."""
    assert near_duplicates(realdata / "downstream/seg_sirst/images") == []
    modules = sorted((realdata / "downstream/cls_solar/images").iterdir())
    assert near_duplicates(modules) == []
    for number, path in enumerate(modules[::20]):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        again = cv2.resize(image, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC) if number % 2 else image
        cv2.imwrite(str(tmp_path / f"{path.stem}.jpg"), again, [cv2.IMWRITE_JPEG_QUALITY, 90])
    found = near_duplicates(tmp_path, modules)
    assert all(item.path.name == item.other.name for item in found)
    assert len(found) >= 0.98 * len(modules[::20])


@pytest.mark.realdata
def test_real_neighbours_are_found_and_other_sources_are_not(realdata):
    """Frames five apart of a camera at rest; and no pair at all between seven cameras."""
    frames = sorted((realdata / "msip_sources/LSOTB-TIR_TrainingData").rglob("airplane/*.jpg"))
    found = near_duplicates(frames[0:380:10], frames[5:380:10])
    assert len(found) == len(frames[0:380:10])
    others = [path for name in ("det_hituav", "det_msrs", "seg_buffalo/train") for path in
              sorted((realdata / "downstream" / name / "images").iterdir())[:60]]  # fmt: skip
    assert near_duplicates(others, frames[::10]) == []
