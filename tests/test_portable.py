"""What works on any system: the modules and calls that only Linux or Unix has are hidden, new processes are spawned."""

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]

HIDE = '''
import fcntl, multiprocessing, os, signal, subprocess, sys, types

def locking(descriptor, mode, length):
    """As Windows: OSError where another process has the lock."""
    lock(descriptor, mode)

lock = fcntl.lockf
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=fcntl.LOCK_EX | fcntl.LOCK_NB)
psutil = types.ModuleType("psutil")  # the real one asks for resource here
psutil.Process = lambda: types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=1 << 28))
sys.modules["psutil"] = psutil
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for home, names in ((os, ("pread", "sched_getaffinity", "sync")), (signal, ("SIGHUP", "SIGUSR1", "SIGUSR2"))):
    for name in names:
        delattr(home, name)
if multiprocessing.get_start_method(allow_none=True) is None:
    multiprocessing.set_start_method("spawn")
'''
"""Runs at the start of every process, before any import of ours."""

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{sys.argv[1]}."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""

BUILD = """
import sys
from pathlib import Path
from msip import Manifest, build
from msip.verify import verify_build

if __name__ == "__main__":
    frames, out = map(Path, sys.argv[1:])
    report = build(None, out, folder=frames, name="cam", workers=2)
    assert report.images == len(Manifest.read(out)) == 3 and report.rois > 0
    assert verify_build(out, workers=2).ok
"""

PRETRAIN = """
import sys

if __name__ == "__main__":
    frames, data, run = sys.argv[1:]
    from msip import build
    from pad import pretrain
    from pad.config import PretrainConfig

    build(None, data, folder=frames, name="cam", with_rois=False)
    model = {"model": "test_vit", "init": "random", "image_size": 32}
    decoder = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
    options = {"batch_size": 2, "max_steps": 2, "workers": 1, "device": "cpu"}
    result = pretrain(PretrainConfig(data=data, out=run, **model, **decoder, **options))
    assert result.status == "finished" and result.steps == 2, result
"""

WRITE_AT_ONCE = """
import sys
from pathlib import Path
from msip.errors import OutputError
from msip.files import only_writer
import subprocess
out = Path(sys.argv[1])
ask = [sys.executable, "-c", "from pathlib import Path; from msip.files import only_writer; import sys\\n"
       "with only_writer(Path(sys.argv[1]), Path(sys.argv[1]) / 'lock', 'build'): pass", str(out)]
with only_writer(out, out / "lock", "build"):
    second = subprocess.run(ask, capture_output=True, text=True)
    assert "another build is writing" in second.stderr, second
assert subprocess.run(ask).returncode == 0
"""

SHARDS = """
import sys
from msip.shards import Shards, shard
if __name__ == "__main__":
    frames, out, to = sys.argv[1:]
    from msip import build
    build(None, out, folder=frames, name="cam", with_rois=False)
    for layout in ("webdataset", "raw"):
        shard(out, f"{to}-{layout}", layout=layout)
        read = Shards.read(f"{to}-{layout}")
        rows = read.table.select(["path", "offset", "length", "width", "height"]).to_pylist()
        for row in rows:
            image = read.storage().read_grey(row["path"], row["offset"], row["length"], (row["width"], row["height"]))
            assert image.shape == (96, 128)
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Runs a script as on another system."""
    (tmp_path / "hide").mkdir()
    (tmp_path / "hide/sitecustomize.py").write_text(HIDE)

    def run(script, *arguments):
        file = tmp_path / "script.py"
        file.write_text(script)
        paths = [str(tmp_path / "hide"), str(ROOT), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        command = [sys.executable, file, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def frames(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        image = rng.normal(90, 4, (96, 128))
        image[20:80, 30 + index : 100] += 80
        cv2.imwrite(str(folder / f"{index}.png"), cv2.GaussianBlur(image, (0, 0), 1.5).clip(0, 255).astype("u1"))
    return folder


@pytest.mark.parametrize("package", ["msip", "msip_cli", pytest.param("pad", marks=pytest.mark.slow)])
def test_every_module_is_imported(elsewhere, package):
    elsewhere(IMPORT_ALL, package)


def test_a_folder_is_built_and_verified(elsewhere, frames, tmp_path):
    elsewhere(BUILD, frames, tmp_path / "out")


def test_shards_are_written_and_read(elsewhere, frames, tmp_path):
    elsewhere(SHARDS, frames, tmp_path / "out", tmp_path / "shards")


@pytest.mark.slow
def test_two_steps_are_trained(elsewhere, frames, tmp_path):
    elsewhere(PRETRAIN, frames, tmp_path / "out", tmp_path / "run")


def test_one_writer_at_a_time(elsewhere, tmp_path):
    elsewhere(WRITE_AT_ONCE, tmp_path)


def test_what_needs_unix_says_so(elsewhere, tmp_path):
    import py7zr

    (tmp_path / "a.txt").write_text("a")
    with py7zr.SevenZipFile(tmp_path / "a.7z", "w") as archive:
        archive.write(tmp_path / "a.txt", "a.txt")
    script = """
import sys
from pathlib import Path
from msip.archives import extract
from msip.errors import ArchiveError
try:
    extract(sys.argv[1], Path(sys.argv[2]))
except ArchiveError as error:
    assert "needs Linux or macOS; unpack it by hand" in str(error), error
else:
    raise AssertionError("unpacked without a limit of memory")
"""
    elsewhere(script, tmp_path / "a.7z", tmp_path / "to")
