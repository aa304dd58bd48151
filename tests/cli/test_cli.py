"""The command line as a person uses it: exit codes, one sentence, JSON."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from msip_cli.main import app
from msip_cli.output import StageBars
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
FROM_ANYWHERE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from msip_cli.main import main; main()"


def msip(*arguments, code=0):
    command = [sys.executable, "-m", "msip_cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "frames"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(6):
        image = cv2.resize(rng.integers(20, 220, (6, 8), np.uint8), (128, 96), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


def test_build_verify_rois_export(frames):
    out = frames.parent / "out"
    dry = json.loads(msip("build", "--folder", frames, "--out", out, "--dry-run", "--json").stdout)
    assert dry["dry_run"] and dry["images"] == 6 and not out.exists()
    summary = json.loads(msip("build", "--folder", frames, "--out", out, "--no-rois", "--json").stdout)
    assert summary["images"] == 6 and summary["rois"] is None
    assert json.loads(msip("rois", out, "--json").stdout)["images"] == 6
    assert "all as the manifest says" in msip("verify", out).stdout
    crops = json.loads(msip("export-crops", out, "--to", frames.parent / "to", "--mode", "training", "--json").stdout)
    assert crops["crops"] == 6
    (out / "frames/thermal/3.png").write_bytes(b"")
    assert "damaged: frames/thermal/3.png" in msip("verify", out, code=1).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "--raw", "nowhere", "--out", "o"], "does not exist"),
        (["build", "--out", "o"], "--raw"),
        (["build", "--raw", ".", "--out", "o", "--source", "llvp"], "llvip"),
        (["build", "--folder", __file__, "--out", "o"], "test_cli.py is a file; give the folder"),
        (["build", "--raw", __file__, "--out", "o", "--source", "llvip"], "test_cli.py is a file; give the folder"),
        (["build", "--raw", ".", "--folder", ".", "--out", "o"], "--folder does not go with --raw"),
        (["build", "--source", "llvip", "--folder", ".", "--out", "o"], "--folder does not go with --source"),
        (["verify", "nowhere"], "no manifest at nowhere/manifest.parquet, the folder nowhere does not exist"),
        (["verify", "."], "no manifest at manifest.parquet; give the folder of a build"),
        (["rois", "nowhere"], "the folder nowhere does not exist"),
        (["export-crops", "nowhere", "--to", "t"], "the folder nowhere does not exist"),
        (["build", "--folder", ".", "--out", "o", "--agc", "pct"], "error: invalid value for '--agc': 'pct' is not"),
        (["build", "--folder", ".", "--out", "o", "--workers", "0"], "'--workers': input should be greater"),
        (["build", "--folder", ".", "--out", "o", "--agc-window", "3"], "requires 2 arguments; see `"),
        (["build", "--folder", "."], "error: missing option '--out'; see `"),
        (["bild"], "error: no such command 'bild'; did you mean 'build'?"),
        (["--version"], "error: no such option: --version"),
        (["sources", "--corpus", "nope"], "no corpus"),
        (["pretrain", "--data", "nowhere", "--out", "r"], "the folder nowhere does not exist"),
    ],
)
def test_mistakes_leave_with_code_2_and_one_sentence(arguments, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FROM_ANYWHERE, str(ROOT), *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and words in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_continue(frames, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("msip.pipeline.build", interrupted)
    done = CliRunner().invoke(app, ["build", "--folder", str(frames), "--out", str(tmp_path / "out")])
    assert done.exit_code == 130
    assert done.stderr == "interrupted; finished work is kept, run the same command again to continue.\n"


def test_sources_lists_the_corpus():
    text = msip("sources").stdout
    assert "178,756" in text and "lasher" in text and "52,925" in text


def test_training_imports_without_fiftyone():
    code = "import sys; sys.modules['fiftyone'] = None; import pad.training.pretrain, msip.pipeline"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    light = "import sys, msip; msip.Manifest; assert 'torch' not in sys.modules and 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", light], cwd=ROOT, check=True)


def test_the_bar_of_all_transfers_has_rate_and_remaining_time(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with StageBars(quiet=False, unit="B") as bars:
        bars("download", 0, 3_000_000)  # of one source
        bars("unpack", 0, 10)
        for _ in range(3):
            bars("download", 1_000_000, 4_000_000)  # with another
        shown = str(bars.bars["download"])
    assert re.search(r"download +: +75%.*3\.00M/4\.00M \[\d\d:\d\d<\d\d:\d\d, .*B/s", shown), shown
