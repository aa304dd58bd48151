"""What works without the App and without the extras, and what is said where one is missing."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pytest

from msip.archives import extract
from msip.errors import MissingExtra
from msip.extras import EXTRAS, how_to_get, missing, need
from msip.storage import filesystem
from msip.trees import raw_tree
from pad.adapters.lora import attach_lora

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = {"all", "test", "bench", "docs", "lint"}
NOT_IN_ALL = {"wandb", "umap"}
OF_TIMM = {"torchvision", "huggingface_hub"}
"""Without torchvision timm cannot be imported; it takes the other where it finds it."""

WAY = """
import sys
from pathlib import Path

import timm

from msip import Manifest, build
from pad import PadConfig, attach_adapters
from pad.config import PretrainConfig
from pad.training.pretrain import pretrain

if __name__ == "__main__":
    frames, work = map(Path, sys.argv[1:])
    report = build(None, work / "data", folder=frames, name="cam", workers=2)
    assert report.images == len(Manifest.read(work / "data")) == 3 and report.rois > 0
    result = pretrain(
        PretrainConfig(
            data=work / "data", out=work / "run", model="vit_tiny_patch16_224", init="random", image_size=32,
            max_steps=2, batch_size=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2, workers=0,
            device="cpu",
        )
    )
    assert result.status == "finished" and result.steps == 2
    own = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0)
    before = sum(p.numel() for p in own.parameters())
    attach_adapters(own, PadConfig())
    assert sum(p.numel() for p in own.parameters()) > before
"""

COMMAND = "from msip_cli.main import main; main()"


@pytest.fixture
def without(tmp_path):
    """Runs Python code where modules are hidden, in child processes too."""

    def run(modules, code, *arguments):
        hidden = tmp_path / "hidden"
        hidden.mkdir(exist_ok=True)
        (hidden / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys({sorted(modules)!r})\n")
        file = tmp_path / "script.py"
        file.write_text(code)
        paths = os.pathsep.join(filter(None, [str(hidden), str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths}
        command = [sys.executable, file, *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=environment)

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


@pytest.mark.slow
def test_a_folder_is_built_and_trained_on_without_app_and_extras(without, frames, tmp_path):
    hidden = {"fiftyone", *(module for extra in EXTRAS.values() for module in extra.modules)} - OF_TIMM
    done = without(hidden, WAY, frames, tmp_path)
    assert done.returncode == 0, done.stderr
    run = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"adapter.safetensors", "result.json", "metrics.jsonl"} <= run
    assert not {"tensorboard", "report.html", "loss.png"} & run
    for extra in ("tensorboard", "plots"):  # what is left out is said, once
        assert done.stderr.count(how_to_get(extra)) == 1, done.stderr


PRETRAIN = ("pretrain", "--data", "DATA", "--out", "NEW", "--model", "vit_tiny_patch16_224", "--init", "random")
COMMANDS = {
    "plots": ("stats", "DATA"),
    "evaluate": ("evaluate", "timm:vit_tiny_patch16_224", "--task", "probe", "--data", "DATA"),
    "download": ("download", "--raw", "NEW", "llvip", "--accept-terms"),
    "archives": ("download", "--raw", "NEW", "llvip", "--accept-terms"),
    "clahe": ("build", "--folder", "DATA", "--out", "NEW", "--agc", "clahe"),
    "remote": ("build", "--folder", "memory://frames", "--out", "NEW"),
    "s3": ("build", "--folder", "s3://bucket/frames", "--out", "NEW"),
    "ray": ("build", "--folder", "DATA", "--out", "NEW", "--engine", "ray"),
    "lora": (*PRETRAIN, "--paradigm", "lora"),
    "wandb": (*PRETRAIN, "--wandb", "infrared"),
    "onnx": ("export-model", "WEIGHTS", "--to", "NEW", "--format", "onnx"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    from msip import build

    work = tmp_path_factory.mktemp("built")
    (work / "frames").mkdir()
    cv2.imwrite(str(work / "frames/a.png"), np.random.default_rng(0).integers(0, 255, (64, 80), np.uint8))
    build(None, work / "data", folder=work / "frames", name="cam")
    return work / "data"


@pytest.mark.slow
@pytest.mark.parametrize("extra", COMMANDS)
def test_a_missing_extra_is_one_sentence_and_code_2(without, built, tmp_path, extra):
    places = {"DATA": str(built), "NEW": str(tmp_path / "new"), "WEIGHTS": "timm:vit_tiny_patch16_224"}
    arguments = [places.get(word, word) for word in COMMANDS[extra]]
    own = [module for module in EXTRAS[extra].modules if module not in OF_TIMM]
    done = without(own[-1:] if extra == "s3" else own, COMMAND, *arguments)
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "not installed, needed for" in said[0], done.stderr
    assert "pip install 'msip-pad[" in said[0]
    assert "`engine" not in said[0] and "`agc" not in said[0] and "`wandb" not in said[0]  # options, not parameters
    assert "Traceback" not in done.stderr and not (tmp_path / "new").exists()


@pytest.mark.slow
def test_inspect_without_fiftyone_says_how_to_get_it(without, built):
    done = without({"fiftyone"}, COMMAND, "inspect", built)
    assert done.returncode == 2 and "pip install 'fiftyone" in done.stderr and "Traceback" not in done.stderr


def hide(monkeypatch, extra):
    for module in EXTRAS[extra].modules:
        monkeypatch.setitem(sys.modules, module, None)


ARCHIVES = {"a.7z": b"7z\xbc\xaf\x27\x1c", "a.rar": b"Rar!\x1a\x07\x01\x00", "a.tar.zst": b"\x28\xb5\x2f\xfd"}


def test_archives_name_the_extra(tmp_path, monkeypatch):
    hide(monkeypatch, "archives")
    for name, head in (
        ("a.7z", b"7z\xbc\xaf\x27\x1c"),
        ("a.rar", b"Rar!\x1a\x07\x01\x00"),
        ("a.tar.zst", b"\x28\xb5\x2f\xfd"),
    ):
        (tmp_path / name).write_bytes(head + bytes(600))
        with pytest.raises(MissingExtra, match=re.escape(how_to_get("archives"))):
            extract(tmp_path / name, tmp_path / "to")


def test_urls_name_the_extra(monkeypatch):
    hide(monkeypatch, "s3")
    for url, extra in (("s3://bucket/raw", "s3"), ("memory://raw", "remote")):
        for opens in (raw_tree, filesystem):
            with pytest.raises(MissingExtra, match=re.escape(how_to_get(extra))):
                opens(url)


def test_doctor_says_which_command_lacks_what(monkeypatch):
    import pad

    hide(monkeypatch, "download")
    found = pad.doctor()
    assert found["extra remote"] == "installed"
    assert found["extra download"] == (
        "without requests, gdown, huggingface_hub, py7zr, rarfile, backports.zstd, for `msip download`; "
        "pip install 'msip-pad[download]'"
    )


def test_a_missing_extra_is_an_import_error(monkeypatch):
    hide(monkeypatch, "lora")
    with pytest.raises(ImportError, match="peft is not installed"):
        attach_lora(None, rank=1, blocks=range(1))
    assert missing("lora") == ["peft"]
    need("remote")


def listed(name):
    """The distributions of an extra, those of extras that it names included."""
    found = set()
    for line in PROJECT["optional-dependencies"][name]:
        own, others = re.match(r"([\w.-]+)(?:\[([\w,]+)\])?", line).groups()
        found |= set().union(*map(listed, others.split(","))) if others else {normal(own)}
    return found


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_table_of_extras_is_the_projects():
    assert set(PROJECT["optional-dependencies"]) - FOR_DEVELOPERS == set(EXTRAS)
    distributions = importlib.metadata.packages_distributions()
    for name, extra in EXTRAS.items():
        for module in set(extra.modules) - set(missing(name)):
            bring = {normal(found) for found in distributions[module.split(".")[0]]}
            assert bring & listed(name), (name, module)
        assert len(extra.modules) == len(listed(name))


def test_all_are_all_but_those_that_are_said_to_be_left_out():
    (line,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.search(r"\[(.*)\]", line)[1].split(",")) == set(EXTRAS) - NOT_IN_ALL
    assert "msip-pad[all]" in PROJECT["optional-dependencies"]["test"]


def test_the_page_lists_every_extra():
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    assert set(rows) == {*EXTRAS, "all"}
