"""rar: listed by rarfile; stored members are read directly, compressed ones through one run of a system tool.

The tool writes all members behind each other into a pipe; the listing says where each ends, and its checksum proves it.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from msip.archives.formats import RAR_ADVICE, rar_tool
from msip.archives.pipe import Pipe
from msip.archives.policy import Kind, Member, Meter, broken, printable
from msip.archives.reader import CHUNK, Reader
from msip.archives.volumes import Joined
from msip.errors import ArchiveError
from msip.extras import need

_STORED = 0x30
_GLOB, _LITERAL = re.compile(r"([*?\[\]\\])"), r"\\\1"
_COMMANDS = {
    "unrar": ["p", "-inul", "-p-", "--"],
    "7zz": ["x", "-so", "-bb0", "-p", "--"],
    "7z": ["x", "-so", "-bb0", "-p", "--"],
    "bsdtar": ["-x", "--to-stdout", "-f"],
}


class RarReader(Reader):
    """Members in the archive's order; rarfile finds the other volumes itself."""

    def __init__(self, volumes: Sequence[Path], raw: Joined, meter: Meter) -> None:
        super().__init__(volumes, raw, meter)
        need("archives")
        import rarfile

        self.pipe: Pipe | None = None
        try:
            self.rar = rarfile.RarFile(str(volumes[0]))
            self.infos = self.rar.infolist()
            self.packed_bytes = sum(Path(path).stat().st_size for path in self.rar.volumelist())
        except rarfile.NeedFirstVolume as error:
            raise ArchiveError(f"{meter.archive} is not the first of its parts; give the first.") from error
        except (rarfile.Error, ValueError, IndexError, OverflowError, LookupError, OSError) as error:
            raise broken(meter.archive, str(error).rstrip(".") or type(error).__name__) from error
        if self.rar.needs_password():
            raise ArchiveError(f"{meter.archive} is encrypted; unpack it by hand with its password.")

    def listing(self) -> Iterator[Member]:
        """From the headers."""
        for info in self.infos:
            yield _member(info)

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Stored archives need no tool."""
        files = [info for info in self.infos if info.is_file()]
        if all(info.compress_type == _STORED for info in files):
            for info in self.infos:
                yield _member(info), self._stored(info)
            return
        tool = rar_tool()
        if tool is None:
            raise ArchiveError(f"{self.meter.archive} cannot be unpacked: {RAR_ADVICE}.")
        name = Path(tool).name
        left_out = _without_empty(files) if name == "bsdtar" else []
        command = [tool, *left_out, *_COMMANDS[name], str(self.volumes[0].resolve())]
        self.pipe = Pipe(command, self.meter)
        for info in self.infos:
            chunks = self._piped(info) if info.is_file() else iter(())
            yield _member(info), chunks
            for _ in chunks:  # what was not wanted still comes out of the pipe
                pass

    def _stored(self, info: Any) -> Iterator[bytes]:
        import rarfile

        try:
            with self.rar.open(info) as file:
                while chunk := file.read(CHUNK):
                    self.meter.unpacked(len(chunk), self.packed_bytes)
                    yield chunk
        except (rarfile.Error, ValueError, EOFError) as error:
            raise broken(self.meter.archive, f"{printable(info.filename)!r}: {error}") from error

    def _piped(self, info: Any) -> Iterator[bytes]:
        assert self.pipe is not None
        left, checksum = info.file_size, 0
        while left > 0 and (chunk := self.pipe.read(min(left, CHUNK))):
            left -= len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if left == 0 and info.CRC is not None and checksum != info.CRC:
                raise broken(self.meter.archive, f"{printable(info.filename)!r} has another checksum")
            yield chunk
        if left:
            raise broken(self.meter.archive, f"it ends inside {printable(info.filename)!r}")

    def consumed(self) -> int:
        """The share of what has come out."""
        return min(self.meter.bytes, self.packed_bytes)

    def close(self) -> None:
        """End the tool."""
        if self.pipe is not None:
            self.pipe.close()
        self.rar.close()


def _without_empty(files: list[Any]) -> list[str]:
    """Of an empty file in a RAR 5 archive bsdtar (libarchive 3.6.2) sometimes sends zeros without end."""
    empty = [info.filename for info in files if info.file_size == 0]
    return [f"--exclude=^{re.sub(_GLOB, _LITERAL, name)}$" for name in empty]


def _member(info: Any) -> Member:
    kind: Kind = "file"
    target = ""
    if info.is_dir():
        kind = "folder"
    elif info.is_symlink() or info.file_redir:
        kind, target = "symlink", info.file_redir[2] if info.file_redir else "/"
    elif stat.S_IFMT(info.mode or 0) not in (0, stat.S_IFREG) and info.host_os == 3:
        kind = "special"
    mtime = info.mtime.timestamp() if info.mtime else None
    size = info.file_size if kind == "file" else 0
    return Member(info.filename, kind, size or 0, info.compress_size if kind == "file" else None, mtime, target)
