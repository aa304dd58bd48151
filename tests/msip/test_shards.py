"""Shards: read back by WebDataset, equal to the build, the same bytes whoever wrote them, continued when killed."""

import json

import cv2
import numpy as np
import pytest
import webdataset
from msip_cli.main import app

from msip import Manifest, build
from msip.errors import ManifestError, MsipError, OutputError
from msip.shards import Shards, _Target, shard, tar_key
from msip.storage import read_image
from msip.verify import verify_build
from pad.data.index import open_data

SMALL = 25_000  # bytes: several shards out of a few images


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Twelve frames, JPEG and PNG, one in colour, one tiny, names with dots and letters of other alphabets."""
    raw, rng = tmp_path_factory.mktemp("raw"), np.random.default_rng(0)
    names = [f"seq.{number}/käfer {number}.jpg" for number in range(9)] + ["a.png", "tiny.png", "colour.jpg"]
    for name in names:
        shape = (3, 5) if name == "tiny.png" else (96, 128)
        image = cv2.GaussianBlur(rng.integers(0, 256, (*shape, 3), dtype=np.uint8), (0, 0), 3)
        image = cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX)
        path = raw / name
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), image if "colour" in name else image[:, :, 0])
    out = tmp_path_factory.mktemp("built")
    build(None, out, folder=raw, name="own")
    return out


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def manifest_sha(out):
    return Manifest.read(out).frame.sha256[0].encode()


def interrupted(*_):
    """In place of noting a shard that was written."""
    raise KeyboardInterrupt


def test_webdataset_reads_the_tars(built, tmp_path):
    report = shard(built, tmp_path, shard_bytes=SMALL)
    manifest = Manifest.read(built)
    assert report.images == len(manifest) == 12 and report.shards > 2 and report.kept == 0
    tars = [str(path) for path in sorted(tmp_path.glob("*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [json.loads(sample["json"])["image_id"] for sample in samples] == manifest.frame.image_id.tolist()
    for row, sample in enumerate(samples):
        record = json.loads(sample["json"])
        assert sample["__key__"] == tar_key(record["image_id"])
        assert sample[manifest.path(row).suffix[1:]] == manifest.path(row).read_bytes()
        boxes = [list(roi.values()) for roi in record["rois"]]
        assert sorted(map(sorted, boxes)) == sorted(map(sorted, manifest.rois(row).tolist()))
        assert (record["width"], record["height"]) == (manifest.frame.width[row], manifest.frame.height[row])


@pytest.mark.parametrize("layout", ["webdataset", "raw"])
def test_every_image_at_random_is_that_of_the_build(built, tmp_path, layout):
    shard(built, tmp_path, layout=layout, shard_bytes=SMALL)
    shards, manifest = Shards.read(tmp_path), Manifest.read(built)
    storage = shards.storage()
    for row in np.random.default_rng(0).permutation(len(manifest)):
        place = {name: shards.table.column(name)[row].as_py() for name in shards.table.column_names}
        image = storage.read_grey(place["path"], place["offset"], place["length"], (place["width"], place["height"]))
        assert np.array_equal(image, read_image(manifest.path(row)))
        assert place["rois"] == manifest.table.column("rois")[row].as_py()
    assert verify_build(tmp_path).ok


@pytest.mark.parametrize("layout", ["webdataset", "raw"])
def test_same_bytes_with_more_workers_and_after_a_kill(built, tmp_path, layout):
    one, two = tmp_path / "one", tmp_path / "two"
    shard(built, one, layout=layout, shard_bytes=SMALL)
    shard(built, two, layout=layout, shard_bytes=SMALL, workers=2)
    assert contents(one) == contents(two)
    files = sorted(two.glob("msip-*"))
    files[0].unlink()  # as if it had not been written
    files[1].write_bytes(files[1].read_bytes()[:-1])  # cut off
    (two / "shards.json").unlink()
    report = shard(built, two, layout=layout, shard_bytes=SMALL)
    assert report.kept == report.shards - 2 and contents(one) == contents(two)


def test_another_plan_replaces_what_no_longer_fits(built, tmp_path):
    shard(built, tmp_path, shard_bytes=SMALL)
    assert len(list(tmp_path.glob("*.tar"))) > 1
    report = shard(built, tmp_path, layout="raw")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".msip",
        "index.arrow",
        "msip-000000.raw",
        "shards.json",
    ]
    assert report.bytes == (tmp_path / "msip-000000.raw").stat().st_size


def test_a_killed_run_of_another_plan_leaves_nothing_that_looks_whole(tmp_path, monkeypatch):
    """Images of one size: every shard has the size of the one that it replaces."""
    for number in range(8):
        image = np.random.default_rng(number).integers(0, 256, (50, 60), np.uint8)
        (tmp_path / "raw").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"raw/{number}.png"), image)
    out, to = tmp_path / "out", tmp_path / "to"
    build(None, out, folder=tmp_path / "raw", name="own", with_rois=False)
    manifest = Manifest.read(out)
    manifest.with_flags([["odd"] if row < 2 else [] for row in range(8)]).write()
    shard(out, to, layout="raw", shard_bytes=6000, exclude_flags=("odd",))
    with monkeypatch.context() as patch:
        patch.setattr(_Target, "publish", interrupted)
        with pytest.raises(KeyboardInterrupt):
            shard(out, to, layout="raw", shard_bytes=6000)
    with pytest.raises(ManifestError, match="run `msip shard` again"):
        open_data(to)
    shard(out, to, layout="raw", shard_bytes=6000, exclude_flags=("odd",))
    shards = Shards.read(to)
    place = {name: shards.table.column(name)[0].as_py() for name in shards.table.column_names}
    image = shards.storage().read_grey(place["path"], place["offset"], place["length"], (60, 50))
    assert place["image_id"] == "own/2" and np.array_equal(image, read_image(manifest.path(2)))


def test_a_remote_folder(built):
    report = shard(built, "memory://bucket/shards", shard_bytes=SMALL)
    shards = Shards.read("memory://bucket/shards")
    place = {name: shards.table.column(name)[7].as_py() for name in shards.table.column_names}
    size = place["width"], place["height"]
    image = shards.storage().read_grey(place["path"], place["offset"], place["length"], size)
    assert np.array_equal(image, read_image(Manifest.read(built).path(7)))
    assert shard(built, "memory://bucket/shards", shard_bytes=SMALL).kept == report.shards


def test_damage_is_found_and_mended(built, tmp_path, capsys):
    shard(built, tmp_path, shard_bytes=SMALL)
    first, second = sorted(tmp_path.glob("*.tar"))[:2]
    first.unlink()
    data = bytearray(second.read_bytes())
    data[1000] ^= 1
    second.write_bytes(data)
    (tmp_path / "msip-999999.tar").touch()
    index = bytearray((tmp_path / "index.arrow").read_bytes())
    index[index.index(manifest_sha(built))] ^= 1
    (tmp_path / "index.arrow").write_bytes(index)
    report = verify_build(tmp_path)
    assert (report.missing, report.strangers) == ([first.name], ["msip-999999.tar"])
    assert report.damaged == [second.name, "index.arrow"]
    assert app(["verify", str(tmp_path)], standalone_mode=False) == 1
    said = capsys.readouterr().out
    assert f"damaged: {second.name}" in said and "Run the same `msip shard` again" in said
    second.unlink()
    shard(built, tmp_path, shard_bytes=SMALL)
    assert verify_build(tmp_path).ok and verify_build(tmp_path).images == 12


def test_refusals_are_one_sentence(built, tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match="choose a new folder"):
        shard(built, tmp_path)
    with pytest.raises(OutputError, match="choose a new folder"):
        shard(built, built)  # a build has a folder .msip, too
    with pytest.raises(ManifestError, match="run `msip shard` again"):
        Shards.read(tmp_path)
    with pytest.raises(ManifestError, match="no manifest"):
        shard(tmp_path, tmp_path / "to")


def test_a_url_that_cannot_be_opened_is_one_sentence(built):
    with pytest.raises(MsipError, match="check the URL"):
        shard(built, "nosuchprotocol://bucket/shards")


def test_an_image_that_changed_is_refused(built, tmp_path):
    copy = tmp_path / "copy"
    manifest = Manifest.read(built)
    for path in [built / "manifest.parquet", *(manifest.path(row) for row in range(len(manifest)))]:
        target = copy / path.relative_to(built)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    victim = Manifest.read(copy).path(3)
    victim.write_bytes(manifest.path(4).read_bytes())
    with pytest.raises(ManifestError, match="is not what the manifest says"):
        shard(copy, tmp_path / "to")
    with pytest.raises(ManifestError, match="is not what the manifest says"):
        shard(copy, tmp_path / "to", layout="raw")
    victim.unlink()
    with pytest.raises(ManifestError, match="gone"):
        shard(copy, tmp_path / "to", layout="raw")
    assert not list((tmp_path / "to").glob("msip-*"))


def test_the_command(built, tmp_path, capsys):
    app(["shard", str(built), "--to", str(tmp_path / "s"), "--format", "raw", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["images"] == 12
    app(["shard", str(built), "--to", str(tmp_path / "s"), "--format", "raw"], standalone_mode=False)
    assert "1 of them kept" in capsys.readouterr().out
