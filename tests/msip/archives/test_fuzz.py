"""Extractors and the .seq reader on mutated archives, bounded by the system: see ``fuzz_archives``."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2] / "helpers"


def run(*arguments):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=600, check=False)


def test_no_mutation_hangs_writes_outside_or_eats_memory(tmp_path):
    ended = run("fuzz_archives.py", 60, 0, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 11 and all("refused" in line for line in ended.stdout.splitlines())


GUARDED = """
import os, pathlib, sys, fuzz_archives
os.chdir(sys.argv[1])
for act in sys.argv[2:]:
    if not (child := os.fork()):
        fuzz_archives.guard(pathlib.Path())
        exec(act)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_the_guard_ends_at_a_write_outside(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "linked")
    outside = ["open('../out', 'w')", "open('link', 'w')", "os.mkdir('/out')", "os.rename('link', '../out')"]
    ended = run("-c", GUARDED, folder, *outside, "open('in', 'w')")
    assert ended.stdout.split() == ["3", "3", "3", "3", "0"] and ended.stderr.count("outside") == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]
