"""The process that trains: its rank, its device, and how it is told to stop."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Ranks:
    """This process among those that ``torchrun`` started; the default is a single one."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """What ``torchrun`` says in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE."""
        names = {"rank": "RANK", "world": "WORLD_SIZE", "local_rank": "LOCAL_RANK", "local_world": "LOCAL_WORLD_SIZE"}
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        return cls(**{name: int(os.environ[variable]) for name, variable in names.items()})

    def agreed(self, number: int) -> int:
        """The largest number that any process has, over the CPU: nobody waits for a GPU."""
        if self.world == 1:
            return number
        shared = torch.tensor(number)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def union(self, mine: set[int]) -> set[int]:
        """What any process has, over the CPU; all must ask."""
        sets: list[set[int]] = [mine] * self.world
        if self.world > 1:
            dist.all_gather_object(sets, mine)
        return set().union(*sets)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()


@dataclass
class Stop:
    """Whether the user or the machine asked to stop: 0, or the number of the signal."""

    signal: int = 0
    _before: dict[int, Any] = field(default_factory=dict)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()  # a second signal means it

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Inside, SIGTERM and SIGINT are noted instead of obeyed, once."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            self._restore()


@contextmanager
def process_group(ranks: Ranks, device: torch.device) -> Iterator[None]:
    """Inside, the processes that ``torchrun`` started can talk; nothing to do for a single one."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if ranks.world == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
