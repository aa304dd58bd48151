"""Archives that come in parts: which files belong together, and reading them as one without joining them."""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from msip.archives.formats import sniff
from msip.errors import ArchiveError

_LETTERS = re.compile(r"(?P<head>.*(?:[._-]|part))(?P<number>[a-z]{2})")  # x.tar.gz.part.aa, x.7z.partaa, x.tar.ab
_DIGITS = re.compile(r"(?P<head>.*\.)(?P<number>\d{3,})(?P<tail>)", re.IGNORECASE)  # x.zip.001
_PART = re.compile(r"(?P<head>.*part[._-]?)(?P<number>\d+)(?P<tail>(?:\.[a-z0-9]+)*)", re.IGNORECASE)  # x_part1.tar.gz
_ZIP_VOLUME = re.compile(r"(?P<head>.*\.z)(?P<number>\d{2,})", re.IGNORECASE)  # x.z01 ... x.zip
_OLD_RAR = re.compile(r"(?P<head>.*\.)r(?P<number>\d{2,})", re.IGNORECASE)  # x.rar, x.r00 ...


class Seekable(io.RawIOBase):
    """A stream of known ``size`` in bytes that is read from any ``position``."""

    size: int
    position = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file's."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError("negative seek position")
        self.position = base + offset
        return self.position

    def tell(self) -> int:
        """The position in the whole."""
        return self.position


class Joined(Seekable):
    """Several files read as one, seekable, opened one at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self.starts = [0, *accumulate(path.stat().st_size for path in self.paths)]
        self.size = self.starts[-1]
        self.furthest = 0
        self._index = -1
        self._file: io.FileIO | None = None

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read from the current part; fewer bytes at its end."""
        if self.position >= self.size:
            return 0
        index = bisect_right(self.starts, self.position) - 1
        if index != self._index:
            self._close_part()
            self._file, self._index = io.FileIO(self.paths[index]), index
        assert self._file is not None
        self._file.seek(self.position - self.starts[index])
        count = self._file.readinto(buffer) or 0
        self.position += count
        self.furthest = max(self.furthest, self.position)
        return count

    def close(self) -> None:
        """Close the open part."""
        self._close_part()
        super().close()

    def _close_part(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._index = None, -1


def find_volumes(archive: Path) -> list[Path]:
    """All files of the archive that ``archive`` belongs to, in the order in which they join.

    Of rar volumes only the first (their reader finds the others). Raises ``ArchiveError`` for a part that is missing.
    """
    if not archive.is_file():
        raise ArchiveError(f"{archive} does not exist; give the path of an archive, or of the first of its parts.")
    name = archive.name
    if match := _ZIP_VOLUME.fullmatch(name):
        return _split_zip(archive.parent, match["head"][:-2])
    if name.lower().endswith(".zip") and _siblings(archive.parent, name[:-4] + ".z", "", r"\d{2,}"):
        return _split_zip(archive.parent, name[:-4])
    if match := _OLD_RAR.fullmatch(name):
        return [_existing(archive.parent, match["head"] + "rar")]
    if match := _DIGITS.fullmatch(name) or _PART.fullmatch(name):
        return _numbered(archive, match)
    if match := _LETTERS.fullmatch(name):
        return _lettered(archive, match["head"])
    return [archive]


def archive_sets(folder: Path) -> list[list[Path]]:
    """The archives and movies below ``folder``: each the files that belong together. Files of other kinds are left."""
    sets, seen = [], set()
    for path in sorted(folder.rglob("*")):
        if path in seen or not path.is_file() or path.name.startswith(".") or path.suffix == ".part":
            continue
        volumes = find_volumes(path)
        seen.update(volumes)
        if path in volumes and sniff(volumes[0]) is not None:
            sets.append(volumes)
    return sets


def _siblings(folder: Path, head: str, tail: str, number: str) -> dict[str, Path]:
    """Number (as text) to file, of the files ``head + number + tail``."""
    pattern = re.compile(re.escape(head) + f"({number})" + re.escape(tail), re.IGNORECASE)
    found = {}
    for path in sorted(folder.iterdir()):
        if match := pattern.fullmatch(path.name):
            found[match[1]] = path
    return found


def _existing(folder: Path, name: str) -> Path:
    for path in folder.iterdir():
        if path.name.lower() == name.lower():
            return path
    raise _missing(folder, name)


def _missing(folder: Path, name: str) -> ArchiveError:
    return ArchiveError(f"the part {name} is missing in {folder}; all parts must lie in one folder.")


def _without_gap(folder: Path, found: dict[int, Path], first: int, name: Callable[[int], str]) -> list[Path]:
    """The files in the order of their numbers, from ``first``; ``name``: of a number. Raises ``ArchiveError``."""
    for number in range(first, max(found, default=0) + 1):
        if number not in found:
            raise _missing(folder, name(number))
    return [found[number] for number in sorted(found)]


def _split_zip(folder: Path, stem: str) -> list[Path]:
    found = {int(number): path for number, path in _siblings(folder, stem + ".z", "", r"\d{2,}").items()}
    return [*_without_gap(folder, found, 1, lambda number: f"{stem}.z{number:02d}"), _existing(folder, stem + ".zip")]


def _numbered(archive: Path, match: re.Match[str]) -> list[Path]:
    """``x.001`` slices, rar volumes, or ``part<n>`` files, which are slices unless each is an archive of its own."""
    found = _siblings(archive.parent, match["head"], match["tail"], r"\d+")
    files = {int(number): path for number, path in sorted(found.items())}
    first = min(files)
    kind = sniff(files[first])
    if kind == "rar":
        return [files[first]]
    if len(files) > 1 and _DIGITS.fullmatch(archive.name) is None and all(sniff(path) for path in files.values()):
        return [archive]
    if (kind is None or first > 1) and (first <= 1 or sniff(archive) or len(files) == 1):
        return [archive]
    head, tail, width = match["head"], match["tail"], len(match["number"])
    return _without_gap(archive.parent, files, min(first, 1), lambda number: f"{head}{number:0{width}d}{tail}")


def _lettered(archive: Path, head: str) -> list[Path]:
    found = _siblings(archive.parent, head, "", "[a-z]{2}")
    slices = {_letters_to_int(number): path for number, path in found.items() if number == number.lower()}
    if 0 not in slices and sniff(archive) is not None:
        return [archive]
    if len(slices) == 1 and sniff(archive) is None:
        return [archive]  # a name that happens to end in two letters
    return _without_gap(archive.parent, slices, 0, lambda number: head + chr(97 + number // 26) + chr(97 + number % 26))


def _letters_to_int(letters: str) -> int:
    return (ord(letters[0].lower()) - 97) * 26 + ord(letters[1].lower()) - 97
