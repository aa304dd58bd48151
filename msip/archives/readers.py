"""Which reader opens an archive: by its first bytes, whatever its name says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msip.archives.formats import Format, sniff
from msip.archives.movies import MovieReader
from msip.archives.parts import Joined
from msip.archives.policy import Meter
from msip.archives.rars import RarReader
from msip.archives.reader import Reader
from msip.archives.sevenzip import SevenZipReader
from msip.archives.tars import TarReader
from msip.archives.zips import ZipReader
from msip.errors import ArchiveError

READERS: dict[Format, type[Reader]] = {
    "zip": ZipReader,
    "tar": TarReader,
    "gz": TarReader,
    "bz2": TarReader,
    "xz": TarReader,
    "zst": TarReader,
    "7z": SevenZipReader,
    "rar": RarReader,
    "seq": MovieReader,
}


def open_reader(parts: Sequence[Path], raw: Joined, meter: Meter) -> Reader:
    """The reader for an archive, by its first bytes. Raises ``ArchiveError`` for a format not read here."""
    kind = sniff(parts[0])
    if kind is None and parts[-1].suffix.lower() == ".zip" and sniff(parts[-1]) is None and parts[0].stat().st_size:
        kind = "zip" if len(parts) > 1 else None
    if kind is None and ".tar" in parts[0].name.lower():
        kind = "tar"  # before 1988 there was no magic
    if kind is None:
        raise ArchiveError(
            f"{parts[0].name} is no archive that is read here ({_looks_like(parts[0])}); expected zip, tar (gz, bz2, "
            "xz, zst), 7z, rar or a .seq movie."
        )
    return READERS[kind](parts, raw, meter)


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    return f"it begins with {head[:8]!r}"
