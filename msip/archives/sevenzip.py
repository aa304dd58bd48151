"""7z, unpacked by py7zr in a child process with limited memory, and read from its pipe as a tar stream.

The child exists because a 7z header may ask for gigabytes of tables and dictionaries; what it may ask for is then the
system's business, and a hang is ended from outside.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msip.archives.pipe import CANNOT, MEMORY, Pipe
from msip.archives.policy import Kind, Member, Meter, broken
from msip.archives.reader import CHUNK, Reader
from msip.archives.tars import Forward, tar_members
from msip.archives.volumes import Joined
from msip.extras import need

_MAX_LISTING = 1 << 29
_CHILD = "from msip.archives.sevenzip import child; child()"


class SevenZipReader(Reader):
    """The listing comes first, then the members in the archive's order."""

    def __init__(self, volumes: Sequence[Path], raw: Joined, meter: Meter) -> None:
        super().__init__(volumes, raw, meter)
        need("archives")
        self.pipe = Pipe([sys.executable, "-c", _CHILD, *map(str, volumes)], meter, child_environment())

    def listing(self) -> Iterator[Member]:
        """From the directory, which the child sends as one line of JSON."""
        line = self.pipe.line(_MAX_LISTING)
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
        sys.stderr.write(f"{_reason(error)}\n")
        sys.stderr.flush()
        os._exit(1)


def _reason(error: BaseException) -> str:
    from py7zr.exceptions import PasswordRequired, UnsupportedCompressionMethodError

    if isinstance(error, PasswordRequired):
        return f"{CANNOT}it is encrypted"
    if isinstance(error, MemoryError):
        return f"{CANNOT}it needs more than {MEMORY:,} bytes of memory"
    text = " ".join(str(error.args[-1] if error.args else error).split())[:180]
    if isinstance(error, UnsupportedCompressionMethodError):
        return f"{CANNOT}it is packed in a way that is not read here ({text})"
    return f"{type(error).__name__}: {text}"


def _limit_memory() -> None:
    import resource

    with contextlib.suppress(ValueError):  # macOS takes no limit below what a process has mapped already
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


def _send(volumes: list[Path]) -> None:
    import py7zr

    out = sys.stdout.buffer
    with io.BufferedReader(Joined(volumes), CHUNK) as file, py7zr.SevenZipFile(file) as archive:
        if archive.needs_password():
            raise py7zr.exceptions.PasswordRequired("it is encrypted")
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
