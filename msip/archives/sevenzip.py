"""7z, unpacked by py7zr in a child process with limited memory, and read from its pipe as a tar stream.

The child exists because a 7z header may ask for gigabytes of tables and dictionaries; what it may ask for is then the
system's business, and a hang is ended from outside.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msip.archives.parts import Joined
from msip.archives.policy import Kind, Member, Meter, broken
from msip.archives.readers import CHUNK, Reader
from msip.archives.tars import Forward, tar_members
from msip.errors import ArchiveError

SILENCE_S = 120.0
"""A child that says nothing for so long is ended."""

_MEMORY = 3 << 30
_CHILD = "from msip.archives.sevenzip import child; child()"


class SevenZipReader(Reader):
    """The listing comes first, then the members in the archive's order."""

    def __init__(self, parts: Sequence[Path], raw: Joined, meter: Meter) -> None:
        super().__init__(parts, raw, meter)
        self.pipe = Pipe([sys.executable, "-c", _CHILD, *map(str, parts)], meter, child_environment())

    def listing(self) -> Iterator[Member]:
        """From the directory, which the child sends as one line of JSON."""
        line = self.pipe.line()
        if not line:
            self.pipe.raise_failure()
        try:
            entries = json.loads(line)
        except ValueError as error:
            self.pipe.finish()
            raise broken(self.meter.archive, "its directory cannot be read") from error
        for entry in entries:
            yield Member(**entry)

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """As the child sends them."""
        with self.pipe.explained():
            yield from tar_members(Forward(self.pipe, self.meter.archive), self.meter.archive)

    def consumed(self) -> int:
        """A child does not tell; the share of what has come out."""
        return min(self.meter.bytes, self.packed_bytes)

    def close(self) -> None:
        """End the child."""
        self.pipe.close()


class Pipe(io.RawIOBase):
    """What a child writes, counted; silence, a bad exit and a message on standard error become an ``ArchiveError``."""

    def __init__(self, command: list[str], meter: Meter, environment: dict[str, str] | None = None) -> None:
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
        if hasattr(resource, "prlimit"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                resource.prlimit(self.process.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        self._rest = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def line(self) -> bytes:
        """The first line, without its end."""
        pieces = []
        while b"\n" not in (piece := self._receive(CHUNK)) and piece:
            pieces.append(piece)
        head, _, self._rest = piece.partition(b"\n")
        return b"".join([*pieces, head])

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes, none at the end."""
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
        else:
            data = self._receive(size)
        self.meter.unpacked(len(data), self.meter_packed)
        return data

    meter_packed = 1 << 62
    """The ratio is checked on the listing; here only the total counts."""

    def _receive(self, size: int) -> bytes:
        out, err = self.process.stdout, self.process.stderr
        assert out is not None and err is not None
        waiting = [out, err]
        while True:
            ready, _, _ = select.select(waiting, [], [], SILENCE_S)
            if not ready:
                self.finish()
                raise broken(self.meter.archive, f"nothing came out of it for {SILENCE_S:.0f} seconds")
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
        raise broken(self.meter.archive, reason.removeprefix("MemoryError").strip(": .") or "it needs too much memory")

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Prefer the child's own reason to what its broken output looks like."""
        try:
            yield
        except ArchiveError as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(1.0)
            if type(error) is ArchiveError and self.process.poll() not in (None, 0):
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


def child_environment() -> dict[str, str]:
    """So that the child finds this package, wherever it was imported from."""
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def child() -> None:
    """In the child: the listing as a line of JSON, then all files as a tar stream, both on standard output."""
    try:
        _limit_memory()
        _send([Path(argument) for argument in sys.argv[1:]])
    except BrokenPipeError:
        os._exit(1)
    except BaseException as error:  # whatever py7zr meets in a hostile file, the parent gets one line
        sys.stderr.write(f"{type(error).__name__}: {' '.join(str(error).split())[:180]}\n")
        sys.stderr.flush()
        os._exit(1)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _send(parts: list[Path]) -> None:
    import py7zr

    out = sys.stdout.buffer
    with io.BufferedReader(Joined(parts), CHUNK) as file, py7zr.SevenZipFile(file) as archive:
        if archive.needs_password():
            raise ValueError("it is encrypted; unpack it by hand with its password")
        members = [_member(entry) for entry in archive.files]
        out.write(json.dumps([vars(member) for member in members]).encode() + b"\n")
        out.flush()
        factory = _factory(members, out)
        archive.extractall(factory=factory)
        factory.finish()


def _member(entry: Any) -> Member:
    kind: Kind = "file"
    if entry.is_directory:
        kind = "folder"
    elif entry.is_symlink or entry.is_junction:
        kind = "symlink"
    elif entry.is_socket or (entry.st_fmt or 0) not in (0, 0o100000):
        kind = "special"
    written = entry.lastwritetime
    mtime = written.totimestamp() if written is not None else None
    target = "/" if kind == "symlink" else ""  # its target is content; such links are refused
    return Member(entry.filename, kind, 0 if kind == "folder" else entry.uncompressed, None, mtime, target)


def _factory(members: list[Member], out: Any) -> Any:
    """py7zr's way to hand over content: a writer for each file, written in the archive's order."""
    from py7zr.io import Py7zIO, WriterFactory

    by_name = {member.name: member for member in members}

    class TarWriter(Py7zIO):
        def __init__(self, member: Member) -> None:
            self.member, self.count = member, -1

        def begin(self) -> None:
            info = tarfile.TarInfo(self.member.name)
            info.size, info.mtime = self.member.size, self.member.mtime or 0
            out.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
            self.count = 0

        def write(self, s: bytes | bytearray) -> int:
            if self.count < 0:
                self.begin()
            out.write(s)
            self.count += len(s)
            return len(s)

        def close(self) -> None:
            if self.count < 0:
                self.begin()
            if self.count != self.member.size:
                raise ValueError(f"{self.member.name} has {self.count} bytes instead of {self.member.size}")
            out.write(b"\0" * (-self.count % 512))

        def read(self, size: int | None = None) -> bytes:
            return b""

        def seek(self, offset: int, whence: int = 0) -> int:
            return 0

        def flush(self) -> None:
            pass

        def size(self) -> int:
            return max(0, self.count)

    class Factory(WriterFactory):
        def create(self, filename: str) -> Py7zIO:
            return TarWriter(by_name[filename])

        def finish(self) -> None:
            out.write(b"\0" * 1024)
            out.flush()

    return Factory()
