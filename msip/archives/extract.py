"""From an archive (or its volumes) to files: checked, only what is wanted, each file whole or absent, repeatable."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from msip.archives.policy import Limits, Member, Meter, broken, check_member, member_path, printable
from msip.archives.reader import Reader
from msip.archives.readers import open_reader
from msip.archives.volumes import Joined, find_volumes
from msip.errors import ArchiveError, OutputError, UnsafeArchive
from msip.files import TEMPORARY_SUFFIX, free_bytes, write_errors
from msip.formatting import human_bytes
from msip.progress import Progress, silent

_MAX_NAME, _MAX_PATH = 255, 3000  # bytes; systems take 4,096, and the target folder has a path too

Wanted = Callable[[str], "bool | str | None"] | Iterable[str] | None
"""Which members are written: all (``None``), those that match one of some patterns (``*`` also matches ``/``), or those
for which a function of the member's path is true; where it returns a string, the member is written under that path."""


@dataclass
class Extraction:
    """What one call did.

    Attributes:
        written: files written now.
        present: wanted files that an earlier call had written.
        unwanted: members left in the archive.
        bytes: of the files written now.
    """

    written: int = 0
    present: int = 0
    unwanted: int = 0
    bytes: int = 0


def extract(
    archive: str | Path | Sequence[Path],
    to: str | Path,
    wanted: Wanted = None,
    *,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Extraction:
    """Unpack an archive into the folder ``to``; run again after a kill, it goes on.

    Files are written to a temporary name and renamed, with the archive's modification times; a file that is there
    with the archive's size and time is left alone. Where an archive is refused, what this call wrote is removed.

    Args:
        archive: the file, any of its volumes, or all volumes in order.
        to: folder, made where it does not exist; nothing is ever written outside it.
        wanted: see ``Wanted``.
        limits: against bombs.
        progress: of the stage ``unpack``, in bytes of the archive.

    Raises:
        UnsafeArchive: absolute paths, ``..``, links that leave the folder, devices, bombs.
        ArchiveError: broken, incomplete, encrypted, an unknown format, or a missing tool (rar).
        MissingExtra: 7z, rar or tar.zst without the extra ``archives``.
        OutputError: the disk is full, or ``to`` cannot be written.
    """
    volumes = find_volumes(Path(archive)) if isinstance(archive, (str, Path)) else [Path(path) for path in archive]
    limits = limits or Limits()
    writer = _Writer(volumes[0].name, Path(to))
    raw = Joined(volumes)
    meter = Meter(volumes[0].name, limits)
    try:
        with raw, _kept_or_removed(writer), open_reader(volumes, raw, meter) as reader:
            _check_listing(reader, meter, writer.folder, wanted)
            return _write_members(reader, meter, writer, _chooser(wanted), progress)
    finally:
        writer.close()


def _chooser(wanted: Wanted) -> Callable[[str], bool | str | None]:
    if wanted is None:
        return lambda name: True
    if callable(wanted):
        return wanted
    patterns = [wanted] if isinstance(wanted, str) else list(wanted)
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_listing(reader: Reader, meter: Meter, folder: Path, wanted: Wanted) -> None:
    """Where the format has a directory, refuse before anything is written."""
    choose, total, needed, packed = _chooser(wanted), 0, 0, reader.packed_bytes
    counted = Meter(meter.archive, meter.limits)
    for member in reader.listing():
        counted.member()
        path = check_member(meter.archive, member, meter.limits)
        total += member.size
        needed += member.size if member.kind == "file" and choose(path) else 0
    counted.check(total, packed)
    if needed > free_bytes(folder) + _present_bytes(folder):
        raise OutputError(
            f"{folder} has {human_bytes(free_bytes(folder))} free, {meter.archive} unpacks to {human_bytes(needed)}; "
            "free space or choose another folder."
        )


def _present_bytes(folder: Path) -> int:
    """What an earlier, interrupted call may have written there already."""
    if not folder.is_dir():
        return 0
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _write_members(
    reader: Reader,
    meter: Meter,
    writer: _Writer,
    choose: Callable[[str], bool | str | None],
    progress: Progress,
) -> Extraction:
    done = Extraction()
    reported = 0
    for member, chunks in reader.members():
        meter.member()
        path = check_member(meter.archive, member, meter.limits)
        chosen = choose(path) if path else False
        if member.kind == "folder" or not chosen:
            done.unwanted += member.kind != "folder"
        else:
            path = member_path(meter.archive, chosen) if isinstance(chosen, str) else path
            if writer.write(path, member, chunks):
                done.written += 1
                done.bytes += member.size
            else:
                done.present += 1
        if (consumed := reader.consumed()) > reported:
            progress("unpack", consumed - reported, reader.packed_bytes)
            reported = consumed
    progress("unpack", max(0, reader.packed_bytes - reported), reader.packed_bytes)
    return done


@contextlib.contextmanager
def _kept_or_removed(writer: _Writer) -> Iterator[None]:
    """Nothing of a refused archive stays; of a broken one the whole files do."""
    try:
        yield
    except UnsafeArchive:
        writer.remove_all()
        raise


class _Writer:
    """Files below one folder, never through a link."""

    def __init__(self, archive: str, folder: Path) -> None:
        self.archive = archive
        with write_errors(folder):
            if folder.exists() and not folder.is_dir():
                raise OutputError(f"{folder} is a file, a folder was expected; choose another one.")
            folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        # A name that no archive can know, or it could have a member of that name.
        self.temporary = self.folder / f".extract.{os.getpid()}.{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
        self._safe: set[str] = {""}
        self._written: list[str] = []
        _remove_leftovers(self.folder)

    def write(self, path: str, member: Member, chunks: Iterator[bytes]) -> bool:
        """Write one file or link; ``False`` where it was there already."""
        folder = path.rpartition("/")[0]
        if len(os.fsencode(path)) > _MAX_PATH or any(len(os.fsencode(name)) > _MAX_NAME for name in path.split("/")):
            raise ArchiveError(f"{self.archive}: the name {printable(path)!r} is too long for a file system.")
        target = self.folder / path
        with write_errors(target):
            self._make_folder(folder)
            if member.kind == "symlink":
                return self._link(target, lambda: self.temporary.symlink_to(member.target), member, path)
            if member.kind == "hardlink":
                return self._hard_link(target, member, path)
            if _is_there(target, member):
                return False
            self._write_file(target, member, chunks)
        self._written.append(path)
        return True

    def _write_file(self, target: Path, member: Member, chunks: Iterator[bytes]) -> None:
        size = 0
        with self.temporary.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
                size += len(chunk)
        if size != member.size:
            raise broken(self.archive, f"{printable(member.name)!r} has {size:,} bytes instead of {member.size:,}")
        if member.mtime is not None:
            with contextlib.suppress(OverflowError, ValueError):
                os.utime(self.temporary, (member.mtime, member.mtime))
        self.temporary.replace(target)

    def _hard_link(self, target: Path, member: Member, path: str) -> bool:
        source = member_path(self.archive, member.target)
        self._make_folder(source.rpartition("/")[0])
        first = self.folder / source
        if first.is_symlink() or not first.is_file():
            raise ArchiveError(
                f"{self.archive}: {printable(member.name)!r} is a hard link to {printable(source)!r}, which is not "
                "among the files taken; take that too."
            )
        return self._link(target, lambda: self.temporary.hardlink_to(first), member, path)

    def _link(self, target: Path, make: Callable[[], None], member: Member, path: str) -> bool:
        if member.kind == "symlink" and target.is_symlink() and str(target.readlink()) == member.target:
            return False
        if member.kind == "hardlink" and target.is_file() and target.samefile(self.folder / member.target):
            return False
        self.temporary.unlink(missing_ok=True)
        make()
        self.temporary.replace(target)
        self._written.append(path)
        return True

    def _make_folder(self, folder: str) -> None:
        """Make ``folder`` and those above it below the target, refusing to pass through a link."""
        if folder in self._safe:
            return
        names = folder.split("/")
        for depth in range(1, len(names) + 1):
            above = "/".join(names[:depth])
            path = self.folder / above
            if path.is_symlink():
                raise UnsafeArchive(f"{self.archive} is refused: it writes through the link {printable(above)!r}.")
            if path.exists() and not path.is_dir():
                raise ArchiveError(f"{self.archive}: {printable(above)!r} is both a file and a folder.")
            path.mkdir(exist_ok=True)
            self._safe.add(above)

    def remove_all(self) -> None:
        """Remove what this call has written, and the folders that are empty then."""
        for path in self._written:
            (self.folder / path).unlink(missing_ok=True)
        for folder in sorted(self._safe - {""}, key=len, reverse=True):
            with contextlib.suppress(OSError):
                (self.folder / folder).rmdir()

    def close(self) -> None:
        """Remove the temporary file."""
        self.temporary.unlink(missing_ok=True)


def _is_there(target: Path, member: Member) -> bool:
    try:
        found = target.lstat()
    except FileNotFoundError:
        return False
    if target.is_symlink() or found.st_size != member.size:
        return False
    return member.mtime is None or abs(found.st_mtime - member.mtime) < 1


def _remove_leftovers(folder: Path) -> None:
    """Temporary files of processes that were killed."""
    for path in folder.glob(f".extract.*{TEMPORARY_SUFFIX}"):
        process = path.name.split(".")[2]
        if path.is_file() and process.isdigit() and not _is_running(int(process)):
            with contextlib.suppress(PermissionError):  # of Windows: another process has it open
                path.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where signal 0 would interrupt it; but a file in use cannot be removed there
        return False
    try:
        os.kill(process, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
