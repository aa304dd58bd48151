"""Raw trees on other file systems: memory, and an S3 server; the manifest has the bytes of a local build."""

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from remote_fixtures import bucket  # noqa: F401

from msip import Manifest, build
from msip.download.terms import accept_terms, accepted_terms
from msip.errors import LayoutError, OptionError, OutputError, SourceError
from msip.pipeline import read_build
from msip.shards import Shards
from msip.sources import load_source
from msip.synthetic import write_folder, write_raw

SOURCES = ["scut_fir_pedestrian", "llvip", "lasher"]  # movies' frames with a dark filter, splits, numbered sequences


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    raw = write_raw(tmp_path_factory.mktemp("trees") / "raw", per_mille=0.1)
    accept_terms(raw, [load_source("llvip")])
    return raw


@pytest.fixture(scope="module")
def local(raw):
    build(raw, raw.parent / "local", sources=SOURCES, with_rois=False)
    return raw.parent / "local"


def same(out: Path, local: Path) -> bool:
    return (out / "manifest.parquet").read_bytes() == (local / "manifest.parquet").read_bytes()


def test_from_s3_on_two_processes(raw, local, bucket, tmp_path):  # noqa: F811
    url = f"{bucket}/some/raw"
    files = fsspec.filesystem("s3")
    for source in SOURCES:
        root = next(raw / name for name in load_source(source).layout.roots if (raw / name).is_dir())
        files.put(str(root), f"{url}/{root.name}", recursive=True)
    files.put(str(raw / ".msip"), f"{url}/.msip", recursive=True)
    command = ["build", "--raw", url, "--out", tmp_path / "out", "--no-rois", "--workers", "2", "--json"]
    command += [part for source in SOURCES for part in ("--source", source)]
    program = [sys.executable, "-c", "from msip_cli.main import main; main()", *map(str, command)]
    done = subprocess.run(program, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "out", local)
    assert read_build(tmp_path / "out")["sources"]["llvip"]["terms"] == accepted_terms(raw)["llvip"]
    changed = next(iter(Manifest.read(local).frame.query("source == 'llvip'").itertuples()))
    files.pipe(f"{url}/LLVIP/{changed.source_path}", next((raw / "LLVIP/infrared/test").glob("*.jpg")).read_bytes())
    again = json.loads(subprocess.run(program, env=os.environ, capture_output=True, text=True, check=True).stdout)
    redone = {name: source["images"] - source["done_before"] for name, source in again["sources"].items()}
    assert redone == {"scut_fir_pedestrian": 0, "llvip": 1, "lasher": 0} and not same(tmp_path / "out", local)


def test_a_bucket_or_package_that_is_not_there(bucket, tmp_path):  # noqa: F811
    with pytest.raises((SourceError, LayoutError), match="nowhere"):
        build("s3://nowhere/raw", tmp_path / "out", sources=["llvip"])
    with pytest.raises(SourceError, match="nosuch"):
        build("nosuch://bucket/raw", tmp_path / "out", sources=["llvip"])
    assert not (tmp_path / "out").exists()


def test_from_memory(raw, local, tmp_path):
    files = fsspec.filesystem("memory")
    files.put(str(raw / "LLVIP"), "/trees/raw/LLVIP", recursive=True)
    report = build("memory://trees/raw", tmp_path / "out", sources=["llvip"], with_rois=False)
    table = Manifest.read(local).table
    expected = [row for row in table.to_pylist() if row["source"] == "llvip"]
    assert Manifest.read(tmp_path / "out").table.to_pylist() == expected and report.images == len(expected)
    with pytest.raises(OptionError, match="workers=1"):
        build("memory://trees/raw", tmp_path / "two", sources=["llvip"], workers=2)
    with pytest.raises(LayoutError, match="lasher"):
        build("memory://trees/raw", tmp_path / "two", sources=["lasher"])


def test_own_frames_from_a_url(tmp_path):
    frames = write_folder(tmp_path / "frames", count=10)
    (frames / ".hidden").mkdir()
    (frames / ".hidden/x.png").write_bytes(b"no")
    fsspec.filesystem("memory").put(str(frames), "/own/frames", recursive=True)
    build(None, tmp_path / "a", folder=frames, with_rois=False)
    build(None, tmp_path / "b", folder="memory://own/frames", with_rois=False)
    assert same(tmp_path / "b", tmp_path / "a")


def test_output_is_a_folder_and_shards_go_to_s3(local, bucket, tmp_path):  # noqa: F811
    for out in ("s3://bucket/out", Path("gs://bucket/out")):
        with pytest.raises(OutputError, match="msip shard OUT --to URL"):
            build(local, out, sources=["llvip"])
    from msip.shards import shard

    shard(local, f"{bucket}/shards")
    shards = Shards.read(f"{bucket}/shards")
    assert len(shards) == len(Manifest.read(local))
    row = {name: shards.table.column(name)[0].as_py() for name in ("path", "offset", "length", "width", "height")}
    grey = shards.storage().read_grey(row["path"], row["offset"], row["length"], (row["width"], row["height"]))
    assert grey is not None and grey.shape == (row["height"], row["width"])
