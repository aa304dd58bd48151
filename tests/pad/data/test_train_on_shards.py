"""Training from shards is training from the build."""

import fsspec
import numpy as np
import pytest
from remote_fixtures import bucket  # noqa: F401
from training_runs import config, fingerprint, make_manifest, train

from msip.crops import RoiCrop
from msip.errors import MsipError
from msip.files import sha256_bytes
from msip.manifest import SCHEMA, Manifest
from msip.shards import shard
from pad.data.dataset import PretrainDataset
from pad.data.index import ImageIndex, open_data, write_index


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same images as a build, as tars and decoded."""
    folder = tmp_path_factory.mktemp("data")
    manifest = make_manifest(folder / "build")
    hashes = [sha256_bytes(manifest.path(row).read_bytes()) for row in range(len(manifest))]
    column = SCHEMA.get_field_index("sha256")
    manifest = Manifest(manifest.table.set_column(column, SCHEMA.field("sha256"), [hashes]), manifest.root)
    manifest.write()
    for layout in ("webdataset", "raw"):
        shard(folder / "build", folder / layout, layout=layout, shard_bytes=30_000)
    return {name: folder / name for name in ("build", "webdataset", "raw")}


def dataset(path, tmp_path):
    data = open_data(path).without_flags(["blank"])
    index = ImageIndex(write_index(data, tmp_path / f"{path.name}.arrow"))
    return PretrainDataset(index, data.root, seed=3, crop=RoiCrop(size=32))


def test_every_sample_is_the_same(places, tmp_path):
    build, *others = (dataset(path, tmp_path) for path in places.values())
    for other in others:
        assert len(other) == len(build) == 23
        for row in range(len(build)):
            assert np.array_equal(build[1, row]["image"], other[1, row]["image"])
            assert other[1, row]["used"] == row


def test_a_run_ends_in_the_same_weights(places, tmp_path):
    results = {name: tmp_path / name for name in places}
    for name, path in places.items():
        train(config(path, results[name], epochs=1, workers=0 if name == "build" else 1))
    assert fingerprint(results["build"]) == fingerprint(results["webdataset"]) == fingerprint(results["raw"])


def test_a_run_on_shards_far_away_ends_in_the_same_weights(places, bucket, tmp_path):  # noqa: F811
    """Read by forked workers, after the first sample was read in the main process."""
    for path in (places["raw"], places["webdataset"]):
        fsspec.filesystem("s3").put(f"{path}/", f"{bucket}/{path.name}", recursive=True)
    train(config(places["raw"], tmp_path / "here", epochs=1, workers=0))
    for name in ("raw", "webdataset"):
        train(config(f"{bucket}/{name}", tmp_path / name, epochs=1, workers=1))
        assert fingerprint(tmp_path / name) == fingerprint(tmp_path / "here")


def test_urls_without_shards_are_one_sentence():
    for url, found in (("memory://nothing", "no complete shards"), ("nosuch://here/x", "not known: nosuch")):
        with pytest.raises(MsipError, match=found):
            open_data(url)


def test_a_damaged_shard_is_an_unreadable_image_not_a_crash(places, tmp_path):
    copy = tmp_path / "raw"
    shard(places["build"], copy, layout="raw", shard_bytes=30_000)
    first = min(copy.glob("*.raw"))
    first.write_bytes(first.read_bytes()[:100])
    damaged = dataset(copy, tmp_path)
    sample = damaged[0, 0]
    assert sample["used"] not in (0, -1) and sample["image"].any()
