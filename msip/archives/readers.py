"""One reader a format, all alike: a listing where the format has a directory, then members with their bytes."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msip.archives.formats import sniff
from msip.archives.parts import Joined
from msip.archives.policy import Member, Meter
from msip.errors import ArchiveError

if TYPE_CHECKING:
    from typing_extensions import Self

CHUNK = 1 << 20
"""Bytes held at a time."""


class Reader(ABC):
    """An open archive.

    Attributes:
        parts: its files.
        raw: them as one.
        meter: counts what comes out.
    """

    def __init__(self, parts: Sequence[Path], raw: Joined, meter: Meter) -> None:
        self.parts, self.raw, self.meter = list(parts), raw, meter
        self.packed_bytes = raw.size

    def listing(self) -> Iterator[Member]:
        """All members, before anything is unpacked; none where the format has no directory."""
        yield from ()

    @abstractmethod
    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """All members in the archive's order; what is not read of one before the next is asked for is skipped."""

    def consumed(self) -> int:
        """Bytes of the archive dealt with so far."""
        return self.raw.furthest

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Free what the reader holds; ``raw`` is not its own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.close()


def open_reader(parts: Sequence[Path], raw: Joined, meter: Meter) -> Reader:
    """The reader for an archive, by its first bytes. Raises ``ArchiveError`` for a format not read here."""
    from msip.archives.movies import MovieReader
    from msip.archives.rars import RarReader
    from msip.archives.sevenzip import SevenZipReader
    from msip.archives.tars import TarReader
    from msip.archives.zips import ZipReader

    kind = sniff(parts[0])
    if kind is None and parts[-1].suffix.lower() == ".zip" and sniff(parts[-1]) is None and parts[0].stat().st_size:
        kind = "zip" if len(parts) > 1 else None
    classes: dict[str, type[Reader]] = {
        "zip": ZipReader,
        "7z": SevenZipReader,
        "rar": RarReader,
        "seq": MovieReader,
        **dict.fromkeys(("tar", "gz", "bz2", "xz", "zst"), TarReader),
    }
    if kind is None and ".tar" in parts[0].name.lower():
        kind = "tar"  # before 1988 there was no magic
    if kind is None:
        raise ArchiveError(
            f"{parts[0].name} is no archive that is read here ({_looks_like(parts[0])}); expected zip, tar (gz, bz2, "
            "xz, zst), 7z, rar or a .seq movie."
        )
    return classes[kind](parts, raw, meter)


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    return f"it begins with {head[:8]!r}"
