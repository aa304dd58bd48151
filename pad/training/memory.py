"""The GPU's memory: how many images fit in one pass, and what to say when they do not."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.data import default_collate

from msip.errors import RunError
from pad.config.plan import Plan
from pad.config.pretraining import PretrainConfig
from pad.data.dataset import PretrainDataset
from pad.training.blocks import BlockCalls
from pad.training.parallel import SingleProcess
from pad.training.step import Step

_log = logging.getLogger(__name__)

HEADROOM = 0.92
"""Share of the memory that a trial may use: the allocator's fragments, and the communication of several processes."""

GIB = 1 << 30


def largest_fitting(sizes: Sequence[int], fits: Callable[[int], bool]) -> int | None:
    """The largest of the rising ``sizes`` that fits: doubling the place first, then bisecting. None if none does."""
    good, bad, place = -1, len(sizes), 0
    while place < len(sizes) and fits(sizes[place]):
        good, place = place, 2 * place + 1
    bad = min(place, len(sizes))
    while bad - good > 1:
        middle = (good + bad) // 2
        if fits(sizes[middle]):
            good = middle
        else:
            bad = middle
    return sizes[good] if good >= 0 else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    words = ("can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def find_batch_size(sizes: Sequence[int], trial: Callable[[int], None]) -> int:
    """The largest of ``sizes`` whose ``trial`` does not run out of memory.

    Raises ``RunError`` if not even the smallest does.
    """
    tried: list[str] = []

    def fits(size: int) -> bool:
        try:
            trial(size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            tried.append(f"{size} too many")
            return False
        tried.append(f"{size} fit")
        return True

    found = largest_fitting(sizes, fits)
    if found is None:
        raise RunError(
            f"a pass of {sizes[0]} does not fit in the GPU's memory; give `recompute`, a smaller "
            "`model` or `image_size`, or `parallel=fsdp` on several GPUs."
        )
    _log.info(f"`batch_size=auto`: {found} ({', '.join(tried)}).")
    return found


class Trial:
    """One pass of a method with so many images, forward and backward, as training has it; nothing of it is kept.

    Memory for the optimizer's moments is set aside meanwhile. Raises ``torch.OutOfMemoryError``.
    """

    def __init__(
        self, method: Any, optimizer: Any, dataset: PretrainDataset, config: PretrainConfig, *, bf16: bool
    ) -> None:
        self.method, self.optimizer, self.config = method, optimizer, config
        self.device: torch.device = next(method.parameters()).device
        self._step = Step(SingleProcess(method, optimizer, self.device), bf16=bf16)
        self._sample = next(s for s in (dataset[0, row] for row in range(len(dataset))) if s["used"] >= 0)
        self._most = HEADROOM * sum(self._memory())

    def _memory(self) -> tuple[int, int]:
        """Bytes: free on the device, and reserved by this process already."""
        return torch.cuda.mem_get_info(self.device)[0], torch.cuda.memory_reserved(self.device)

    def __call__(self, size: int) -> None:
        """Try ``size`` images."""
        held = self._step.parallel.held.values()
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        moments = [torch.empty_like(tensor) for tensor in held for _ in range(2) if tensor not in self.optimizer.state]
        self.method.train()
        try:
            with BlockCalls(self.method, compiled=False, recomputed=self.config.recompute):
                for _ in range(2):  # the second pass finds gradients in place
                    self._step.backward(default_collate([self._sample] * size), 0)
            if torch.cuda.max_memory_reserved(self.device) > self._most:
                raise torch.OutOfMemoryError(f"{size} images leave no headroom")
        finally:
            del moments
            self._step.parallel.zero_grad()
            self.method.end_step(torch.zeros((), dtype=torch.bool, device=self.device))


def memory_ran_out(config: PretrainConfig, plan: Plan, step: int, device: torch.device) -> str:
    """One sentence or two: what was tried, and what to do."""
    had = ""
    if device.type == "cuda":
        used, all_of_it = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        had = f" ({used / GIB:.1f} GiB in use at most, the device has {all_of_it / GIB:.1f})"
    smaller = max(1, plan.batch_size // 2)
    split = f"`batch_size={smaller}` `accumulate={plan.effective_batch // (smaller * _processes(plan))}`"
    more = "" if config.recompute else ", or `recompute` (less memory, about a third more time)"
    how = "`batch_size=auto`, or " if device.type == "cuda" else ""
    again = f"; continue with `resume=auto` `out={config.out}`" if step else ""
    return (
        f"memory ran out at step {step + 1} with {plan.batch_size} images of {config.image_size} px in a pass of "
        f"{config.model}{had}. The same {plan.effective_batch:,} images a step in smaller passes: "
        f"{how}{split}{more}{again}."
    )


def _processes(plan: Plan) -> int:
    return plan.effective_batch // (plan.batch_size * plan.accumulate)
