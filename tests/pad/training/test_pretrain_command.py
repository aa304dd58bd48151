from __future__ import annotations

import json

import pytest
import typer
import yaml
from msip_cli.main import app
from training_runs import make_manifest, stopped_after
from typer.testing import CliRunner

from msip.errors import RunError
from pad.config.pretraining import PretrainConfig
from pad.methods import METHODS

SMALL = [*("--model", "test_vit", "--init", "random", "--image-size", "32", "--batch-size", "8", "--workers", "0")]
SMALL += ["--decoder-embed-dim", "32", "--decoder-depth", "1", "--decoder-num-heads", "2", "--device", "cpu"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


def msip(*arguments):
    return CliRunner().invoke(app, ["pretrain", *map(str, arguments)])


def test_summary_as_json_and_as_table(data, tmp_path, monkeypatch):
    done = msip(
        "--data", data, "--out", tmp_path / "run", "--max-steps", 2, *SMALL, "--exclude-flag", "blank", "--json"
    )
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["status"], summary["steps"], summary["signal"]) == ("finished", 2, 0)
    assert yaml.safe_load((tmp_path / "run/run.yaml").read_text())["data"]["images"] == 23
    again = msip("--out", tmp_path / "run", "--resume", "auto")
    assert again.exit_code == 0 and "already finished" in again.stdout
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    second = msip("--out", tmp_path / "run", "--resume", "auto")  # of the processes of torchrun the first one speaks
    assert second.exit_code == 0 and second.stdout == ""


def test_stopped_by_a_signal_it_says_so_and_leaves_with_its_code(data, tmp_path):
    with stopped_after(2):
        done = msip("--data", data, "--out", tmp_path / "run", "--epochs", 2, *SMALL)
    assert done.exit_code == 143
    assert "--resume auto" in done.stderr and "stopped" in done.stdout


def test_file_of_options_lies_below_the_command_line(data, tmp_path):
    (tmp_path / "options.yaml").write_text(yaml.safe_dump({"max-steps": 2, "blr": 1e-3, "seed": 4}))
    done = msip("--data", data, "--out", tmp_path / "run", "--config", tmp_path / "options.yaml", "--seed", 5, *SMALL)
    assert done.exit_code == 0, done.output
    stored = yaml.safe_load((tmp_path / "run/run.yaml").read_text())["config"]
    assert (stored["max_steps"], stored["blr"], stored["seed"]) == (2, 1e-3, 5)


def test_wrong_option_is_a_user_error(data, tmp_path):
    done = msip("--data", data, "--out", tmp_path / "run", "--scale", "pathwise")
    assert isinstance(done.exception, RunError) and "--scale" in str(done.exception)


def test_every_option_of_a_run_is_an_option_of_the_command():
    command = typer.main.get_command(app).commands["pretrain"]
    command.make_context("pretrain", [], resilient_parsing=True)
    options = {parameter.name for parameter in command.params} - {"config", "as_json"}
    own = {name for method in METHODS.values() for name in method.options.model_fields}
    assert own == {
        *("mask_ratio", "norm_pix_loss", "decoder_embed_dim", "decoder_depth", "decoder_num_heads"),
        *("teacher", "teacher_normalisation", "out_dim", "local_crops", "local_size", "ema"),
    }
    assert options == set(PretrainConfig.model_fields) - {"options"} | own
