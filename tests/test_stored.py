"""The format on disk is a promise: what version 0.1 wrote opens, verifies, continues and loads.

``stored/version-0.1.tar.xz`` was made by commit 231d578: a build of ten frames (8 and 16 bit, one blank and one cut off
left out) with RoIs and curation, shards of it in both formats, training crops, a finished run of four steps
(``test_vit``, seed 3), its export as a timm folder, and some features of the run's encoder.
"""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from msip import Manifest, build
from msip.shards import Shards
from msip.verify import verify_build as verify
from pad import load_adapters, load_encoder
from pad.config import PretrainConfig
from pad.training.pretrain import pretrain

ARCHIVE = Path(__file__).parent / "stored" / "version-0.1.tar.xz"


@pytest.fixture
def stored(tmp_path):
    with tarfile.open(ARCHIVE) as tar:
        tar.extractall(tmp_path, filter="data")
    return tmp_path


def features(encoder):
    torch.manual_seed(0)
    with torch.no_grad():
        return encoder.forward_features(torch.randn(2, 3, 32, 32))[0, :3, :4]


def test_a_build_verifies_and_a_further_build_changes_nothing(stored):
    report = verify(stored / "data")
    assert (report.images, report.ok) == (10, True)
    manifest = Manifest.read(stored / "data")
    assert sum(len(manifest.rois(row)) for row in range(10)) == 10
    again = build(None, stored / "data", folder=stored / "frames", name="camera", workers=1)
    assert [len(part.problems) for part in again.sources] == [2]
    assert Manifest.read(stored / "data").table.equals(manifest.table)


def test_a_build_made_anew_has_the_same_bytes(stored):
    build(None, stored / "anew", folder=stored / "frames", name="camera", workers=1)
    assert (
        Manifest.read(stored / "anew")
        .table.drop(["flags"])
        .equals(
            Manifest.read(stored / "data").table.drop(["flags"])  # flags: the stored build was curated
        )
    )


@pytest.mark.parametrize("name", ["tars", "raw"])
def test_shards_open_and_verify(stored, name):
    shards = Shards.read(stored / name)
    assert len(shards) == 10
    assert verify(stored / name).ok


def test_a_run_that_was_killed_half_way_continues_to_the_same_adapter(stored):
    run = stored / "run"
    finished = load_file(run / "adapter.safetensors")
    shutil.rmtree(run / "checkpoints/step-00000004")
    for name in ("result.json", "adapter.safetensors", "adapter.json"):
        (run / name).unlink()
    result = pretrain(PretrainConfig(data=stored / "data", out=run, resume="auto"))
    assert (result.status, result.steps) == ("finished", 4)
    continued = load_file(run / "adapter.safetensors")
    assert continued.keys() == finished.keys()
    for name, tensor in finished.items():
        torch.testing.assert_close(continued[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_finished_run_is_known_as_finished(stored):
    result = pretrain(PretrainConfig(data=stored / "data", out=stored / "run", resume="auto"))
    assert result.status == "already finished"


@pytest.mark.parametrize("name", ["run", "timm", "run/checkpoints/step-00000004"])
def test_weights_load_with_the_features_they_had(stored, name):
    expected = torch.tensor(json.loads((stored / "expected.json").read_text())["features"])
    torch.testing.assert_close(features(load_encoder(stored / name).eval()), expected.float(), rtol=1e-4, atol=1e-5)


def test_an_adapter_file_loads_onto_its_own_trunk(stored):
    encoder = load_encoder(stored / "run").eval()
    before = features(encoder)
    load_adapters(encoder, stored / "run/adapter.safetensors")
    torch.testing.assert_close(features(encoder.eval()), before)
