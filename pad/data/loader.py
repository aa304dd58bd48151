"""The order of an epoch, micro-batches of one rank, and the worker processes that read them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler

from msip.resize import warm_up
from pad.data.dataset import PretrainDataset, SampleKey


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of one epoch: a permutation of ``range(images)`` that depends on (seed, epoch) alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(images)


class EpochSampler(Sampler[list[SampleKey]]):
    """Micro-batches of one rank, epoch after epoch, from any position on.

    An effective batch is ``batch_size * accumulate * world`` consecutive images of ``epoch_order``; the images of one
    optimizer step are the same however they are split. What does not fill an effective batch at an epoch's end is
    left out (another rest each epoch).

    Args:
        images: length of the dataset.
        batch_size: images of one forward pass on one rank.
        accumulate: forward passes of one optimizer step.
        seed: of the order.
        steps: optimizer steps to yield.
        epoch: to begin with.
        start: images of that epoch (over all ranks) already used.
        rank, world: this process among how many.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        steps: int,
        seed: int,
        accumulate: int = 1,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.images, self.batch_size, self.accumulate, self.steps = images, batch_size, accumulate, steps
        self.seed, self.epoch, self.start, self.rank, self.world = seed, epoch, start, rank, world
        self.effective_batch = batch_size * accumulate * world
        self.steps_per_epoch = images // self.effective_batch

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, position, order = self.epoch, self.start, epoch_order(self.images, self.seed, self.epoch)
        for _ in range(self.steps):
            if position + self.effective_batch > self.images:
                epoch, position = epoch + 1, 0
                order = epoch_order(self.images, self.seed, epoch)
            for micro in range(self.accumulate):
                first = position + (micro * self.world + self.rank) * self.batch_size
                yield [(epoch, int(row)) for row in order[first : first + self.batch_size]]
            position += self.effective_batch


def _start_worker(_: int) -> None:
    """One thread a worker; signals are the main process's business: it finishes its step, then stops the workers."""
    _one_cv2_thread()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _one_cv2_thread() -> None:
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


def start_reading(loader: DataLoader[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Start the loader's workers; deleting the iterator stops them.

    OpenCV's thread pool is stopped first: a forked worker that inherits one waits forever for threads it does not have.
    """
    warm_up()  # so that forked workers have the machine code
    threads = cv2.getNumThreads()
    _one_cv2_thread()
    batches = iter(loader)
    if threads != 1:
        cv2.setNumThreads(threads)
    return batches


def make_loader(
    dataset: PretrainDataset,
    sampler: EpochSampler,
    *,
    workers: int,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DataLoader[dict[str, Any]]:
    """Batches in the sampler's order: ``image`` uint8 (b, 1, h, w), ``row`` and ``used`` int64 (b,), ``inputs``.

    Args:
        dataset: see ``PretrainDataset``.
        sampler: which samples, in which order.
        workers: processes that read ahead; 0 reads in this process.
        pin_memory: for asynchronous copies to a GPU.
        start_method: of the workers (``fork``, ``spawn``, ``forkserver``); the platform's default if ``None``.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=3 if workers else None,
        worker_init_fn=_start_worker,
        multiprocessing_context=multiprocessing.get_context(start_method) if workers and start_method else None,
        generator=torch.Generator(),  # the global one belongs to the model's dropout
    )
