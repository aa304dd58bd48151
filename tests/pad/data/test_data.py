from __future__ import annotations

import pickle
from functools import partial
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_runs import HEIGHT, WIDTH, make_manifest

from msip.crops import RoiCrop, cut, sample_key, sample_rng
from msip.curation.measure import read_pixels
from msip.errors import ManifestError
from msip.manifest import Manifest
from msip.process import peak_grey
from msip.storage import read_image
from pad.data.dataset import PretrainDataset
from pad.data.grey import denormalise, normalise
from pad.data.index import ImageIndex, write_index
from pad.data.loader import EpochSampler, epoch_order, make_loader, start_reading
from pad.methods.patches import NoiseSampler

SIZE = 32


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Manifest:
    return make_manifest(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def dataset(manifest) -> PretrainDataset:
    return dataset_of(manifest)


def dataset_of(manifest: Manifest, seed: int = 7) -> PretrainDataset:
    index = ImageIndex(write_index(manifest, manifest.root / "index.arrow"))
    return PretrainDataset(index, manifest.root, seed=seed, crop=RoiCrop(size=SIZE), sampler=NoiseSampler(4))


def batches(dataset, *, workers=0, start_method=None, **options) -> list[dict]:
    sampler = EpochSampler(len(dataset), 4, **{"seed": 7, "steps": 12, **options})
    loader = make_loader(dataset, sampler, workers=workers, start_method=start_method)
    return list(start_reading(loader))


def assert_equal_batches(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one["image"], other["image"]) and torch.equal(one["row"], other["row"])
        assert torch.equal(one["inputs"]["noise"], other["inputs"]["noise"])


def test_index_says_what_the_manifest_says(manifest, dataset):
    index = dataset.index
    assert len(index) == len(manifest) == 24
    for row in range(len(manifest)):
        assert np.array_equal(index.rois(row), manifest.rois(row)[:, :4])
        assert manifest.root / index.relative_path(row) == manifest.path(row)
        assert index.image_id(row) == manifest.table["image_id"][row].as_py()
    assert index.rois(2).shape == (0, 4)  # null in the manifest


def test_index_travels_to_workers_as_a_path(dataset):
    packed = pickle.dumps(dataset)
    assert len(packed) < 1500
    again = pickle.loads(packed)
    assert np.array_equal(again[2, 5]["image"], dataset[2, 5]["image"])


def test_flagged_images_can_be_left_out(manifest, tmp_path):
    kept = ImageIndex(write_index(manifest.without_flags(["blank", "duplicate_of"]), tmp_path / "index"))
    ids = {kept.image_id(row) for row in range(len(kept))}
    assert len(ids) == 22 and not ids & {"src/0003", "src/0004"}
    assert np.array_equal(kept.rois(3), manifest.rois(5)[:, :4])


def test_manifest_without_images_is_refused(manifest, tmp_path):
    path = write_index(Manifest(manifest.table.slice(0, 0), manifest.root), tmp_path / "index")
    with pytest.raises(ManifestError, match="no image"):
        ImageIndex(path)


def test_sample_is_the_one_definition_of_crops(manifest, dataset):
    """Box, then flip, then the method's inputs, from the sample's own generator; pixels of ``cut``."""
    flips = []
    for row in range(len(dataset)):
        sample = dataset[3, row]
        rng = sample_rng(7, 3, sample_key(dataset.index.image_id(row)))
        image = cv2.imread(str(manifest.path(row)), cv2.IMREAD_GRAYSCALE)
        expected = cut(image, RoiCrop(size=SIZE).box((WIDTH, HEIGHT), manifest.rois(row), rng), SIZE)
        flips.append(rng.random() < 0.5)
        assert sample["image"].dtype == np.uint8 and sample["image"].shape == (1, SIZE, SIZE)
        assert np.array_equal(sample["image"][0], expected[:, ::-1] if flips[-1] else expected)
        assert np.array_equal(sample["inputs"]["noise"], rng.random(4, dtype=np.float32))
    assert 4 < sum(flips) < 20


def test_sample_depends_on_epoch_and_seed(manifest, dataset):
    first = dataset[0, 1]
    assert not np.array_equal(first["image"], dataset[1, 1]["image"])
    assert not np.array_equal(first["inputs"]["noise"], dataset[1, 1]["inputs"]["noise"])
    assert not np.array_equal(first["image"], dataset_of(manifest, seed=8)[0, 1]["image"])


def test_grey_stored_as_colour_is_read_as_the_channel(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, image in {"1.png": grey, "3.png": cv2.merge([grey] * 3), "4.png": cv2.merge([grey] * 4)}.items():
        cv2.imwrite(str(tmp_path / name), image)
        assert np.array_equal(read_image(tmp_path / name), grey)
    colour = np.zeros((4, 4, 3), np.uint8)
    colour[..., 1] = 100  # green, BT.601: 0.587; decoders round or cut
    cv2.imwrite(str(tmp_path / "colour.png"), colour)
    assert np.all(np.abs(read_image(tmp_path / "colour.png") - 58.7) < 1)


def test_unreadable_files_are_none_not_errors(tmp_path):
    (tmp_path / "text.png").write_bytes(b"no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name in ("text.png", "empty.png", "absent.png"):
        assert read_image(tmp_path / name) is None


@pytest.mark.parametrize("read", [read_image, read_pixels, peak_grey, partial(read_image, channels=3)])
def test_opencv_says_nothing_of_files_cut_off_or_absent(tmp_path, capfd, read):
    """Its raw lines would stand in the middle of a progress bar, beside the project's own warning."""
    whole = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))[1].tobytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    read(tmp_path / "cut.png")
    read(tmp_path / "absent.png")
    assert capfd.readouterr().err == ""


def test_unreadable_image_is_replaced_by_the_same_other_one(tmp_path):
    manifest = make_manifest(tmp_path)
    manifest.path(6).write_bytes(b"broken")
    manifest.path(9).unlink()
    dataset = dataset_of(manifest)
    sample, again = dataset[0, 6], dataset_of(manifest)[0, 6]
    assert sample["row"] == 6 and sample["used"] not in (6, 9, -1)
    assert sample["used"] == again["used"] and np.array_equal(sample["image"], again["image"])
    assert len({dataset[epoch, 9]["used"] for epoch in range(8)}) > 3  # not always the same stand-in
    assert dataset[0, 7]["used"] == 7


def test_when_nothing_can_be_read_the_sample_says_so(tmp_path):
    manifest = make_manifest(tmp_path, images=6)
    for row in range(6):
        manifest.path(row).unlink()
    assert dataset_of(manifest)[0, 0]["used"] == -1


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(dataset, workers):
    assert_equal_batches(batches(dataset), batches(dataset, workers=workers))


@pytest.mark.slow
def test_spawned_workers_change_nothing(dataset):
    assert_equal_batches(batches(dataset), batches(dataset, workers=1, start_method="spawn"))


def test_forked_workers_start_after_opencv_has_used_its_threads(dataset):
    """A worker that inherits OpenCV's thread pool and touches it would wait for ever."""
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000), np.uint8), (0, 0), 5)
        assert len(batches(dataset, workers=1, steps=2)) == 2
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(1)


def test_loader_leaves_the_global_generator_alone(dataset):
    state = torch.get_rng_state()
    batches(dataset, steps=1)
    assert torch.equal(state, torch.get_rng_state())


def test_sampler_goes_on_where_it_stopped(dataset):
    whole = batches(dataset)
    for done in (1, 5, 6, 11):
        epoch, position = divmod(done, 6)
        assert_equal_batches(whole[done:], batches(dataset, steps=12 - done, epoch=epoch, start=4 * position))


def test_each_epoch_is_another_permutation():
    keys = [key for batch in EpochSampler(24, 4, seed=7, steps=12) for key in batch]
    first, second = ([row for epoch, row in keys if epoch == wanted] for wanted in (0, 1))
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second and first != sorted(first)
    assert first == list(epoch_order(24, 7, 0)) and first != list(epoch_order(24, 8, 0))


def test_what_does_not_fill_a_step_is_left_out():
    sampler = EpochSampler(23, 3, accumulate=2, seed=7, steps=7)
    assert sampler.steps_per_epoch == 3
    batches = list(sampler)
    assert all(len(batch) == 3 for batch in batches) and len(batches) == len(sampler) == 14
    assert [batch[0][0] for batch in batches] == [0] * 6 + [1] * 6 + [2] * 2


def test_ranks_and_accumulation_split_the_same_steps():
    def steps(world: int, accumulate: int, size: int) -> list[set]:
        parts = [
            list(EpochSampler(24, size, accumulate=accumulate, seed=7, steps=3, rank=rank, world=world))
            for rank in range(world)
        ]
        groups = [
            [keys for part in parts for keys in islice(part, k * accumulate, (k + 1) * accumulate)] for k in range(3)
        ]
        assert all(sum(map(len, group)) == 8 for group in groups)
        return [{key for keys in group for key in keys} for group in groups]

    whole = steps(1, 1, 8)
    assert all(len(step) == 8 for step in whole)
    assert whole == steps(2, 1, 4) == steps(1, 2, 4) == steps(2, 2, 2)


def test_normalisation_is_torchvisions_with_the_infrared_constants():
    grey = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = normalise(grey, 3)
    assert images.shape == (1, 3, 16, 16) and images.dtype == torch.float32
    expected = (grey.float() / 255 - 0.3801) / 0.1871
    assert torch.allclose(images, expected.expand(1, 3, 16, 16), atol=1e-6)
    assert images.stride(1) == 0  # no copy
    assert normalise(grey, 1).shape == (1, 1, 16, 16)
    assert np.array_equal(denormalise(images)[0], grey[0, 0].numpy())


def test_absolute_and_odd_names_are_read(tmp_path):
    path = Path(tmp_path) / "红外 1.png"
    path.write_bytes(bytes(cv2.imencode(".png", np.full((5, 6), 9, np.uint8))[1]))
    assert np.array_equal(read_image(path), np.full((5, 6), 9))
