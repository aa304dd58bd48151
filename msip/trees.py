"""Raw trees are read only: a folder of this machine, or an fsspec URL (``s3://bucket/raw``), by the same few calls.

A URL becomes a ``UPath``, which has the manners of a ``pathlib.Path``; where those cost one request a file, the calls
here ask for a whole folder at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from msip.errors import MsipError, SourceError
from msip.extras import need
from msip.files import path_or_url

_STAMPS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created")


class Entry(NamedTuple):
    """What lies in a folder; links count as what they lead to."""

    name: str
    is_file: bool
    is_folder: bool


def is_remote(path: Path) -> bool:
    """Whether ``path`` is on an fsspec file system."""
    return not isinstance(path, Path)


def raw_tree(place: str | Path) -> Path:
    """A folder to read from; ``file:`` URLs are folders. Raises ``SourceError`` for a URL that fsspec cannot open."""
    if not isinstance(place, str) and is_remote(place):
        return place
    found = path_or_url(place)
    if isinstance(found, Path):
        return found
    need("s3" if found.startswith("s3:") else "remote")
    from upath import UPath

    with remote_errors(found):
        tree = UPath(found)
        tree.fs.invalidate_cache()  # an earlier build in this process may have listed it
    return cast("Path", tree)


@contextlib.contextmanager
def remote_errors(place: object) -> Iterator[None]:
    """What file systems far away raise (each its own kind), as one sentence. Raises ``SourceError``."""
    try:
        yield
    except ImportError as error:
        raise SourceError(f"{place} cannot be read: {_brief(error)}") from error
    except MsipError:
        raise
    except Exception as error:
        raise SourceError(
            f"{place} cannot be read ({_brief(error)}); check the URL, the credentials and the network, then run the "
            "same command again."
        ) from error


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def scan(folder: Path) -> Iterator[Entry]:
    """Everything in ``folder``, in no order; one request a folder for URLs."""
    if not is_remote(folder):
        with os.scandir(folder) as entries:
            for entry in entries:
                yield Entry(entry.name, entry.is_file(), entry.is_dir())
        return
    remote = cast("Any", folder)
    for info in remote.fs.ls(remote.path, detail=True):
        name = info["name"].rstrip("/").rsplit("/", 1)[-1]
        if name and info["name"].strip("/") != remote.path.strip("/"):  # some stores list a folder in itself
            yield Entry(name, info["type"] == "file", info["type"] == "directory")


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a URL, at any depth."""
    for entry in scan(folder):
        if entry.is_file:
            yield folder / entry.name
        elif entry.is_folder:
            yield from files_below(folder / entry.name)


def read_file(path: Path) -> bytes:
    """The bytes of a raw file.

    Raises ``OSError`` where the file is gone or the disk fails. What fails far away is most likely the network, and
    says nothing about the file: that is a ``SourceError``, which ends the build, and the next run goes on.
    """
    if not is_remote(path):
        return path.read_bytes()
    remote = cast("Any", path)
    with remote_errors(path):
        try:
            return bytes(remote.fs.cat_file(remote.path))  # one request; opening it would be two
        except FileNotFoundError as error:
            missing = error
    raise missing


def read_head(path: Path, count: int) -> bytes:
    """The first ``count`` bytes; none where the file cannot be read."""
    try:
        if is_remote(path):
            remote = cast("Any", path)
            return bytes(remote.fs.cat_file(remote.path, 0, count))
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""


def file_stat(path: Path) -> tuple[int, int]:
    """(bytes, time) of a file, to notice that it changed; zeros when it vanished.

    The time is the modification time in ns; of URLs a number made of whatever the store says of a version (its ETag,
    its time).
    """
    try:
        if not is_remote(path):
            status = path.stat()
            return status.st_size, status.st_mtime_ns
        remote = cast("Any", path)
        info = remote.fs.info(remote.path)
    except OSError:
        return 0, 0
    stamp = next((str(info[name]) for name in _STAMPS if info.get(name)), "")
    return int(info.get("size") or 0), int(hashlib.sha256(stamp.encode()).hexdigest()[:15], 16)
