"""tar, plain or compressed, read forward only: parts and pipes stream through it."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from msip.archives.formats import sniff
from msip.archives.policy import Kind, Member, Meter, broken, printable
from msip.archives.reader import CHUNK, Reader
from msip.archives.volumes import Joined
from msip.errors import UnsafeArchive
from msip.extras import need

_MAX_HEADER = 8 << 20
_XZ_MEMORY = 768 << 20


class Decompressor(Protocol):
    """What bz2, lzma and zstd have in common."""

    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        """At most ``max_length`` bytes."""


class _Gzip:
    """zlib's decompressor with the others' manners."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    eof = property(lambda self: self._inner.eof)
    unused_data = property(lambda self: self._inner.unused_data)
    needs_input = property(lambda self: not self._inner.unconsumed_tail and not self._inner.eof)

    def decompress(self, data: bytes, max_length: int = 0) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


class _Zstd:
    """zstd's decompressor, whose own error becomes a ``ValueError``. Raises ``MissingExtra``."""

    def __init__(self) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            need("archives")
            from backports import zstd
        self._inner, self._error = zstd.ZstdDecompressor(), zstd.ZstdError

    eof = property(lambda self: self._inner.eof)
    unused_data = property(lambda self: self._inner.unused_data)
    needs_input = property(lambda self: self._inner.needs_input)

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        try:
            return self._inner.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from error


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gz": _Gzip,
    "bz2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
    "zst": _Zstd,
}
_FAILURES = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)


class Unpacked(io.RawIOBase):
    """The unpacked bytes of one or several compressed streams that follow each other (gzip and zstd allow that)."""

    def __init__(self, raw: Joined, make: Callable[[], Decompressor], meter: Meter) -> None:
        self.raw, self.make, self.meter = raw, make, meter
        self.decompressor: Decompressor | None = make()
        self.pending = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Raises ``ArchiveError`` where the stream is damaged or ends early."""
        try:
            data = self._next(len(buffer))
        except _FAILURES as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise broken(self.meter.archive, f"{error or type(error).__name__}") from error
        self.meter.unpacked(len(data), self.raw.furthest)
        buffer[: len(data)] = data
        return len(data)

    def _next(self, size: int) -> bytes:
        while self.decompressor is not None:
            if self.decompressor.eof:
                self._next_stream(self.decompressor.unused_data)
                continue
            data = self.pending
            if not data and self.decompressor.needs_input:
                data = self.raw.read(CHUNK) or b""
                if not data:
                    raise EOFError("it ends before its compressed stream does; a part may be missing")
            self.pending = b""
            if result := self.decompressor.decompress(data, size):
                return result
        return b""

    def _next_stream(self, rest: bytes) -> None:
        """Another stream, or padding, which ends it."""
        rest = rest or self.raw.read(CHUNK) or b""
        padding = not rest.strip(b"\0")
        self.decompressor = None if padding else self.make()
        self.pending = b"" if padding else rest


class Forward(io.RawIOBase):
    """A stream that can be skipped forward; remembers the last block, and how much a header may take."""

    def __init__(self, stream: io.RawIOBase | io.BufferedIOBase, archive: str) -> None:
        self.stream, self.archive = stream, archive
        self.position = 0
        self.header_left: int | None = None
        self.last = b""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """Forward."""
        return True

    def tell(self) -> int:
        """The position in the stream."""
        return self.position

    def read(self, size: int | None = -1) -> bytes:
        """Exactly ``size`` bytes, fewer only at the end."""
        assert size is not None and size >= 0
        if self.header_left is not None:
            self.header_left -= size
            if self.header_left < 0:
                raise UnsafeArchive(
                    f"{self.archive} is refused: a member's header has more than {_MAX_HEADER:,} bytes."
                )
        pieces = []
        while size > 0 and (piece := self.stream.read(min(size, CHUNK))):
            pieces.append(piece)
            size -= len(piece)
        data = b"".join(pieces)
        self.position += len(data)
        self.last = data
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Skip forward."""
        if whence != io.SEEK_SET or offset < self.position:
            raise tarfile.ReadError("its headers point backwards")
        left = offset - self.position
        while left > 0 and (piece := self.stream.read(min(left, CHUNK))):
            left -= len(piece)
            self.position += len(piece)
        return self.position


class TarReader(Reader):
    """A tar has no directory: members are checked as they come."""

    def __init__(self, volumes: Sequence[Path], raw: Joined, meter: Meter) -> None:
        super().__init__(volumes, raw, meter)
        kind = sniff(volumes[0])
        make = _DECOMPRESSORS.get(kind or "tar")
        stream = Unpacked(raw, make, meter) if make else raw
        self.forward = Forward(io.BufferedReader(stream, CHUNK), meter.archive)

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """In the archive's order."""
        yield from tar_members(self.forward, self.meter.archive)


def tar_members(forward: Forward, archive: str) -> Iterator[tuple[Member, Iterator[bytes]]]:
    """The members of an unpacked tar stream."""
    try:
        forward.header_left = _MAX_HEADER
        tar = tarfile.TarFile(fileobj=forward, mode="r", errorlevel=2, encoding="utf-8")
        while True:
            forward.header_left = _MAX_HEADER
            info = tar.next()
            forward.header_left = None
            if info is None:
                break
            tar.members.clear()  # type: ignore[attr-defined]  # otherwise it remembers all of them
            yield _member(info, archive), _chunks(tar, info, archive)
    except (tarfile.TarError, ValueError, OverflowError, IndexError, EOFError, RecursionError) as error:
        raise broken(archive, (str(error) or type(error).__name__).rstrip(".")) from error
    if forward.last.strip(b"\0") or not forward.last:
        raise broken(archive, "it ends without the mark of a tar's end")


def _member(info: tarfile.TarInfo, archive: str) -> Member:
    if info.issparse():
        raise UnsafeArchive(f"{archive} is refused: its member {printable(info.name)!r} is a sparse file.")
    kinds: tuple[tuple[bool, Kind], ...] = (
        (info.isfile(), "file"),
        (info.isdir(), "folder"),
        (info.issym(), "symlink"),
        (info.islnk(), "hardlink"),
    )
    kind: Kind = next((name for is_it, name in kinds if is_it), "special")
    size = info.size if kind == "file" else 0
    if size < 0:
        raise broken(archive, f"{printable(info.name)!r} has a negative size")
    return Member(info.name, kind, size, None, float(info.mtime), info.linkname)


def _chunks(tar: tarfile.TarFile, info: tarfile.TarInfo, archive: str) -> Iterator[bytes]:
    file = tar.extractfile(info) if info.isfile() else None
    if file is None:
        return
    left = info.size
    while left > 0:
        try:
            chunk = file.read(min(left, CHUNK))
        except tarfile.ReadError:
            chunk = b""
        if not chunk:
            raise broken(archive, f"it ends inside {printable(info.name)!r}")
        left -= len(chunk)
        yield chunk
