"""What lies in a source's archive folder: files that a person has put there, whatever name a browser gave them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msip.archives import sniff
from msip.download.hosts import AUTOMATIC
from msip.download.transfer import Remote, hashes
from msip.errors import DownloadError
from msip.sources import Source

MOVIES, KAGGLE = "movies", "kaggle"
"""Folders beside the archives that this program makes itself."""

_COPY_OF = re.compile(r"^(?:copy of|kopie von|copie de|copia de|.{1,6}副本)[ _]*", re.IGNORECASE)
_NUMBERED = re.compile(r" ?\(\d+\)(?=(?:\.[^.()]+)*$)")


@dataclass
class Placed:
    """Archives that a person has put into the folder.

    Attributes:
        files: what is recorded of each, by its published name.
        missing: published files of the same set that are not there.
        left_to_host: the missing ones can be fetched by the program.
    """

    files: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_to_host: bool = False


def files_on_shelf(folder: Path) -> list[Path]:
    """All files of the folder that came from outside, whole ones."""
    if not folder.is_dir():
        return []
    ours = {folder / MOVIES, folder / KAGGLE}
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not _temporary(path) and not ours & set(path.parents)
    ]


def placed(source: Source, folder: Path, known: dict[str, Any]) -> Placed:
    """Recognise and check what is there; ``known`` is the record of what an earlier run has brought or checked.

    Raises ``DownloadError`` for a file that cannot be what it should be.
    """
    found: dict[str, Any] = {}
    published = {archive.name: archive for archive in source.archives}
    for file in files_on_shelf(folder):
        path = _renamed(file, list(published))
        name = path.name if path.name in published else path.relative_to(folder).as_posix()
        if known.get(name, {}).get("bytes") == path.stat().st_size:
            found[name] = known[name]
            continue
        if name not in published and sniff(path) is None and not _is_slice(path):
            raise DownloadError(f"{path} is no archive or movie; remove it or fetch it again.")
        size, archive = path.stat().st_size, published.get(name)
        if archive and archive.confidence == "high" and archive.bytes not in ("unknown", size):
            raise DownloadError(f"{path} has {size:,} bytes, {archive.bytes:,} were published; fetch it again.")
        found[name] = {"bytes": size, **hashes(path), "checked": [], "placed": True}
    return Placed(found, *_missing(source, set(found)))


def _missing(source: Source, found: set[str]) -> tuple[list[str], bool]:
    """Which files of the set that ``found`` is nearest to are not there, and whether a host serves that set."""
    sets = [(set(host.files), host.kind in AUTOMATIC) for host in source.access.hosts if host.files]
    if not sets:  # nobody says which host has which files: all that are published
        sets = [({archive.name for archive in source.archives}, False)]
    touched = [(names, automatic) for names, automatic in sets if names & found]
    if not touched:
        return [], False
    names, automatic = min(touched, key=lambda one: len(one[0] - found))
    return sorted(names - found), automatic


def adopted(remote: Remote, target: Path) -> dict[str, Any] | None:
    """The record of a file that a person has put there instead of ``remote``, if it is that file as far as is known."""
    if not target.parent.is_dir():
        return None
    for path in sorted(target.parent.iterdir()):
        if path.is_file() and not _temporary(path) and same_name(path.name, target.name):
            size = path.stat().st_size
            if remote.size not in (None, size):
                continue
            record: dict[str, Any] = {"bytes": size, **hashes(path), "checked": [], "placed": True}
            for what, expected in (("bytes", remote.size), ("md5", remote.md5), ("sha256", remote.sha256)):
                if expected == record[what]:
                    record["checked"].append(what)
                elif expected is not None and remote.sure:
                    return None
            nothing_known = (remote.size, remote.md5, remote.sha256) == (None, None, None)
            if record["checked"] or (nothing_known and sniff(path)):
                path.rename(target)
                return record
    return None


def _renamed(path: Path, published: list[str]) -> Path:
    """Give a file its published name back, where a browser has changed it."""
    plain = _plain(path.name) if path.suffix.lower() == ".seq" else path.name  # a movie's name says which it is
    name = next((name for name in published if same_name(path.name, name)), plain)
    if name == path.name or path.with_name(name).exists():
        return path
    return path.rename(path.with_name(name))


def _plain(name: str) -> str:
    return _NUMBERED.sub("", _COPY_OF.sub("", name))


def same_name(found: str, published: str) -> bool:
    """Whether a browser may have saved ``published`` as ``found``: ``x (1).zip``, ``Copy of x.zip``, other case."""
    name = _plain(found)
    if name.casefold() == published.casefold():
        return True
    # where the ending of the published name is unknown
    return "." not in published and name.casefold().split(".")[0] == published.casefold()


def _temporary(path: Path) -> bool:
    return path.suffix in (".part", ".crdownload") or path.name.endswith(".part.json") or path.name.startswith(".")


def _is_slice(path: Path) -> bool:
    return re.search(r"(?:\.\d{3}|\.z\d\d|[._]?part[._-]?\w{1,3}|\.zip)$", path.name, re.IGNORECASE) is not None
