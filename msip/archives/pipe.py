"""A child process that unpacks, in limited memory, and is ended when it hangs."""

from __future__ import annotations

import contextlib
import io
import os
import select
import subprocess
from collections.abc import Iterator

from msip.archives.policy import Meter, broken
from msip.archives.reader import CHUNK
from msip.errors import ArchiveError, BrokenArchive

SILENCE_S = 120.0
"""A child that says nothing for so long is ended."""

CANNOT = "cannot: "
"""How a child begins to say that nothing is broken, but that it cannot read such archives."""

MEMORY = 3 << 30
"""Bytes of address space that a child may ask for."""


_ANY_RATIO = 1 << 62  # packed bytes: the ratio is checked on the listing, here only the total counts


class Pipe(io.RawIOBase):
    """What a child writes, counted; silence, a bad exit and a message on standard error become an ``ArchiveError``."""

    def __init__(self, command: list[str], meter: Meter, environment: dict[str, str] | None = None) -> None:
        try:
            import resource
        except ImportError as error:  # Windows, where ``select`` does not wait for pipes either
            raise ArchiveError(
                f"{meter.archive} is unpacked by a process of limited memory, which needs Linux or macOS; unpack it by "
                "hand with 7-Zip."
            ) from error
        self.meter = meter
        self.errors = b""
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        if hasattr(resource, "prlimit"):  # Linux
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(self.process.pid, resource.RLIMIT_AS, (MEMORY, MEMORY))
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def line(self, most: int) -> bytes:
        """The first line, without its end. Raises ``ArchiveError`` where it has more than ``most`` bytes."""
        pieces, left = list[bytes](), most
        while b"\n" not in (piece := self._receive(CHUNK)) and piece:
            pieces.append(piece)
            if (left := left - len(piece)) < 0:
                self.finish()
                raise ArchiveError(f"{self.meter.archive}: its directory has more than {most:,} bytes.")
        head, _, self._rest = piece.partition(b"\n")
        return b"".join([*pieces, head])

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none at the end."""
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
        else:
            data = self._receive(size)
        self.meter.unpacked(len(data), _ANY_RATIO)
        return data

    def _receive(self, size: int) -> bytes:
        out, err = self.process.stdout, self.process.stderr
        assert out is not None and err is not None
        waiting = [out, err]
        while True:
            ready, _, _ = select.select(waiting, [], [], SILENCE_S)
            if not ready:
                self.finish()
                raise ArchiveError(
                    f"{self.meter.archive}: nothing came out of it for {SILENCE_S:.0f} seconds; unpack it by hand with "
                    "7-Zip, or fetch it again."
                )
            if err in ready:
                message = os.read(err.fileno(), CHUNK)
                self.errors = (self.errors + message)[-4096:]
                if not message:
                    waiting.remove(err)
            if out in ready:
                return os.read(out.fileno(), max(1, min(size, CHUNK)))

    def raise_failure(self) -> None:
        """Raise what the child has to say, if it ended badly."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(2.0)
        if self.process.poll() not in (None, 0):
            self._explain()

    def _explain(self) -> None:
        assert self.process.stderr is not None
        self.errors = (self.errors + (self.process.stderr.read() or b""))[-4096:]
        lines = [line for line in self.errors.decode("utf-8", "replace").splitlines() if line.strip()]
        reason = " ".join(lines[-1].split())[:200] if lines else f"its unpacker ended with {self.process.returncode}"
        if self.process.returncode < 0:
            reason = f"{CANNOT}its unpacker was ended by signal {-self.process.returncode} (memory may be short)"
        if reason.startswith(CANNOT):
            raise ArchiveError(f"{self.meter.archive}: {reason.removeprefix(CANNOT)}; unpack it by hand with 7-Zip.")
        raise broken(self.meter.archive, reason.rstrip("."))

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Prefer the child's own reason to what its broken output looks like."""
        try:
            yield
        except ArchiveError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
            if isinstance(error, BrokenArchive) and self.process.poll() not in (None, 0):
                self._explain()
            raise

    def finish(self) -> None:
        """End the child now."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End the child and close its pipes."""
        if not self.closed:
            self.finish()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        super().close()
