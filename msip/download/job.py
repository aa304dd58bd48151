"""``msip download``: all sources, what has arrived, what failed, and what is left to a person.

RAW/archives/<source>/   what was downloaded, or put there by hand; may be deleted afterwards
RAW/<source>/            the frames
RAW/.msip/               accepted terms, and what has arrived
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msip.archives import Limits, archive_sets, extract, sniff
from msip.archives.movies import movie_name
from msip.download.hosts import AUTOMATIC, kaggle, remotes
from msip.download.terms import open_terms
from msip.download.transfer import Policy, Remote, fetch, hashes, place
from msip.errors import DownloadError, LayoutError, MsipError, OutputError
from msip.files import free_bytes, human_bytes, make_output_folder, write_json
from msip.frames import IMAGE_SUFFIXES, folder_matches, list_frames
from msip.sources import Host, Source

Progress = Callable[[str, int, int], None]
"""(stage, bytes since the last call, bytes more that are known to come)"""
Status = Literal["arrived", "here", "failed", "manual", "planned"]
_SOURCES_AT_ONCE = 4


@dataclass
class Outcome:
    """What became of one source.

    Attributes:
        status: ``arrived`` now, ``here`` before, ``failed``, ``manual`` (a person must act), or ``planned`` (dry run).
        frames: raw frames in its tree that the selection takes.
        files: what is recorded of each archive, by name.
        note: why it failed, what to do, or where the count differs.
    """

    source: str
    status: Status
    frames: int = 0
    files: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def download(
    sources: list[Source],
    raw: Path,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> list[Outcome]:
    """Bring all ``sources`` under ``raw``, several at once; one that fails does not stop the others.

    Terms must have been accepted before (``accept_terms``). Raises ``OutputError`` where the disk is too small.
    """
    job = _Job(raw, policy or Policy(), limits or Limits(), progress or (lambda stage, done, more: None))
    if dry_run:
        return [job.plan(source) for source in sources]
    if waiting := open_terms(raw, sources):
        raise DownloadError(f"the terms of {', '.join(source.name for source in waiting)} are not accepted.")
    make_output_folder(raw)
    job.refuse_full_disk(sources)
    with ThreadPoolExecutor(_SOURCES_AT_ONCE) as pool:
        return list(pool.map(job.run, sources))


@dataclass
class _Job:
    raw: Path
    policy: Policy
    limits: Limits
    progress: Progress

    def plan(self, source: Source) -> Outcome:
        if here := self._here(source):
            return here
        if not _hosts(source):
            return Outcome(source.name, "manual", note=self.instructions(source))
        hosts = ", ".join(str(host.id or host.url) for host in _hosts(source))
        return Outcome(source.name, "planned", note=f"{source.size_text} from {hosts}")

    def refuse_full_disk(self, sources: list[Source]) -> None:
        needed = 0
        for source in sources:
            names = next((host.files for host in _hosts(source)), ())
            sizes = [archive.bytes for archive in source.archives if archive.name in names]
            known = sum(size for size in sizes if isinstance(size, int))
            folder = self._folder(source)
            have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
            needed += 0 if self._here(source) else max(0, known - have)
        if needed > (free := free_bytes(self.raw)):
            raise OutputError(
                f"{self.raw} has {human_bytes(free)} free, at least {human_bytes(needed)} are to come; free space, "
                "choose another --raw, or name fewer sources."
            )

    def run(self, source: Source) -> Outcome:
        try:
            return self._here(source) or self._bring(source)
        except MsipError as error:
            return Outcome(source.name, "failed", note=str(error))
        except OSError as error:
            return Outcome(source.name, "failed", note=f"{error.filename or ''}: {error.strerror or error}".strip(": "))

    def _bring(self, source: Source) -> Outcome:
        placed = self._placed(source)
        hosts = _hosts(source)
        failures: list[str] = []
        if not placed:
            for host in hosts:
                try:
                    placed = self._from(source, host)
                    break
                except DownloadError as error:
                    failures.append(str(error))
        if not placed and failures:
            return Outcome(source.name, "failed", note=" ".join([*failures, self.instructions(source)]))
        if not placed:
            return Outcome(source.name, "manual", note=self.instructions(source))
        self._write_record(source, {"done": False, "files": placed})
        self._unpack(source)
        self._write_record(source, {"done": True, "files": placed})
        outcome = self._here(source)
        if outcome is None:
            raise LayoutError(f"{source.name}: its archives hold no frame where its layout says.")
        outcome.status, outcome.files = "arrived", placed
        return outcome

    def _folder(self, source: Source) -> Path:
        return self.raw / "archives" / source.name

    def _record(self, source: Source) -> Path:
        return self.raw / ".msip" / "sources" / f"{source.name}.json"

    def _read_record(self, source: Source) -> dict[str, Any]:
        try:
            return json.loads(self._record(source).read_text())
        except (FileNotFoundError, ValueError):
            return {}

    def _write_record(self, source: Source, record: dict[str, Any]) -> None:
        self._record(source).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._record(source), record)

    def _here(self, source: Source) -> Outcome | None:
        """A tree that an earlier run finished, or that a person has put there."""
        record = self._read_record(source)
        if record and not record["done"]:
            return None
        try:
            frames = len(list_frames(source, self.raw).frames)
        except LayoutError:
            return None
        note = ""
        if source.expected_images != "unknown" and frames < source.expected_images:
            note = f"only {frames:,} of {source.expected_images:,} frames: the tree is not complete"
        return Outcome(source.name, "here", frames, record.get("files", {}), note)

    def _from(self, source: Source, host: Host) -> dict[str, Any]:
        folder = self._folder(source)
        if host.kind == "kaggle":
            shutil.copytree(kaggle(host), folder, copy_function=place, dirs_exist_ok=True)
            return self._placed(source)
        done = self._read_record(source).get("arrived", {})
        wanted = remotes(source, host)
        self.progress("download", 0, sum(remote.size or 0 for remote in wanted))
        for remote in wanted:
            target = folder / _safe(remote.name)
            if remote.name in done and target.exists() and target.stat().st_size == done[remote.name]["bytes"]:
                self.progress("download", target.stat().st_size, 0)
                continue
            done[remote.name] = self._one(remote, target)
            self._write_record(source, {"done": False, "arrived": done})
        return done

    def _one(self, remote: Remote, target: Path) -> dict[str, Any]:
        return fetch(remote, target, self.policy, lambda count: self.progress("download", count, 0))

    def _placed(self, source: Source) -> dict[str, Any]:
        """Archives that a person has put into the folder (also under a browser's names), checked."""
        folder = self._folder(source)
        if not folder.is_dir() or "arrived" in self._read_record(source):
            return {}
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _temporary(path)]
        published = {archive.name: archive for archive in source.archives}
        expected = [set(host.files) for host in source.access.hosts if host.files]
        found: dict[str, Any] = {}
        for file in files:
            path = file
            name = next((name for name in published if same_name(path.name, name)), path.name)
            if name != path.name and not path.with_name(name).exists():
                path = path.rename(path.with_name(name))
            if name not in published and sniff(path) is None and not _slice(path):
                raise DownloadError(f"{path} is no archive or movie; remove it or fetch it again.")
            found[name] = {"bytes": path.stat().st_size, **hashes(path), "checked": [], "placed": True}
            known = published.get(name)
            if known and known.confidence == "high" and known.bytes not in ("unknown", path.stat().st_size):
                raise DownloadError(f"{path} has {path.stat().st_size:,} bytes, {known.bytes:,} were published.")
        if found and expected and set(found) & set().union(*expected):
            missing = min((sorted(names - set(found)) for names in expected if names & set(found)), key=len)
            return {} if missing else found
        return found

    def _unpack(self, source: Source) -> None:
        folder, to = self._folder(source), self.raw / source.name
        movies = source.imaging.container.startswith("seq")
        sets = archive_sets(folder)
        if not sets:
            raise DownloadError(f"{source.name}: {folder} holds no archive.")
        for parts in sets:
            if movies and sniff(parts[0]) == "seq":
                continue
            # Movies are unpacked beside their archives: only their frames belong to the tree.
            target, wanted = (folder / "movies", _movies) if movies else (to, members_of(source))
            size = sum(path.stat().st_size for path in parts)
            self.progress("unpack", 0, size)
            extract(parts, target, wanted, limits=self.limits, progress=lambda n: self.progress("unpack", n, 0))
        if movies:
            for movie in sorted(folder.rglob("*.seq")):
                self._take_frames(movie, to)

    def _take_frames(self, movie: Path, to: Path) -> None:
        name = movie_name(movie)
        if name is None:
            raise DownloadError(f"{movie}: its path does not say which set and video it is (set00/V000.seq).")
        self.progress("unpack", 0, movie.stat().st_size)
        extract([movie], to / "videos" / name, limits=self.limits, progress=lambda n: self.progress("unpack", n, 0))

    def instructions(self, source: Source) -> str:
        """What a person must do: page, code, expected files, folder."""
        pages = [_page(host) for host in source.access.hosts]
        files = ", ".join(archive.name for archive in source.archives) or "names unknown"
        return (
            f'By hand: {" or ".join(pages)}; files: {files}; put them into {self._folder(source)} (a browser\'s "(1)" '
            'or "Copy of" names are understood), or the unpacked tree into '
            f"{self.raw / source.layout.roots[0]}, and run the same command again."
        )


def _hosts(source: Source) -> list[Host]:
    return [host for host in source.access.hosts if host.kind in AUTOMATIC]


def _page(host: Host) -> str:
    if host.kind == "baidu":
        return f"https://pan.baidu.com/s/{host.id} (code {host.code})"
    if host.kind == "terabox":
        return f"the TeraBox share {host.id}" + (f" (code {host.code})" if host.code else "")
    if host.kind.startswith("google_drive"):
        kind = "drive/folders" if host.kind.endswith("folder") else "file/d"
        key = f"?resourcekey={host.resource_key}" if host.resource_key else ""
        return f"https://drive.google.com/{kind}/{host.id}{key}"
    return str(host.url or host.id)


def same_name(found: str, published: str) -> bool:
    """Whether a browser may have saved ``published`` as ``found``: ``x (1).zip``, ``Copy of x.zip``, other case."""
    name = re.sub(r"^(?:copy of|kopie von|copie de|copia de|.{1,6}副本)[ _]*", "", found, flags=re.IGNORECASE)
    name = re.sub(r" ?\(\d+\)(?=(?:\.[^.()]+)*$)", "", name)
    if name.casefold() == published.casefold():
        return True
    # where the ending of the published name is unknown
    return "." not in published and name.casefold().split(".")[0] == published.casefold()


def members_of(source: Source) -> Callable[[str], str | bool]:
    """Which members of a source's archives are its frames, and where they go: below its layout's folders, without
    whatever folders an archive has around them."""
    patterns = [pattern.split("/") for pattern in source.layout.frame_folders]

    def wanted(path: str) -> str | bool:
        parts = path.split("/")
        if Path(parts[-1]).suffix.lower() not in IMAGE_SUFFIXES or parts[-1].startswith("."):
            return False
        for pattern in patterns:
            if pattern == ["**"]:
                return True
            for start in range(len(parts)):
                if folder_matches(parts[start:-1], pattern):
                    return "/".join(parts[start:])
        return False

    return wanted


def _movies(path: str) -> bool:
    return path.lower().endswith(".seq")


def _safe(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))


def _temporary(path: Path) -> bool:
    return path.suffix in (".part", ".crdownload") or path.name.endswith(".part.json") or path.name.startswith(".")


def _slice(path: Path) -> bool:
    return re.search(r"(?:\.\d{3}|\.z\d\d|[._]?part[._-]?\w{1,3}|\.zip)$", path.name, re.IGNORECASE) is not None
