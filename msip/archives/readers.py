"""Which reader opens an archive: by its first bytes, whatever its name says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msip.archives.formats import Format, sniff
from msip.archives.movies import MovieReader
from msip.archives.policy import Meter
from msip.archives.rars import RarReader
from msip.archives.reader import Reader
from msip.archives.sevenzip import SevenZipReader
from msip.archives.tars import TarReader
from msip.archives.volumes import Joined
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


def open_reader(volumes: Sequence[Path], raw: Joined, meter: Meter) -> Reader:
    """The reader for an archive, by its first bytes. Raises ``ArchiveError`` for a format not read here."""
    first, last = volumes[0], volumes[-1]
    kind = sniff(first)
    if kind is None and len(volumes) > 1 and last.suffix.lower() == ".zip" and not sniff(last) and first.stat().st_size:
        kind = "zip"
    if kind is None and ".tar" in first.name.lower():
        kind = "tar"  # before 1988 there was no magic
    if kind is None:
        raise ArchiveError(
            f"{first.name} is no archive that is read here ({_looks_like(first)}); expected zip, tar (gz, bz2, xz, "
            "zst), 7z, rar or a .seq movie."
        )
    return READERS[kind](volumes, raw, meter)


def _looks_like(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it is a web page"
    return f"it begins with {head[:8]!r}"
