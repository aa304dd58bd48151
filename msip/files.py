"""Files that are either whole or absent: write to a temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from msip.errors import MsipError, OutputError

TEMPORARY_SUFFIX = ".msip-tmp"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+):/+")  # one letter is a drive of Windows


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's write errors into one sentence (``OutputError``)."""
    try:
        yield
    except MsipError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            found, advice = "the disk is full", "free space or choose another folder, then run the same command again"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            found, advice = "no permission to write", "choose a folder you can write to"
        elif error.errno in (errno.ENOENT, errno.ENOTDIR):
            found, advice = "no folder can be made there", "choose another folder"
        else:
            found, advice = error.strerror or str(error), "check the path"
        raise OutputError(f"cannot write {path}: {found}; {advice}.") from error


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success fsync it and rename it to ``path``.

    On any exception the temporary file is removed and ``path`` is left as it was. ``sync=False`` leaves the flushing to
    ``sync_all``. Raises ``OutputError``.
    """
    sync = sync or not hasattr(os, "sync")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    with write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            if sync:
                sync_file(temporary)
            temporary.replace(path)
            if sync:
                sync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write ``data`` to ``path``, whole or not at all. Raises ``OutputError``."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    write_bytes(path, (text + "\n").encode())


def sync_file(path: Path) -> None:
    """Flush a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)  # Windows flushes what may be written
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries (renames) to the disk, where the system can."""
    with contextlib.suppress(OSError):
        sync_file(path)


def sync_all() -> None:
    """Flush what was written with ``sync=False``; Windows cannot, there each file was flushed on its own."""
    if hasattr(os, "sync"):
        os.sync()


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of ``data``."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, a megabyte at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def make_output_folder(path: Path) -> Path:
    """Create ``path`` and prove that files can be written in it. Raises ``OutputError``."""
    with write_errors(path):
        if path.exists() and not path.is_dir():
            raise OutputError(f"{path} is a file, a folder was expected; choose another folder.")
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-test.{os.getpid()}{TEMPORARY_SUFFIX}"
        probe.write_bytes(b"")
        probe.unlink()
    return path


@contextlib.contextmanager
def only_writer(out: Path, lock: Path, what: str) -> Iterator[None]:
    """No other process of this kind writes to ``out`` meanwhile; the lock dies with this one, whatever it started.

    Args:
        out: what the refusal names.
        lock: a file that is made, and stays.
        what: "build", say.

    Raises:
        OutputError: another process holds the lock. A file system that knows no locks refuses nothing.
    """
    with write_errors(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise OutputError(
                    f"another {what} is writing to {out}; wait for it, or choose another `out`."
                ) from error
        yield


def _lock(file: IO[str]) -> None:
    """Lock a file against other processes. Raises ``OSError`` where one of them holds the lock."""
    try:
        import fcntl
    except ImportError:
        windows: Any = importlib.import_module("msvcrt")
        windows.locking(file.fileno(), windows.LK_NBLCK, 1)
    else:  # not flock: reading processes, forked, would keep its lock for seconds after their parent was killed
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def refuse_unwritable(path: Path) -> None:
    """Raise ``OutputError`` where ``path`` plainly cannot become a folder; writes nothing."""
    existing = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise OutputError(f"{existing} is a file, a folder was expected; choose another folder.")
    if not os.access(existing, os.W_OK):
        raise OutputError(f"cannot write in {existing}: no permission to write; choose a folder you can write to.")


def free_bytes(path: Path) -> int:
    """Free space, in bytes, of the file system that holds (or will hold) ``path``."""
    existing = path
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def path_or_url(place: str | Path) -> Path | str:
    """A folder as a path, also one of a ``file:`` URL; any other fsspec URL (``s3://bucket/folder``) as text."""
    text = str(place)
    found = _URL.match(text)
    if found is None:
        return Path(place)
    if found[1] in ("file", "local"):
        return Path("/" + text[found.end() :])
    return text if "://" in text else f"{found[1]}://{text[found.end() :]}"  # a Path has one slash less


def local_path(place: str | Path) -> Path:
    """``place`` as a folder's path; URLs other than ``file:`` are an ``OutputError``."""
    found = path_or_url(place)
    if isinstance(found, Path):
        return found
    raise OutputError(
        f"{found} is a URL, and a folder is needed here: files are renamed into place and locked, which object stores "
        "cannot do; give a folder (a build goes to a URL with `msip shard OUT --to URL`)."
    )


def absolute_if_there(place: object) -> object:
    """Return a path that exists as absolute text, so that it means the same from any folder; all else as it is."""
    return str(Path(place).absolute()) if isinstance(place, str) and Path(place).exists() else place
