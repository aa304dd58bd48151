"""Wall time of training, and the part of it spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Wall time of training, and the part of it spent waiting for data; saving and drawing do not count.

    On a GPU the wait is an upper bound: the device may still be busy with the steps before.
    """

    def __init__(self) -> None:
        self.window_steps = 0
        self._wait = 0.0
        self._now = self._begin = self._first = time.perf_counter()
        self._steps = 0

    def start(self) -> None:
        """Training begins now."""
        self._begin = self._first = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, data are waited for."""
        begin = time.perf_counter()
        yield
        self._wait += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count."""
        begin = time.perf_counter()
        yield
        lost = time.perf_counter() - begin
        self._begin += lost
        self._first += lost
        self._now += lost

    def step(self) -> None:
        """One optimizer step done; the first one pays for start-up and is left out of the mean."""
        self._steps += 1
        self.window_steps += 1
        self._now = time.perf_counter()
        if self._steps == 1:
            self._first = self._now

    def window(self) -> tuple[float, float]:
        """(seconds, seconds waited for data) since the last log."""
        return max(time.perf_counter() - self._begin, 1e-9), self._wait

    def next_window(self) -> None:
        """Begin the next window."""
        self._begin, self._wait, self.window_steps = time.perf_counter(), 0.0, 0

    def speed(self, images: int) -> float:
        """Images per second, for ``images`` a step."""
        if self._steps < 2:
            return 0.0
        return (self._steps - 1) * images / max(self._now - self._first, 1e-9)
