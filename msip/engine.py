"""Runs independent tasks: in this process, on several processes of this machine, or on a Ray cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msip.errors import EngineError, MsipError
from msip.extras import need

if TYPE_CHECKING:
    from typing import Self

Task = TypeVar("Task")
Result = TypeVar("Result")
EngineName = Literal["local", "ray"]

TASKS_IN_FLIGHT = 3
"""Per worker: enough to keep it busy, few enough that results never pile up in memory."""


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def one_thread_each() -> None:
    """Keep OpenCV from starting a thread per core in each of the processes."""
    import cv2

    cv2.setNumThreads(1)


def _start_worker(interruptible: bool) -> None:
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends the worker, whose traceback would tell nothing
    one_thread_each()


@contextlib.contextmanager
def _workers_ignore_sigint() -> Iterator[None]:
    """Inside, new processes begin with SIGINT ignored: one that comes while they import prints no traceback."""
    if threading.current_thread() is not threading.main_thread():  # only that one may set signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class LocalEngine:
    """Processes of this machine: one pool for all jobs, started by the first; ``workers=1`` runs all in this process.

    A context manager: the processes end with it.
    """

    one_machine = True

    def __init__(self, workers: int) -> None:
        self.workers = min(workers, 61) if os.name == "nt" else workers  # Windows waits for 63 things at most
        self._pool: ProcessPoolExecutor | None = None

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Apply ``function`` to every task; results come as they are ready, in no fixed order.

        Args:
            function: a module-level function (it travels to other processes by name).
            tasks: consumed lazily.

        Raises:
            EngineError: a worker process died (usually: out of memory).
        """
        tasks = iter(tasks)
        first = list(islice(tasks, self.workers * TASKS_IN_FLIGHT))
        if self.workers <= 1 or not first:
            yield from map(function, first)
            yield from map(function, tasks)
            return
        pool = self._started()
        try:
            yield from _bounded(pool, function, first, tasks)
        except BrokenProcessPool as error:
            raise EngineError(
                f"one of {self.workers} worker processes died, most likely for want of memory; "
                "finished work is kept: run the same command again with fewer `workers`."
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            interruptible = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # a shell's background job ignores it
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_start_worker, initargs=(interruptible,)
            )
            with _without_main(), _workers_ignore_sigint():
                for _ in range(self.workers):  # each starts a process, as none is idle yet
                    self._pool.submit(_nothing)
        return self._pool

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


class RayEngine:
    """A Ray cluster: the one that RAY_ADDRESS names, else one that runs on this machine, else a local one is started.

    The machines of a cluster must see the raw folder and the output under the same paths (a shared file system) and
    have this package installed. ``workers`` counts only for a cluster that is started here.

    Raises:
        MissingExtra: Ray is not installed.
        EngineError: the cluster cannot be reached.
    """

    one_machine = False

    def __init__(self, workers: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere unasked
        need("ray")
        import ray

        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            self._connect(workers)
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 1)))

    def _connect(self, workers: int) -> None:
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        address = os.environ.get("RAY_ADDRESS")
        try:
            self._ray.init(address=address or "auto", **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            if address:
                raise EngineError(
                    f"no Ray cluster answers at RAY_ADDRESS={address} ({error}); start it, or unset RAY_ADDRESS."
                ) from error
            self._ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """As ``LocalEngine.run``."""
        ray = self._ray
        remote = ray.remote(num_cpus=1)(_one_task)
        tasks = iter(tasks)
        running = [remote.remote(function, task) for task in islice(tasks, self.workers * TASKS_IN_FLIGHT)]
        while running:
            done, running = ray.wait(running)
            running += [remote.remote(function, task) for task in islice(tasks, len(done))]
            for reference in done:
                try:
                    result = ray.get(reference)
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, MsipError) else error) from None
                except ray.exceptions.RayError as error:
                    raise EngineError(
                        f"a worker of the Ray cluster died ({type(error).__name__}), most likely for want of memory; "
                        "finished work is kept: run the same command again."
                    ) from error
                yield result

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._ours:
            self._ray.shutdown()


Engine = LocalEngine | RayEngine
ENGINES: dict[EngineName, type[LocalEngine] | type[RayEngine]] = {"local": LocalEngine, "ray": RayEngine}


def run_tasks(function: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """One job on processes of its own; see ``LocalEngine.run``."""
    with LocalEngine(workers) as engine:
        yield from engine.run(function, tasks)


def _one_task(function: Callable[[Task], Result], task: Task) -> Result:
    one_thread_each()
    return function(task)


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
    pool: ProcessPoolExecutor, function: Callable[[Task], Result], first: list[Task], others: Iterator[Task]
) -> Iterator[Result]:
    running: set[Future[Result]] = {pool.submit(function, task) for task in first}
    while running:
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {pool.submit(function, task) for task in islice(others, len(done))}
        for future in done:
            yield future.result()
