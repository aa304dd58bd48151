"""Runs independent tasks: in this process, or on several processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

from msip.errors import MsipError

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_IN_FLIGHT = 3
"""Per worker: enough to keep it busy, few enough that results never pile up in memory."""


def one_thread_each() -> None:
    """Keep OpenCV from starting a thread per core in each of the processes."""
    import cv2

    cv2.setNumThreads(1)


def run_tasks(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Apply ``function`` to every task; results come as they are ready, in no fixed order.

    Args:
        function: a module-level function (it travels to other processes by name).
        tasks: consumed lazily.
        workers: processes; 1 runs everything in this one.

    Raises:
        MsipError: a worker process died (usually: out of memory).
    """
    if workers <= 1:
        yield from map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=one_thread_each)
    try:
        with _without_main():
            for _ in range(workers):  # each starts a process, as none is idle yet
                pool.submit(_nothing)
        yield from _bounded(pool, function, iter(tasks), workers * TASKS_IN_FLIGHT)
    except BrokenProcessPool as error:
        raise MsipError(
            f"one of {workers} worker processes died, most likely for want of memory; "
            "finished work is kept: run the same command again with fewer --workers."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _nothing() -> None:
    pass


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Start workers without importing the caller's script again: one without a ``__main__`` guard must work too."""
    main = sys.modules["__main__"]
    saved: dict[str, object] = {n: main.__dict__[n] for n in ("__file__", "__spec__") if n in main.__dict__}
    try:
        main.__dict__.update(dict.fromkeys(saved))
        yield
    finally:
        main.__dict__.update(saved)


def _bounded(
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], tasks: Iterator[Task], limit: int
) -> Iterator[Result]:
    running: set[Future[Result]] = {pool.submit(function, task) for task in islice(tasks, limit)}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {pool.submit(function, task) for task in islice(tasks, len(done))}
        for future in done:
            yield future.result()
