"""TensorBoard and Weights & Biases beside metrics.jsonl; wandb's module is played by one that keeps what it gets."""

import sys
import types

import pytest
from training_runs import config, losses, make_manifest, train

from msip.errors import MissingExtra, RunError


class Fake(types.ModuleType):
    class Error(Exception):
        pass

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.Image, self.refuse = [], lambda picture: ("image", picture.shape), ""

    def init(self, **options):
        if self.refuse:
            raise self.Error(self.refuse)
        run = types.SimpleNamespace(options=options, lines=[], finished=False)
        run.log = lambda values, step: run.lines.append((step, values))
        run.finish = lambda: setattr(run, "finished", True)
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


def test_run_is_logged_there_and_continued_there(data, tmp_path, wandb):
    run = tmp_path / "run"
    train(config(data, run, epochs=1, wandb="infrared"))
    (first,) = wandb.runs
    assert first.finished and first.options["project"] == "infrared" and first.options["name"] == "run"
    assert first.options["config"]["blr"] == 3e-2
    assert [(s, v["loss"]) for s, v in first.lines if "loss" in v] == losses(run)
    assert any("scale/0" in values for _, values in first.lines)
    assert [s for s, v in first.lines if "panel" in v] == [0, 1, 2, 3]
    (run / "result.json").unlink()  # as if it had been killed before its end
    train(config(data, run, epochs=1, resume="auto"))
    assert wandb.runs[1].options["id"] == first.options["id"] and wandb.runs[1].options["project"] == "infrared"


def test_off_unless_asked(data, tmp_path, wandb):
    train(config(data, tmp_path / "run", max_steps=1))
    assert not wandb.runs


def test_refusal_and_absence_are_one_sentence(data, tmp_path, wandb, monkeypatch):
    wandb.refuse = "api_key not configured\n(no-tty)"
    with pytest.raises(RunError, match=r"refuses the run \(api_key not configured \(no-tty\)\); run `wandb login`"):
        train(config(data, tmp_path / "a", max_steps=1, wandb="infrared"))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtra, match=r"pip install 'msip-pad\[wandb\]'"):
        train(config(data, tmp_path / "b", max_steps=1, wandb="infrared"))
    assert not (tmp_path / "b").exists()


def test_tensorboard_has_the_same_losses(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(config(data, run, epochs=1))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert [(e.step, pytest.approx(e.value, rel=1e-6)) for e in events.Scalars("loss")] == losses(run)
    assert events.Images("panel")
