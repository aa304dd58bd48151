"""Two processes on one machine (gloo): the same training as one, what travels between them, and exact continuation."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_runs import config, fingerprint, heard, losses, make_manifest, train

import pad.training.building
from msip.errors import RunError
from pad.adapters.bottleneck import PadConfig
from pad.data.loader import epoch_order
from pad.monitoring.monitor import Monitor

pytestmark = pytest.mark.forks

NO_DROPOUT = partial(PadConfig, dropout=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


def _rank(work: Any, rank: int, port: int) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    work(rank)


def on_two(work: Any) -> list[int]:
    """Run ``work(rank)`` in two processes of one group; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_rank, args=(work, rank, port)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    return [process.exitcode or 0 for process in ranks]


@pytest.fixture(scope="module")
def fifty(data, tmp_path_factory):
    """50 steps of 8 images without dropout: one process, and two with half of them each, sharing in both ways."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"max_steps": 50, "log_every": 1, "blr": 1e-2, "scale_freeze": 0.5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pad.training.building, "PadConfig", NO_DROPOUT)
        train(config(data, folder / "one", **options))
        for way in ("ddp", "fsdp"):
            run = config(data, folder / way, batch_size=4, parallel=way, **options)
            assert on_two(lambda rank, run=run: train(run)) == [0, 0]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_two_processes_have_the_loss_curve_of_one(fifty, way):
    one, two = losses(fifty / "one"), losses(fifty / way)
    assert len(one) == len(two) == 50
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-4)
    mine, its = (load_file(fifty / name / "adapter.safetensors") for name in ("one", way))
    for name in mine:
        torch.testing.assert_close(mine[name], its[name], rtol=2e-3, atol=2e-5)


@pytest.mark.slow
def test_checkpoints_of_shards_are_those_of_one_process(fifty):
    """Names, shapes and files; the frozen trunk bit for bit."""
    for name in ("model.safetensors", "optimizer.safetensors"):
        one, two = (load_file(fifty / run / "checkpoints/step-00000050" / name) for run in ("one", "fsdp"))
        assert {key: tensor.shape for key, tensor in one.items()} == {key: tensor.shape for key, tensor in two.items()}
    frozen = [(fifty / run / "checkpoints/frozen.safetensors").read_bytes() for run in ("one", "fsdp")]
    assert frozen[0] == frozen[1]
    panels = [sorted(path.name for path in (fifty / run / "panels").iterdir()) for run in ("one", "fsdp")]
    assert panels[0] == panels[1] and len(panels[0]) > 5
    health = [[line for line in _lines(fifty / run) if "rankme" in line] for run in ("one", "fsdp")]
    assert [line["step"] for line in health[0]] == [line["step"] for line in health[1]]


def _lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_one_signalled_process_stops_both_and_they_continue_exactly(data, tmp_path, monkeypatch, way):
    """In the middle of an epoch, between two lines of metrics, dropout on; the second process gets the signal."""
    options = {"epochs": 4, "batch_size": 4, "parallel": way, "log_every": 5}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert on_two(lambda rank: train(config(data, whole, **options))) == [0, 0]
    from pad.training.trainer import Trainer

    step = Trainer._optimizer_step

    def and_signal(self, batches, *, log):
        step(self, batches, log=log)
        if self.ranks.rank == 1 and self.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_optimizer_step", and_signal)
    assert on_two(lambda rank: os._exit(train(config(data, cut, **options)).signal)) == [signal.SIGTERM] * 2
    assert (cut / "checkpoints/step-00000004").is_dir()
    monkeypatch.setattr(Trainer, "_optimizer_step", step)
    assert on_two(lambda rank: train(config(data, cut, resume="auto", **options))) == [0, 0]
    assert fingerprint(cut) == fingerprint(whole)
    assert losses(cut) == losses(whole)


def test_images_that_only_the_second_process_cannot_read_are_named_and_counted(tmp_path):
    """Named once; counted in the metrics, the checkpoint and the result."""
    root = make_manifest(tmp_path / "data").root
    seconds = [int(row) for row in epoch_order(24, 0, 0)[4:8]]  # of the first step; the first process has 0 to 3
    for row in seconds[:2]:
        (root / f"src/thermal/{row:04d}.png").write_bytes(b"not an image")
    options = {"batch_size": 4, "epochs": 2, "log_every": 1}

    def listening(rank):
        with heard() as said:
            train(config(root, tmp_path / "run", **options))
        (tmp_path / f"said-{rank}").write_text("\n".join(said))

    assert on_two(listening) == [0, 0]
    assert (tmp_path / "said-1").read_text() == ""
    lines = (tmp_path / "said-0").read_text().splitlines()
    for row in seconds[:2]:
        assert sum(f"{row:04d}.png is damaged or cannot be read" in line for line in lines) == 1
    assert [line["unreadable"] for line in _lines(tmp_path / "run")] == [2] * 6
    assert json.loads((tmp_path / "run/result.json").read_text())["unreadable_images"] == 2
    state = json.loads((tmp_path / "run/checkpoints/step-00000006/state.json").read_text())
    assert state["unreadable"] == sorted(seconds[:2])


@pytest.mark.slow
def test_shards_continue_on_one_process(fifty, data, tmp_path, monkeypatch):
    monkeypatch.setattr(pad.training.building, "PadConfig", NO_DROPOUT)
    options = {"max_steps": 50, "log_every": 1, "blr": 1e-2, "scale_freeze": 0.5, "save_every": 20}
    advance = Monitor.advance
    monkeypatch.setattr(Monitor, "advance", lambda self: (advance(self), self._bar.n == 30 and _interrupt())[0])
    run = config(data, tmp_path / "run", batch_size=4, parallel="fsdp", **options)
    assert on_two(lambda rank: os._exit(train(run).signal)) == [signal.SIGINT] * 2
    monkeypatch.setattr(Monitor, "advance", advance)
    assert train(config(data, tmp_path / "run", resume="auto", **options)).status == "finished"
    assert [loss for _, loss in losses(tmp_path / "run")] == pytest.approx(
        [loss for _, loss in losses(fifty / "one")], rel=1e-4
    )


def _interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
def test_only_what_trains_travels_and_once_a_step(data, tmp_path, monkeypatch):
    """Bytes of all gradient buckets of DDP, counted by a communication hook."""
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

    import pad.training.parallel

    class Counting(torch.nn.parallel.DistributedDataParallel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_comm_hook(None, _count)

    def _count(state, bucket):
        if os.environ["RANK"] == "0":
            with (tmp_path / "bytes").open("a") as file:
                file.write(f"{bucket.buffer().nbytes}\n")
        return default_hooks.allreduce_hook(None, bucket)

    monkeypatch.setattr(pad.training.parallel, "DistributedDataParallel", Counting)
    monkeypatch.setattr(
        "pad.training.trainer.Trainer._rehearse", lambda self, batches: (self._set_scales(), batches)[1]
    )
    run = config(data, tmp_path / "run", max_steps=3, batch_size=2, accumulate=2, scale_freeze=1.0)
    assert on_two(lambda rank: train(run)) == [0, 0]
    trained = 0
    from safetensors import safe_open

    with safe_open(tmp_path / "run/checkpoints/step-00000003/optimizer.safetensors", "pt") as file:
        for key in file.keys():  # noqa: SIM118  # no dictionary
            trained += file.get_tensor(key).numel() if key.endswith("/exp_avg") else 0
    with safe_open(tmp_path / "run/checkpoints/frozen.safetensors", "pt") as file:
        frozen = sum(file.get_tensor(key).numel() for key in file.keys())  # noqa: SIM118
    travelled = sum(int(line) for line in (tmp_path / "bytes").read_text().splitlines())
    assert travelled == 3 * 4 * trained and frozen > trained


def test_a_method_that_cannot_be_shared_out_says_so(data, tmp_path):
    def refused(rank):
        try:
            train(config(data, tmp_path / "run", method="ibot", parallel="fsdp", batch_size=4, out_dim=16))
        except RunError as error:
            os._exit(7 if "`parallel=fsdp` cannot train IBOT" in str(error) else 8)

    assert on_two(refused) == [7, 7]
