from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from trainers import trainer_of
from training_runs import (
    SIGKILL,
    SIGTERM,
    config,
    fingerprint,
    heard,
    losses,
    make_manifest,
    stopped_after,
    train,
    train_and_signal,
)

from msip.errors import OutputError, RunError
from pad.adapters.attach import adapter_state_dict, scale_predictors
from pad.training.pretrain import _claim
from pad.training.step import Step, lr_at

pytestmark = pytest.mark.forks

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_manifest(tmp_path_factory.mktemp("data")).root


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory) -> Path:
    """Five epochs of three steps; the scales are freed after step 10 (scale_freeze 0.6: epochs 0 to 3)."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    assert train(config(data, run, epochs=5)).status == "finished"
    return run


def held(trainer) -> list[torch.Tensor]:
    return list(trainer.parallel.held.values())


def test_schedule_warms_up_from_zero_and_ends_in_a_half_cosine():
    # the reference's adjust_learning_rate for 100 epochs of 43 steps, warm-up 30 epochs, lr 1.6e-3
    def at(epoch: float) -> float:
        return lr_at(epoch * 43, lr=1.6e-3, warmup_steps=30 * 43, steps=100 * 43)

    assert at(0) == 0
    assert at(15) == pytest.approx(0.8e-3)
    assert at(30) == pytest.approx(1.6e-3)
    assert at(65) == pytest.approx(0.8e-3)
    assert at(80) == pytest.approx(1.6e-3 * 0.5 * (1 + math.cos(math.pi * 50 / 70)))
    assert at(100) == pytest.approx(0, abs=1e-12)
    assert lr_at(0, lr=1.0, warmup_steps=0, steps=10) == 1.0


def test_learning_rate_is_set_before_each_step(data, tmp_path, monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def record(self, *args, **kwargs):
        seen.append([(group["lr"], group["lr_scale"]) for group in self.param_groups])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    train(config(data, tmp_path / "run", epochs=2, warmup_epochs=1))
    peak = 3e-2 * 8 / 256
    expected = [0, peak / 3, peak * 2 / 3, *(peak * 0.5 * (1 + math.cos(math.pi * k / 3)) for k in range(3))]
    for groups, lr in zip(seen, expected, strict=True):
        assert all(value == pytest.approx(lr * scale) for value, scale in groups)


def test_loss_falls(data, tmp_path):
    train(config(data, tmp_path / "run", epochs=20, blr=0.1, log_every=1, norm_pix_loss=False))
    values = [loss for _, loss in losses(tmp_path / "run")]
    assert len(values) == 60
    assert np.mean(values[-5:]) < 0.85 * np.mean(values[:5])


def test_only_what_the_paradigm_says_changes(data, tmp_path):
    trainer = trainer_of(config(data, tmp_path / "run", epochs=2))
    encoder = trainer.method.encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    trainer.run()
    adapters = adapter_state_dict(encoder)
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name not in adapters)
    assert any(not torch.equal(before[name], after[name]) for name in adapters)


def test_scales_are_frozen_as_long_as_asked(data, tmp_path, monkeypatch):
    trainer = trainer_of(config(data, tmp_path / "run", epochs=5))
    scales = [parameter for _, parameter in scale_predictors(trainer.method.encoder)]
    assert scales
    zero = []
    update = Step.update
    monkeypatch.setattr(Step, "update", lambda self, *of: (update(self, *of), zero.append(_all_zero(scales)))[0])
    trainer.run()
    # round(0.6 * 5) = 3: epochs 0 to 3 frozen, as in the reference; epoch 4 trains
    assert zero == [True] * 12 + [False] * 3


def test_learnable_scales_train_from_the_start(data, tmp_path):
    """The reference freezes ``scalar_pred`` alone."""
    trainer = trainer_of(config(data, tmp_path / "run", max_steps=4, scale="learnable", scale_freeze=1.0))
    trainer.run()
    assert all(block.adapter.scale != 0.5 for block in trainer.method.encoder.blocks)


def test_scale_freeze_counts_steps_with_max_steps(data, tmp_path, monkeypatch):
    trainer = trainer_of(config(data, tmp_path / "run", max_steps=8, scale_freeze=0.5))
    scales = [parameter for _, parameter in scale_predictors(trainer.method.encoder)]
    trains = []
    update = Step.update
    monkeypatch.setattr(
        Step, "update", lambda self, *of: (update(self, *of), trains.append(scales[0].requires_grad))[0]
    )
    trainer.run()
    assert trains == [False] * 5 + [True] * 3


def _all_zero(parameters) -> bool:
    return all(not parameter.any() for parameter in parameters)


def test_accumulated_gradients_equal_those_of_one_large_batch(data, tmp_path):
    moments = []
    for name, options in {"one": {"batch_size": 8}, "two": {"batch_size": 4, "accumulate": 2}}.items():
        trainer = trainer_of(config(data, tmp_path / name, max_steps=1, **options))
        for module in trainer.method.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        trainer.run()
        moments.append([trainer.optimizer.state[p]["exp_avg"] for p in held(trainer) if p in trainer.optimizer.state])
    assert len(moments[0]) == len(moments[1]) > 10
    for one, two in zip(*moments, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("step", "workers"), [(5, 0), (7, 2), (12, 0)])
def test_terminated_and_resumed_equals_uninterrupted(data, tmp_path, uninterrupted, step, workers):
    """Mid-epoch, with other numbers of workers, and at an epoch's end just before the scales are freed."""
    run = tmp_path / "run"
    with stopped_after(step):
        result = train(config(data, run, epochs=5))
    assert (result.status, result.signal, result.steps) == ("stopped", signal.SIGTERM, step)
    assert not (run / "adapter.safetensors").exists()
    result = train(config(data, run, epochs=5, resume="auto", workers=workers))
    assert (result.status, result.steps) == ("finished", 15)
    assert fingerprint(run) == fingerprint(uninterrupted)
    assert losses(run) == losses(uninterrupted)
    assert (run / "adapter.safetensors").read_bytes() == (uninterrupted / "adapter.safetensors").read_bytes()


def test_killed_twice_and_resumed_equals_uninterrupted(data, tmp_path, uninterrupted):
    run = tmp_path / "run"
    options = {"epochs": 5, "save_every": 2}
    assert train_and_signal(config(data, run, **options), SIGKILL, after_step=4) == -SIGKILL
    assert train_and_signal(config(data, run, resume="auto", **options), SIGKILL, after_step=8) == -SIGKILL
    assert train(config(data, run, resume="auto", **options)).status == "finished"
    assert fingerprint(run) == fingerprint(uninterrupted)
    assert losses(run) == losses(uninterrupted)


@pytest.mark.slow
def test_killed_at_five_random_moments_equals_uninterrupted(data, tmp_path, uninterrupted):
    """Whatever the process is doing: reading, computing, writing a checkpoint. `benchmarks/kills.py` kills twenty."""
    run, draw = tmp_path / "run", np.random.default_rng(20)
    options = {"epochs": 5, "save_every": 2}
    for after in (2, 4, 6, 8, 10):
        resumed = {**options, "workers": int(draw.integers(3))} | ({"resume": "auto"} if after > 2 else {})
        wait = float(draw.uniform(0, 0.06))  # a step takes about 0.03 s
        assert train_and_signal(config(data, run, **resumed), SIGKILL, after_step=after, wait=wait) == -SIGKILL
    assert train(config(data, run, resume="auto", **options)).status == "finished"
    assert fingerprint(run) == fingerprint(uninterrupted)
    assert losses(run) == losses(uninterrupted)


def test_group_terminated_with_workers_stops_cleanly(data, tmp_path, uninterrupted):
    """A scheduler signals the workers too: they leave that to the process that trains."""
    run = tmp_path / "run"
    options = {"epochs": 5, "save_every": 2, "workers": 2}
    assert train_and_signal(config(data, run, **options), SIGTERM, after_step=2) == 128 + SIGTERM
    assert train(config(data, run, resume="auto", **{**options, "workers": 1})).status == "finished"
    assert fingerprint(run) == fingerprint(uninterrupted)


def test_run_folder(data, uninterrupted):
    run = yaml.safe_load((uninterrupted / "run.yaml").read_text())
    assert run["config"]["batch_size"] == 8 and run["config"]["preset"] is None
    assert run["plan"]["steps"] == 15 and run["plan"]["lr"] == pytest.approx(3e-2 * 8 / 256)
    assert run["data"]["images"] == 24 and len(run["data"]["manifest_sha256"]) == 64
    assert {"torch", "timm", "python"} <= run["versions"].keys()
    # 6 blocks: LayerNorm 2D, down 64 (D + 1), up D (64 + 1), scale 2D, for D = 64
    assert run["parameters"]["adapters"] == 6 * (2 * 64 + 64 * 65 + 64 * 65 + 2 * 64)
    assert run["parameters"]["trained"] > run["parameters"]["adapters"]
    metrics = [json.loads(line) for line in (uninterrupted / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, 16))
    assert {"loss", "lr", "grad_norm", "images_per_s", "data_wait", "memory_bytes", "epoch"} <= metrics[0].keys()
    assert len(metrics[-1]["scale"]) == 6 and metrics[0]["scale"] == [0.5] * 6
    assert [path.name for path in sorted((uninterrupted / "checkpoints").glob("step-*"))] == [
        "step-00000012",
        "step-00000015",
    ]
    assert any((uninterrupted / "tensorboard").iterdir())
    assert cv2.imread(str(uninterrupted / "loss.png")) is not None
    assert json.loads((uninterrupted / "result.json").read_text())["status"] == "finished"


def test_panels_show_the_same_images_and_masks_throughout(uninterrupted):
    panels = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in sorted((uninterrupted / "panels").iterdir())]
    assert len(panels) >= 3
    gap = 4
    assert all(panel.shape == (8 * (32 + gap) - gap, 3 * (32 + gap) - gap) for panel in panels)
    first, last = panels[0], panels[-1]
    assert np.array_equal(first[:, : 2 * (32 + gap)], last[:, : 2 * (32 + gap)])
    assert not np.array_equal(first[:, 2 * (32 + gap) :], last[:, 2 * (32 + gap) :])


def test_panel_input_looks_like_the_image(data, tmp_path):
    from pad.monitoring.panels import Panels

    trainer = trainer_of(config(data, tmp_path / "run"))
    panels = Panels(trainer.dataset, 3)
    picture = panels.draw(trainer.method, torch.device("cpu"))
    crop = panels._batch["image"][0, 0].numpy()
    assert np.abs(picture[:32, :32].astype(int) - crop).max() <= 1


def test_finished_run_says_so_and_does_nothing(data, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}
    from pad.training.pretrain import pretrain

    with heard() as said:
        result = pretrain(config(data, uninterrupted, epochs=5, resume="auto"))
    assert result.status == "already finished" and result.steps == 15 and math.isfinite(result.final_loss)
    assert "finished" in said[0]
    assert before == {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*") if path.is_file()}


def test_killed_before_its_export_finishes_on_resume(data, tmp_path, uninterrupted):
    run = tmp_path / "run"
    train(config(data, run, epochs=5))
    for name in ("adapter.safetensors", "result.json"):
        (run / name).unlink()
    result = train(config(data, run, epochs=5, resume="auto"))
    assert result.status == "finished"
    assert math.isfinite(result.final_loss)
    assert (run / "adapter.safetensors").read_bytes() == (uninterrupted / "adapter.safetensors").read_bytes()


def test_a_second_process_is_kept_out_of_a_run_but_not_by_the_orphans_of_a_killed_one(data, tmp_path):
    options = config(data, tmp_path / "run", epochs=60, save_every=2, workers=2, resume="auto")
    child = multiprocessing.get_context("fork").Process(target=train, args=(options,))
    child.start()
    while not any(options.out.glob("checkpoints/step-*")):
        assert child.is_alive()
        time.sleep(0.01)
    with pytest.raises(OutputError, match=r"another pre-training is writing to .*/run; wait for it, or"):
        train(options)
    os.kill(child.pid, signal.SIGKILL)  # and not its two reading processes
    child.join()
    assert train(options).status == "finished"


def test_what_another_process_wrote_before_the_lock_is_not_overwritten(uninterrupted):
    with ExitStack() as stack, pytest.raises(RunError, match="another process has just written"):
        _claim(uninterrupted, [], stack)


def test_existing_run_is_not_touched_without_resume(data, uninterrupted):
    with pytest.raises(RunError, match=r"`resume=auto`.*another `out`"):
        train(config(data, uninterrupted, epochs=5))


def test_corrupt_images_are_replaced_named_once_and_counted(tmp_path):
    root = make_manifest(tmp_path / "data").root
    (root / "src/thermal/0005.png").write_bytes(b"not an image")
    (root / "src/thermal/0006.png").unlink()
    with heard() as said:
        result = train(config(root, tmp_path / "run", epochs=3))
    assert result.status == "finished" and result.unreadable_images == 2
    said = [line for line in said if line.startswith("warning")]
    assert len(said) == 2 and any("src/thermal/0005.png" in line for line in said)


def test_data_that_are_gone_are_one_sentence(tmp_path):
    root = make_manifest(tmp_path / "data").root
    for path in (root / "src/thermal").iterdir():
        path.unlink()
    with pytest.raises(RunError, match="msip verify") as error:
        train(config(root, tmp_path / "run"))
    assert "\n" not in str(error.value)


def test_loss_that_is_not_finite_stops_before_the_update(data, tmp_path):
    run = tmp_path / "run"
    trainer = trainer_of(config(data, run, epochs=3))
    forward, calls = trainer.method.forward, itertools.count(1)

    def poisoned(*args, **kwargs):
        output = forward(*args, **kwargs)
        if trainer.method.training and next(calls) == 2 + 6:  # the first batch is passed twice before the first step
            output.loss = output.loss * float("nan")
        return output

    trainer.method.forward = poisoned
    weights = []
    update = trainer._on_device.update
    trainer._on_device.update = lambda *of: (weights.append([p.detach().clone() for p in held(trainer)]), update(*of))
    with pytest.raises(RunError, match="step 6 ") as error:
        trainer.run()
    assert "`blr`" in str(error.value) and "\n" not in str(error.value)
    assert len(weights) == 6  # stopped at once
    assert all(torch.equal(a, b) for a, b in zip(weights[-1], held(trainer), strict=True))
    assert fingerprint(run)[0] == "step-00000005"
    report = json.loads((run / "non-finite.json").read_text())
    assert report["step"] == 5 and len(report["image_ids"]) == 8
    assert "msip replay" in str(error.value)
    assert all(not math.isnan(loss) for _, loss in losses(run))


def test_steps_after_a_bad_one_change_nothing_even_if_it_is_noticed_late(data, tmp_path):
    """On a GPU the loss is read at log steps only; until then the device itself calls the updates off."""
    trainer = trainer_of(config(data, tmp_path / "run", max_steps=2))
    step = trainer._on_device
    for parameter in held(trainer):
        parameter.grad = torch.ones_like(parameter)
    for group in trainer.optimizer.param_groups:
        group["lr"] = 0.1
    step.update(torch.tensor(1.0), 0)
    before = [parameter.detach().clone() for parameter in held(trainer)]
    step.update(torch.tensor(float("inf")), 1)
    step.update(torch.tensor(1.0), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, held(trainer), strict=True))
    assert int(step.bad) == 1 and float(step.loss_sum) == 1.0


def test_clipping_bounds_the_gradient(data, tmp_path):
    trainer = trainer_of(config(data, tmp_path / "run", max_steps=1, clip_grad=1e-3))
    trainer.run()
    gradients = [parameter.grad for parameter in held(trainer) if parameter.grad is not None]
    assert float(torch.nn.utils.get_total_norm(gradients)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("precision", "fused"), [("bf16", False), ("fp32", True)])
def test_attention_is_spelt_out_for_bf16_on_a_cpu(data, tmp_path, precision, fused):
    trainer = trainer_of(config(data, tmp_path / "run", max_steps=1, precision=precision))
    attention = [module for module in trainer.method.modules() if hasattr(module, "fused_attn")]
    backward, seen = trainer._on_device.backward, []
    trainer._on_device.backward = lambda *a, **k: (seen.append([m.fused_attn for m in attention]), backward(*a, **k))[1]
    assert trainer.run() == 0
    assert len(attention) == 7 and all(flags == [fused] * 7 for flags in seen) and seen
    assert all(module.fused_attn for module in attention)
