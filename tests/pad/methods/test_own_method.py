"""A method with an option of its own is one file: through the list of methods, or an entry point of another package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from method_contract import MethodContract
from training_runs import make_manifest

from msip.errors import MsipError
from pad.methods import METHODS, Method, methods

ROOT = Path(__file__).resolve().parents[3]


def page_code() -> str:
    """The file that docs/adding-a-method.md shows."""
    text = (ROOT / "docs/adding-a-method.md").read_text()
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's file as an installed package, with its entry point; on the path of this process and of new ones."""
    (tmp_path / "mean_grey.py").write_text(page_code())
    info = tmp_path / "mean_grey-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mean-grey\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pad.methods]\nmean-grey = mean_grey:MeanGrey\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    methods.cache_clear()
    yield tmp_path
    methods.cache_clear()
    sys.modules.pop("mean_grey", None)


namespace: dict = {}
exec(compile(page_code(), "docs/adding-a-method.md", "exec"), namespace)  # the page's own class, not a copy of it


class TestThePagesMethodKeepsTheContract(MethodContract):
    def make(self, encoder):
        return namespace["MeanGrey"](encoder)


def test_an_entry_point_adds_a_method_with_its_option(package):
    assert list(methods()) == ["mean-grey", *METHODS]
    assert issubclass(methods()["mean-grey"], Method)


@pytest.mark.slow
def test_the_command_line_trains_it_with_its_own_option(package):
    data = make_manifest(package / "data", images=8).root
    small = ["--model", "test_vit", "--init", "random", "--image-size", "32", "--batch-size", "4", "--max-steps", "2"]
    command = [sys.executable, "-m", "msip_cli", "pretrain", "--method", "mean-grey", "--margin", "0.25", *small]
    command += ["--data", str(data), "--out", str(package / "run"), "--device", "cpu", "--workers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    stored = yaml.safe_load((package / "run/run.yaml").read_text())["config"]
    assert (stored["method"], stored["margin"]) == ("mean-grey", 0.25)
    command += ["--margin", "-1", "--out", str(package / "other")]
    odd = subprocess.run(command, capture_output=True, text=True, check=False)
    assert odd.returncode == 2 and "--margin" in odd.stderr and "Traceback" not in odd.stderr


def test_a_broken_entry_point_is_named(package):
    (package / "mean_grey.py").write_text("import nothing_of_that_name\n")
    sys.modules.pop("mean_grey", None)
    with pytest.raises(
        MsipError, match=r"'mean-grey' \(mean_grey:MeanGrey\) in the group pad.methods cannot be loaded"
    ):
        methods()
