"""Between log steps nothing of a step is read from the device.

On a CPU by counting what reads a value, or makes a tensor whose size depends on values; on a GPU by torch's own
check, which turns every wait into an error.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainers import trainer_of
from training_runs import config, make_manifest

READS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "_unique2", "unique_dim", "is_nonzero"}
"""What waits for a GPU: a value for Python, or a size that depends on values."""

OPTIONS = {"max_steps": 6, "log_every": 3, "accumulate": 2, "batch_size": 4, "clip_grad": 1.0, "scale_freeze": 0.5}


class Reads(TorchDispatchMode):
    """Notes the operations of ``READS``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        masked = name.startswith("index") and any(
            isinstance(part, torch.Tensor) and part.dtype in (torch.bool, torch.uint8)
            for arg in args
            if isinstance(arg, (list, tuple))
            for part in arg
        )
        if name in READS or masked:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


def steps_under(trainer, guard) -> dict[int, object]:
    """Train with each optimizer step inside ``guard()``; what the guards returned, by step."""
    seen, step = {}, trainer._optimizer_step

    def guarded(batches, *, log):
        with guard() as found:
            step(batches, log=log)
        seen[trainer.step] = found

    trainer._optimizer_step = guarded
    trainer._reading_is_free = False  # as on a GPU
    assert trainer.run() == 0
    return seen


@pytest.mark.parametrize(
    ("method", "options"),
    [("mae", {}), ("simmim", {"max_steps": 2}), ("ibot", {"max_steps": 2, "out_dim": 16, "local_crops": 0})],
)
def test_no_value_is_read_in_a_step(data, tmp_path, method, options):
    trainer = trainer_of(config(data, tmp_path / "run", method=method, **{**OPTIONS, **options}))
    seen = steps_under(trainer, Reads)
    assert list(seen) == list(range(1, trainer.plan.steps + 1))
    assert {step: reads.seen for step, reads in seen.items()} == {step: [] for step in seen}


def test_the_count_sees_what_would_wait():
    with Reads() as reads:
        value, some = torch.ones(3), torch.tensor([True, False, True])
        float(value.sum())
        bool(value[0] > 0)
        value[some]
        torch.nonzero(value)
        value.clone().add_(1)
    assert reads.seen == ["_local_scalar_dense", "_local_scalar_dense", "index", "nonzero"]


class NoWaiting:
    """CUDA's own check: any wait for the device raises."""

    def __enter__(self) -> None:
        torch.cuda.set_sync_debug_mode("error")

    def __exit__(self, *error: object) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["mae", "simmim"])
@pytest.mark.parametrize("compiled", [False, True])
def test_no_step_waits_for_the_gpu(data, tmp_path, method, compiled):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    options = config(data, tmp_path / "run", method=method, device="cuda", compile=compiled, workers=1, **OPTIONS)
    trainer = trainer_of(options, torch.device("cuda"))
    assert list(steps_under(trainer, NoWaiting)) == [1, 2, 3, 4, 5, 6]
