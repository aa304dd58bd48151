"""zip, also split into volumes (.z01 ... .zip), streamed member by member by Python's own reader."""

from __future__ import annotations

import io
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msip.archives.policy import Kind, Member, Meter, broken, printable
from msip.archives.reader import CHUNK, Reader
from msip.archives.volumes import Joined, Seekable
from msip.errors import ArchiveError

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_MAX_DIRECTORY = 1 << 28  # LasHeR's 1.5 million entries need less; each takes 0.6 KiB of memory
_UNIX = 3


class ZipReader(Reader):
    """Members are read where they lie; what is not wanted is not even decompressed."""

    def __init__(self, volumes: Sequence[Path], raw: Joined, meter: Meter) -> None:
        super().__init__(volumes, raw, meter)
        self._consumed = 0
        split = len(volumes) > 1 and volumes[-1].suffix.lower() == ".zip" and volumes[0].suffix.lower() != ".001"
        try:
            file = _as_one_volume(raw) if split else io.BufferedReader(raw, CHUNK)
            _refuse_huge_directory(meter.archive, file)
            self.zip = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, struct.error, ValueError, OverflowError, EOFError, NotImplementedError) as error:
            raise broken(meter.archive, _reason(error)) from error
        self.codec = _name_codec(self.zip.infolist())

    def listing(self) -> Iterator[Member]:
        """From the directory at the archive's end."""
        for info in self.zip.infolist():
            yield self._member(info)

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """In the directory's order."""
        for info in self.zip.infolist():
            yield self._member(info), self._chunks(info)
            self._consumed += info.compress_size

    def consumed(self) -> int:
        """Packed bytes of the members passed."""
        return self._consumed

    def close(self) -> None:
        """Close the archive."""
        self.zip.close()

    def _member(self, info: zipfile.ZipInfo) -> Member:
        name, kind, target = _decoded(info, self.codec), _kind(info), ""
        if kind == "symlink":
            target = b"".join(self._chunks(info)).decode("utf-8", "replace") if info.file_size <= 4096 else "/"
        return Member(name, kind, info.file_size, info.compress_size, _mtime(info), target)

    def _chunks(self, info: zipfile.ZipInfo) -> Iterator[bytes]:
        name = printable(info.filename)
        if info.flag_bits & 1:
            raise ArchiveError(f"{self.meter.archive}: {name!r} is encrypted; unpack it by hand with its password.")
        try:
            with self.zip.open(info) as file:
                while chunk := file.read(CHUNK):
                    self.meter.unpacked(len(chunk), max(self.raw.furthest, self._consumed))
                    yield chunk
        except NotImplementedError as error:
            raise ArchiveError(
                f"{self.meter.archive}: {name!r} is packed in a way that is not read here ({error}); unpack it by hand "
                "with 7-Zip, into the same folder."
            ) from error
        except (
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            struct.error,
            ValueError,
            OverflowError,
            RuntimeError,
        ) as error:
            raise broken(self.meter.archive, f"{name!r}: {_reason(error)}") from error
        except OSError as error:
            if error.errno is not None or isinstance(error, ArchiveError):
                raise
            raise broken(self.meter.archive, f"{name!r}: {_reason(error)}") from error  # bz2 and lzma


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).rstrip(".")


def _kind(info: zipfile.ZipInfo) -> Kind:
    if info.filename.endswith(("/", "\\")):
        return "folder"
    mode = info.external_attr >> 16 if info.create_system == _UNIX else 0
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        return "symlink"
    if kind == stat.S_IFDIR:
        return "folder"
    return "file" if kind in (0, stat.S_IFREG) else "special"


def _mtime(info: zipfile.ZipInfo) -> float | None:
    """The DOS time, read as UTC: the same on every machine, which is what a rebuilt tree needs."""
    try:
        return float(time.mktime((*info.date_time, 0, 0, 0)) - time.timezone)
    except (ValueError, OverflowError):
        return None


def _name_codec(infos: list[zipfile.ZipInfo]) -> str:
    """Names without the UTF-8 flag: UTF-8 all the same, or what a Chinese Windows writes, or the standard's cp437."""
    raw = [info.orig_filename.encode("cp437") for info in infos if not info.flag_bits & 0x800]
    for codec in ("utf-8", "gb18030"):
        try:
            for name in raw:
                name.decode(codec)
        except UnicodeDecodeError:
            continue
        return codec
    return "cp437"


def _decoded(info: zipfile.ZipInfo, codec: str) -> str:
    """The name as stored: Python's reader cuts it at a NUL, which here must be seen."""
    if info.flag_bits & 0x800:
        return info.orig_filename
    return info.orig_filename.encode("cp437").decode(codec, "replace")


def _refuse_huge_directory(archive: str, file: io.BufferedIOBase | io.BufferedReader) -> None:
    """The directory is read into memory at once."""
    _, size, _ = _directory(file)
    if size > _MAX_DIRECTORY:
        raise ArchiveError(
            f"{archive}: its directory has {size:,} bytes; more than {_MAX_DIRECTORY:,} are not read; unpack it by "
            "hand with 7-Zip."
        )


def _directory(file: io.BufferedIOBase | io.BufferedReader) -> tuple[int, int, tuple[int, int]]:
    """Entries, size and (disk, offset) of the central directory, from the records at the end."""
    length = file.seek(0, io.SEEK_END)
    start = max(0, length - (1 << 16) - _END.size)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile("its directory is missing, so its end is")
    _, _, disk, _, entries, size, offset, _ = _END.unpack_from(tail, at)
    locator = start + at - _LOCATOR64.size
    if locator >= 0:
        file.seek(locator)
        signature, disk64, offset64, _ = _LOCATOR64.unpack(file.read(_LOCATOR64.size))
        if signature == b"PK\x06\x07":
            file.seek(_absolute(file, disk64, offset64))
            record = file.read(_END64.size)
            if record[:4] == b"PK\x06\x06" and len(record) == _END64.size:
                _, _, _, _, _, disk, _, entries, size, offset = _END64.unpack(record)
    return entries, size, (disk, offset)


def _absolute(file: io.BufferedIOBase | io.BufferedReader, disk: int, offset: int) -> int:
    raw = getattr(file, "raw", file)
    starts = raw.starts if isinstance(raw, Joined) else [0]
    if len(starts) <= 2:
        return offset
    if disk >= len(starts) - 1:
        raise zipfile.BadZipFile(f"it names volume {disk + 1} of {len(starts) - 1}")
    return starts[disk] + offset


class _Overlay(Seekable):
    """A file whose end, from ``cut`` on, is replaced by ``tail``."""

    def __init__(self, raw: Joined, cut: int, tail: bytes) -> None:
        self.raw, self.cut, self.tail, self.size = raw, cut, tail, cut + len(tail)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self.position >= self.cut:
            data = self.tail[self.position - self.cut :][: len(buffer)]
            buffer[: len(data)] = data
            count = len(data)
        else:
            self.raw.seek(self.position)
            count = self.raw.readinto(buffer[: self.cut - self.position])
        self.position += count
        return count


def _as_one_volume(raw: Joined) -> io.BufferedReader:
    """A split zip as an unsplit one, without joining it: its directory is rewritten with offsets into the whole."""
    plain = io.BufferedReader(raw, CHUNK)
    entries, size, (disk, offset) = _directory(plain)
    cut = _absolute(plain, disk, offset)
    if size > _MAX_DIRECTORY or cut + size > raw.size:
        raise zipfile.BadZipFile("its directory does not fit into it")
    plain.seek(cut)
    directory = _rewritten(plain.read(size), entries, plain)
    end64 = _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, entries, entries, len(directory), cut)
    locator = _LOCATOR64.pack(b"PK\x06\x07", 0, cut + len(directory), 1)
    end = _END.pack(b"PK\x05\x06", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    plain.detach()
    return io.BufferedReader(_Overlay(raw, cut, directory + end64 + locator + end), CHUNK)


def _rewritten(directory: bytes, entries: int, file: Any) -> bytes:
    """The central directory with every entry on volume 0, at its offset in the whole (as zip64)."""
    result, position = [], 0
    for _ in range(entries):
        fields = list(_ENTRY.unpack_from(directory, position))
        if fields[0] != b"PK\x01\x02":
            raise zipfile.BadZipFile("its directory is damaged")
        name_size, extra_size, comment_size = fields[10:13]
        at = position + _ENTRY.size
        name = directory[at : at + name_size]
        extra = directory[at + name_size : at + name_size + extra_size]
        position = at + name_size + extra_size + comment_size
        size, packed, offset, disk, rest = _zip64(fields, extra)
        zip64 = struct.pack("<2H3Q", 1, 24, size, packed, _absolute(file, disk, offset))
        fields[8] = fields[9] = 0xFFFFFFFF
        fields[11:14] = [len(zip64) + len(rest), 0, 0]
        fields[16] = 0xFFFFFFFF
        result.append(_ENTRY.pack(*fields) + name + zip64 + rest)
    return b"".join(result)


def _zip64(fields: list[int], extra: bytes) -> tuple[int, int, int, int, bytes]:
    """Size, packed size, offset, disk (from the zip64 field where they do not fit), and the other extra fields."""
    packed, size, disk, offset = fields[8], fields[9], fields[13], fields[16]
    rest, position = b"", 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        body = extra[position + 4 : position + 4 + length]
        if tag == 1:
            wide = io.BytesIO(body)
            size = struct.unpack("<Q", wide.read(8))[0] if size == 0xFFFFFFFF else size
            packed = struct.unpack("<Q", wide.read(8))[0] if packed == 0xFFFFFFFF else packed
            offset = struct.unpack("<Q", wide.read(8))[0] if offset == 0xFFFFFFFF else offset
            disk = struct.unpack("<L", wide.read(4))[0] if disk == 0xFFFF else disk
        else:
            rest += extra[position : position + 4 + length]
        position += 4 + length
    return size, packed, offset, disk, rest
