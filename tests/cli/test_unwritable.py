"""A full disk, or a place that cannot be written: one sentence, exit code 2, nothing half-written; then it works."""

import contextlib
import errno
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from msip_cli.main import main

from msip import Manifest
from msip.files import free_bytes
from msip.synthetic import write_folder

PRETRAIN = [
    *("--model", "vit_tiny_patch16_224", "--init", "random", "--image-size", "64", "--max-steps", "2"),
    *("--batch-size", "4", "--workers", "0", "--decoder-embed-dim", "32", "--decoder-depth", "1"),
    *("--decoder-num-heads", "2"),
]


@contextlib.contextmanager
def disk_full_after(files):
    """The disk is full at the Nth file: at the lowest level, where this project's files come under their names."""
    left, replace = [files], Path.replace

    def full(self, target):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(self, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", full)
        yield


def msip(*arguments, code=0):
    """The command line in this process: its one error line, or what it printed."""
    printed, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        pytest.raises(SystemExit) as left,
    ):
        patch.setattr("sys.argv", ["msip", *map(str, arguments)])
        main()
    assert left.value.code == code, errors.getvalue()
    lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
    assert len(lines) == (1 if code else 0) and "Traceback" not in errors.getvalue(), errors.getvalue()
    return lines[0] if lines else printed.getvalue()


def on_full_disk(files, *arguments):
    with disk_full_after(files):
        return msip(*arguments, code=2)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("disk") / "frames", count=8)


@pytest.fixture(scope="module")
def built(frames):
    msip("build", "--folder", frames, "--out", frames.parent / "built", "--workers", "1")
    return frames.parent / "built"


def whole(folder):
    """No temporary file is left."""
    return not [path for path in folder.rglob("*") if "tmp" in path.name]


@pytest.mark.parametrize("files", [0, 3, 8])
def test_build_on_a_full_disk(frames, built, tmp_path, files):
    out = tmp_path / "out"
    command = ("build", "--folder", frames, "--out", out, "--workers", "1")
    assert "the disk is full" in on_full_disk(files, *command)
    assert whole(tmp_path) and not (out / "manifest.parquet").exists()
    msip(*command)
    assert (out / "manifest.parquet").read_bytes() == (built / "manifest.parquet").read_bytes()


def test_rois_on_a_full_disk(built, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(built, out, ignore=shutil.ignore_patterns("rois"))
    before = Manifest.read(out).table
    for files in (0, 1, 2):
        assert "the disk is full" in on_full_disk(files, "rois", out, "--workers", "1", "--write-roi-txt")
        assert whole(out) and Manifest.read(out).table.equals(before)
    msip("rois", out, "--workers", "1", "--write-roi-txt")


def test_export_on_a_full_disk(built, tmp_path):
    command = ("export-crops", built, "--to", tmp_path / "to", "--mode", "training", "--workers", "1")
    assert "the disk is full" in on_full_disk(3, *command)
    assert whole(tmp_path)
    assert json.loads(msip(*command, "--json"))["crops"] == 6


@pytest.mark.parametrize("files", [0, 3])
def test_pretrain_on_a_full_disk(built, tmp_path, files):
    command = ("pretrain", "--data", built, "--out", tmp_path / "run", *PRETRAIN)
    assert "the disk is full" in on_full_disk(files, *command)
    assert whole(tmp_path)
    assert json.loads(msip(*command, "--resume", "auto", "--json"))["status"] == "finished"


def test_demo_on_a_full_disk(tmp_path):
    assert "the disk is full" in on_full_disk(20, "demo", "--out", tmp_path / "demo")
    assert whole(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full(frames, built, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here; the other tests stand in for it")
    try:
        command = ("pretrain", "--data", built, "--out", disk / "run", *PRETRAIN)
        assert "the disk is full" in msip(*command, code=2)
        assert whole(disk)
        (disk / "filler").write_bytes(bytes(free_bytes(disk) - 8192))
        assert "free" in msip("build", "--folder", frames, "--out", disk / "out", "--no-rois", "--workers", "1", code=2)
        subprocess.run(["mount", "-o", "remount,size=300m", disk], check=True)
        msip(*command, "--resume", "auto")
        msip("build", "--folder", frames, "--out", disk / "out", "--no-rois", "--workers", "1")
        assert "all as the manifest says" in msip("verify", disk / "out")
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


@pytest.mark.parametrize("place", ["file", "proc"])
def test_places_that_cannot_be_written(frames, built, tmp_path, place):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out" if place == "file" else Path("/proc/nowhere/out")
    for command in (
        ["build", "--folder", frames, "--out", out],
        ["export-crops", built, "--to", out],
        ["pretrain", "--data", built, "--out", out, *PRETRAIN],
        ["demo", "--out", out],
    ):
        message = msip(*command, code=2)
        assert "choose another" in message, message
    assert not list(tmp_path.glob("*/*"))
