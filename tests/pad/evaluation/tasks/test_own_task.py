"""A downstream task with an option of its own is one file: through the list of tasks, or an entry point."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

import pad
from msip.errors import EvaluationError, MsipError
from pad.evaluation.tasks import registry

PAGE = next(parent / "docs/adding-a-task.md" for parent in Path(__file__).parents if (parent / "docs").is_dir())


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The page's file as an installed package, and a set of two classes, dark and bright."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    (tmp_path / "brightness.py").write_text(code)
    info = tmp_path / "brightness-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pad.tasks]\nbrightness = brightness:Brightness\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    rng = np.random.default_rng(0)
    for split, images in (("train", 12), ("test", 4)):
        for number in range(images):
            level = 60 + 120 * (number % 2) + 3 * number
            path = tmp_path / "set" / split / ("dark", "bright")[number % 2] / f"{split}{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.normal(level, 4, (32, 32)).clip(0, 255).astype(np.uint8))
    registry.tasks.cache_clear()
    yield tmp_path
    registry.tasks.cache_clear()
    sys.modules.pop("brightness", None)


def test_evaluate_and_compare_know_it_with_its_option(package):
    options = {"image_size": 32, "ridge": 0.5, "seeds": 1, "device": "cpu"}
    report = pad.evaluate("random:test_vit", "brightness", package / "set", out=package / "out", **options)
    cell = json.loads(next((report.folder / "cells").rglob("seed-0.json")).read_text())
    errors = cell["evidence"][""]["errors"]
    share = 100 * sum(error < 10 for error in errors) / len(errors)
    assert [(line.metric, line.mean) for line in report.lines] == [("within 10", share)] and len(errors) == 4
    assert (cell["key"]["options"], cell["evidence"][""]["kind"]) == ({"ridge": 0.5}, "errors")
    file = package / "c.yaml"
    tasks = {"b": {"task": "brightness", "data": "set", "image_size": 32, "ridge": 0.5}}
    contestants = {"none": {"weights": "random:test_vit"}, "other": {"weights": "random:test_vit2"}}
    file.write_text(yaml.safe_dump({"seeds": [0], "baseline": "none", "contestants": contestants, "tasks": tasks}))
    lines = pad.compare(file, device="cpu").lines
    assert [(line.contestant, line.key["mode"]) for line in lines] == [("none", "frozen"), ("other", "frozen")]


@pytest.mark.slow
def test_the_command_line_has_its_option(package):
    command = [
        sys.executable,
        "-m",
        "msip_cli",
        "evaluate",
        "random:test_vit",
        "--task",
        "brightness",
        "--ridge",
        "0.5",
    ]
    command += ["--data", str(package / "set"), "--image-size", "32", "--seeds", "1", "--device", "cpu"]
    done = subprocess.run(
        [*command, "--out", str(package / "out"), "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["results"][0]["metric"] == "within 10"
    odd = subprocess.run([*command, "--steps", "3"], capture_output=True, text=True, check=False, cwd=package)
    assert odd.returncode == 2 and "--steps" in odd.stderr and "Traceback" not in odd.stderr


def test_what_it_does_not_have_is_refused(package):
    with pytest.raises(EvaluationError, match="`steps`"):
        pad.evaluate("random:test_vit", "brightness", package / "set", steps=3)
    with pytest.raises(EvaluationError, match="choose one of brightness, segmentation, detection, probe"):
        pad.evaluate("random:test_vit", "brightnes", package / "set")


def test_a_broken_entry_point_is_named(package):
    (package / "brightness.py").write_text("import nothing_of_that_name\n")
    sys.modules.pop("brightness", None)
    with pytest.raises(
        MsipError, match=r"'brightness' \(brightness:Brightness\) in the group pad.tasks cannot be loaded"
    ):
        registry.tasks()
