"""FiftyOne's start, watched: left alone it waits a minute for a ``mongod`` that ended at once."""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

SERVICE = "--51-service"
"""In the command line of FiftyOne's services; the word after it names the service."""

_EVERY_S = 0.25


class DatabaseEnded(BaseException):
    """The ``mongod`` that FiftyOne started has ended. No ``Exception``: FiftyOne would go on waiting."""


@contextlib.contextmanager
def watched_start() -> Iterator[None]:
    """Raise ``DatabaseEnded`` as soon as a database service that the block starts has ended.

    What the service prints is swallowed: ``mongod`` has the reason in its log. Outside the main thread, where Python
    delivers no signals, and on Windows, which has none of one's own, nothing is watched.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGUSR1"):
        yield
        return
    before, stop = signal.signal(signal.SIGUSR1, _raise), threading.Event()
    watcher = threading.Thread(target=_watch, args=(stop,), daemon=True)
    watcher.start()
    try:
        with _silence():
            yield
    finally:
        stop.set()
        watcher.join()
        signal.signal(signal.SIGUSR1, before)


def _raise(*_: object) -> None:
    raise DatabaseEnded("mongod has ended")


def _watch(stop: threading.Event) -> None:
    import psutil

    service: psutil.Process | None = None
    while not stop.wait(_EVERY_S):
        if service is None:
            service = next(filter(_is_database, psutil.Process().children()), None)
        elif not service.is_running() or service.status() == psutil.STATUS_ZOMBIE:
            _thread.interrupt_main(signal.SIGUSR1)
            return


def _is_database(process: object) -> bool:
    import psutil

    assert isinstance(process, psutil.Process)
    with contextlib.suppress(psutil.Error):
        line = process.cmdline()
        return SERVICE in line and line[line.index(SERVICE) + 1 :][:1] == ["db"]
    return False


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Standard output and error of this process, and of those that it starts meanwhile, lead nowhere."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    try:
        for number, _ in kept:
            os.dup2(nowhere, number)
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
