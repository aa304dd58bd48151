"""The full-scale benchmark, at a two-hundredth of the scale: exact counts, traps left alone, killed and continued."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark reads /proc")
def test_a_two_hundredth_of_msip_is_exact_after_a_kill(realdata, tmp_path):
    command = [sys.executable, ROOT / "benchmarks/full_scale.py", "--scale", "0.005", "--kills", "1"]
    done = subprocess.run(
        [*map(str, command), "--dir", str(tmp_path), "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["images"] == figures["expected"] > 800
    assert figures["counts_exact"] and figures["visible"] > 2000 and figures["visible_taken"] == 0
    assert figures["verify_rc"] == 0 and figures["same_after_kills"]
    assert figures["build"]["parent_mib"] < 1024 and figures["build"]["worker_mib"] < 500
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
