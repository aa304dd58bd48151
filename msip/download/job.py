"""``msip download``: all sources, what has arrived, what failed, and what is left to a person.

RAW/archives/<source>/   what was downloaded, or put there by hand; may be deleted afterwards
RAW/<source>/            the frames
RAW/.msip/               accepted terms, and what has arrived
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from msip.archives import Limits, archive_sets, extract, sniff
from msip.archives.movies import movie_name
from msip.download.hosts import AUTOMATIC, kaggle, remotes
from msip.download.shelf import KAGGLE, MOVIES, Placed, adopted, files_on_shelf, placed, same_name
from msip.download.terms import accept_terms as record_acceptance
from msip.download.terms import open_terms
from msip.download.transfer import Policy, Remote, fetch_file, place
from msip.errors import BrokenArchive, DownloadError, LayoutError, MsipError, OptionError, OutputError
from msip.extras import need
from msip.files import free_bytes, local_path, make_output_folder, write_errors, write_json
from msip.formatting import human_bytes
from msip.frames import FrameList, folder_matches, list_frames
from msip.progress import Progress, silent
from msip.radiometry.cameras import suffixes
from msip.sources import Host, Source, load_corpus, load_source

Status = Literal["arrived", "here", "incomplete", "failed", "manual", "planned"]
_SOURCES_AT_ONCE = 4
_log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of one source.

    Attributes:
        status: ``arrived`` now, ``here`` before, ``incomplete`` (fewer frames than the corpus takes), ``failed``,
            ``manual`` (a person must act), or ``planned`` (dry run).
        frames: raw frames in its tree that the selection takes.
        files: what is recorded of each archive, by name.
        note: why it failed, what to do, or where the count differs.
    """

    source: str
    status: Status
    frames: int = 0
    files: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def fetch(
    raw: str | Path,
    sources: Sequence[str] | None = None,
    *,
    corpus: str | Path = "msip",
    accept_terms: bool = False,
    dry_run: bool = False,
    max_ratio: float = 100,
    max_unpacked: float = 4,
    progress: Progress = silent,
) -> list[Outcome]:
    """Bring the raw sources of a corpus: download and unpack what can be, say what to do by hand for the rest.

    Terms that were not accepted before are logged as warnings. What has arrived is kept: call it again to go on.

    Args:
        raw: the folder for the raw sources.
        sources: names; all of the corpus by default.
        corpus: a name, or the path of a corpus file.
        accept_terms: you accept the terms that are logged.
        dry_run: say what would be done; fetch nothing.
        max_ratio: archives that unpack to more than so many to 1 are refused.
        max_unpacked: archives that unpack to more TB are refused.
        progress: of the stages ``download`` and ``unpack``, side by side, in bytes, called from several threads.

    Returns:
        What became of each source; one that fails does not stop the others.

    Raises:
        SourceError: an unknown source or corpus.
        OptionError: there are terms to accept.
        OutputError: ``raw`` cannot be written, or the disk is too small.
        MissingExtra: the extra ``download`` is not installed.
    """
    if not dry_run:
        need("download")
    raw = local_path(raw)
    wanted = [load_source(name) for name in sources or load_corpus(corpus).sources]
    waiting = open_terms(raw, wanted)
    for source in waiting:
        _log.warning("%s: %s %s", source.name, source.terms_text, source.licence.url)
    if waiting and not dry_run:
        if not accept_terms:
            names = ", ".join(source.name for source in waiting)
            raise OptionError(f"the terms of {names} are not accepted yet; read them above and add `accept_terms`.")
        record_acceptance(raw, waiting)
    limits = Limits(ratio=max_ratio, total_bytes=int(max_unpacked * 1e12))
    return download(wanted, raw, limits=limits, dry_run=dry_run, progress=progress)


def download(
    sources: list[Source],
    raw: Path,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> list[Outcome]:
    """Bring all ``sources`` under ``raw``, several at once; one that fails does not stop the others.

    Terms must have been accepted before (``accept_terms``). An interrupt ends all transfers; what has arrived is kept.
    ``progress``: of the stages ``download`` and ``unpack``, side by side, in bytes, called from several threads.
    Raises ``OutputError`` where the disk is too small.
    """
    job = _Job(raw, policy or Policy(), limits or Limits(), progress)
    if dry_run:
        return [job.plan(source) for source in sources]
    if waiting := open_terms(raw, sources):
        raise DownloadError(f"the terms of {', '.join(source.name for source in waiting)} are not accepted.")
    make_output_folder(raw)
    job.refuse_full_disk(sources)
    with ThreadPoolExecutor(_SOURCES_AT_ONCE) as pool:
        try:
            return list(pool.map(job.run, sources))
        except BaseException:
            job.stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@dataclass
class _Job:
    raw: Path
    policy: Policy
    limits: Limits
    report: Progress
    stopped: threading.Event = field(default_factory=threading.Event)
    totals: dict[tuple[str, Path], int] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def progress_of(self, path: Path) -> Progress:
        """Progress of one file, reported with the total of all. An interrupt reaches the threads here."""

        def progress(stage: str, done: int, total: int) -> None:
            if self.stopped.is_set():
                raise KeyboardInterrupt
            with self.lock:
                self.totals[stage, path] = total
                self.report(stage, done, sum(known for key, known in self.totals.items() if key[0] == stage))

        return progress

    def pause(self, seconds: float) -> None:
        if self.stopped.wait(seconds):
            raise KeyboardInterrupt

    def plan(self, source: Source) -> Outcome:
        if here := self._here(source):
            return here
        if not _hosts(source):
            return Outcome(source.name, "manual", note=self.instructions(source))
        size = "size unknown," if source.size_text == "unknown" else source.size_text
        note = f"{size} from {' or '.join(_page(host) for host in _hosts(source))}"
        if self._to_come(source) > (free := free_bytes(self.raw)):
            note += f"; only {human_bytes(free)} are free, so free space or choose another `raw`"
        return Outcome(source.name, "planned", note=note)

    def refuse_full_disk(self, sources: list[Source]) -> None:
        self._refuse(sum(self._to_come(source) for source in sources))

    def _to_come(self, source: Source) -> int:
        """Bytes that the best host would send, as far as they are known; 0 where a person brings another set."""
        names = next((host.files for host in _hosts(source)), ())
        shelf = files_on_shelf(self._folder(source))
        by_hand = shelf and not any(same_name(path.name, name) for path in shelf for name in names)
        if by_hand or self._here(source):
            return 0
        known = sum(archive.about_bytes for archive in source.archives if archive.name in names)
        return max(0, known - sum(path.stat().st_size for path in shelf))

    def _refuse(self, needed: int) -> None:
        if needed > (free := free_bytes(self.raw)):
            raise OutputError(
                f"{self.raw} has {human_bytes(free)} free, at least {human_bytes(needed)} are to come; free space, "
                "choose another `raw`, or name fewer sources."
            )

    def run(self, source: Source) -> Outcome:
        try:
            return self._here(source) or self._bring(source)
        except MsipError as error:
            return Outcome(source.name, "failed", note=str(error))
        except OSError as error:
            return Outcome(source.name, "failed", note=f"{error.filename or ''}: {error.strerror or error}".strip(": "))
        except Exception as error:  # whatever it is, the other sources go on
            return Outcome(source.name, "failed", note=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _bring(self, source: Source) -> Outcome:
        record = self._read_record(source)
        arrived = record.get("arrived", {})
        shelf = placed(source, self._folder(source), arrived | record.get("files", {}))
        files, failures = shelf.files, list[str]()
        if shelf.files and shelf.missing and not shelf.left_to_host and source.access_class != "manual":
            return Outcome(source.name, "manual", note=f"{_missing(shelf)} {self.instructions(source)}")
        if not files or shelf.left_to_host or (arrived and not source.archives):
            files, failures = self._from_hosts(source)
        if failures:
            return Outcome(source.name, "failed", note=" ".join([*failures, self.instructions(source)]))
        if not files:
            return Outcome(source.name, "manual", note=self.instructions(source))
        self._write_record(source, {"done": False, "files": files})
        self._unpack(source)
        self._write_record(source, {"done": True, "files": files})
        outcome = self._here(source)
        if outcome is None:
            folders = " or ".join(source.layout.frame_folders)
            raise LayoutError(f"its archives hold no frame in a folder {folders}. {self.instructions(source)}")
        if outcome.status == "incomplete" and shelf.missing and not shelf.left_to_host:
            outcome.note += f". {_missing(shelf)}"
        outcome.status = "arrived" if outcome.status == "here" else outcome.status
        return outcome

    def _from_hosts(self, source: Source) -> tuple[dict[str, Any], list[str]]:
        """The best host that gives all; what came, and why nothing did."""
        failures: list[str] = []
        for host in _hosts(source):
            try:
                return self._from(source, host), []
            except DownloadError as error:
                failures.append(str(error))
        return {}, failures

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
        """A tree that an earlier run finished, or that a person has put there; ``None`` where archives wait."""
        record = self._read_record(source)
        known = record.get("files", {})
        if record and (not record["done"] or self._waiting(source, known)):
            return None
        try:
            listing = list_frames(source, self.raw)
        except LayoutError:
            return None
        frames = len(listing.frames)
        few = source.expected_images != "unknown" and frames < source.expected_images
        short = _short_videos(source, listing)
        if few or short:
            note = f"only {frames:,} of {source.expected_images:,} frames: " if few else ""
            note += "the tree is not complete" + (f": {short}" if short else "")
            return Outcome(source.name, "incomplete", frames, known, note)
        return Outcome(source.name, "here", frames, known)

    def _waiting(self, source: Source, known: dict[str, Any]) -> bool:
        """Whether archives lie there that have not been unpacked."""
        folder = self._folder(source)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files_on_shelf(folder)}
        return any(known.get(name, known.get(Path(name).name, {})).get("bytes") != size for name, size in sizes.items())

    def _from(self, source: Source, host: Host) -> dict[str, Any]:
        folder = self._folder(source)
        if host.kind == "kaggle":
            return kaggle(host, folder / KAGGLE)
        done = self._read_record(source).get("arrived", {})
        wanted = remotes(source, host)
        sizes = {remote.name: remote.size or 0 for remote in wanted}
        self._refuse(sum(sizes.values()) - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
        for remote in wanted:
            self.progress_of(folder / _safe(remote.name))("download", 0, sizes[remote.name])
        for remote in wanted:
            target, size = folder / _safe(remote.name), sizes[remote.name]
            if remote.name in done and target.exists() and target.stat().st_size == done[remote.name]["bytes"]:
                self.progress_of(target)("download", size, size)
                continue
            if record := adopted(remote, target):
                self.progress_of(target)("download", size, size)
            done[remote.name] = record or self._one(remote, target)
            self._write_record(source, {"done": False, "arrived": done})
        return done

    def _one(self, remote: Remote, target: Path) -> dict[str, Any]:
        return fetch_file(remote, target, self.policy, self.progress_of(target), self.pause)

    def _unpack(self, source: Source) -> None:
        folder, to = self._folder(source), self.raw / source.name
        movies = source.imaging.container.startswith("seq")
        sets = archive_sets(folder)
        loose = take_loose(folder / KAGGLE, to, members_of(source))
        if not sets and not loose:
            raise DownloadError(f"{folder} holds no archive.")
        for parts in sets:
            if movies and sniff(parts[0]) == "seq":
                continue
            # Movies are unpacked beside their archives: only their frames belong to the tree.
            target, wanted = (folder / MOVIES, _movies) if movies else (to, members_of(source))
            with self._broken_is_removed(source, parts):
                extract(parts, target, wanted, limits=self.limits, progress=self.progress_of(parts[0]))
        if movies:
            for movie in sorted(folder.rglob("*.seq")):
                self._take_frames(source, movie, to)

    @contextlib.contextmanager
    def _broken_is_removed(self, source: Source, parts: list[Path]) -> Iterator[None]:
        """What was fetched without a checksum and turns out to be broken does not keep its final name."""
        try:
            yield
        except BrokenArchive as error:
            folder, known = self._folder(source), self._read_record(source).get("files", {})
            records = {path: known.get(path.relative_to(folder).as_posix(), {}) for path in parts}
            doubtful = [
                path
                for path, record in records.items()
                if "url" in record and not {"md5", "sha256"} & {*record["checked"]}
            ]
            for path in doubtful:
                path.unlink()
            if not doubtful:
                raise
            names = ", ".join(path.name for path in doubtful)
            raise BrokenArchive(
                f"{error} {names} came without a checksum and was removed; run the same command again to fetch it anew."
            ) from error

    def _take_frames(self, source: Source, movie: Path, to: Path) -> None:
        name = movie_name(movie)
        if name is None:
            raise DownloadError(f"{movie}: its path does not say which set and video it is (set00/V000.seq).")
        with self._broken_is_removed(source, [movie]):
            extract([movie], to / "videos" / name, limits=self.limits, progress=self.progress_of(movie))

    def instructions(self, source: Source) -> str:
        """What a person must do: page, code, expected files, folder."""
        pages = [_page(host) for host in source.access.hosts]
        files = ", ".join(archive.name for archive in source.archives) or "names unknown"
        return (
            f'By hand: {" or ".join(pages)}; files: {files}; put them into {self._folder(source)} (a browser\'s "(1)" '
            'or "Copy of" names are understood), or the unpacked tree into '
            f"{self.raw / source.layout.roots[0]}, and run the same command again."
        )


def _short_videos(source: Source, listing: FrameList) -> str:
    """Which videos have another number of frames than is published; empty where all are right, or nobody knows."""
    differing = [
        f"{name} has {listing.lengths.get(name, 0):,} of {length:,} frames"
        for name, length in source.videos.items()
        if listing.lengths.get(name, 0) != length
    ]
    more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
    return ", ".join(differing[:5]) + more


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


def _missing(shelf: Placed) -> str:
    return (
        f"{len(shelf.files)} of {len(shelf.files) + len(shelf.missing)} files are there; still missing: "
        f"{', '.join(shelf.missing)}."
    )


def members_of(source: Source) -> Callable[[str], str | bool]:
    """Which members of a source's archives are its frames, and where they go: below its layout's folders, without
    whatever folders an archive has around them."""
    patterns = [pattern.split("/") for pattern in source.layout.frame_folders]

    def wanted(path: str) -> str | bool:
        parts = path.split("/")
        if Path(parts[-1]).suffix.lower() not in suffixes() or parts[-1].startswith("."):
            return False
        for pattern in patterns:
            if pattern == ["**"]:
                return True
            for start in range(len(parts)):
                if folder_matches(parts[start:-1], pattern):
                    return "/".join(parts[start:])
        return False

    return wanted


def take_loose(folder: Path, to: Path, wanted: Callable[[str], str | bool]) -> int:
    """Put frames that came without an archive where they belong, as links where the disk can. Returns how many."""
    taken = 0
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        place_at = wanted(path.relative_to(folder).as_posix()) if path.is_file() else False
        if not place_at:
            continue
        target = to / (place_at if isinstance(place_at, str) else path.relative_to(folder))
        taken += 1
        if target.exists():
            continue
        with write_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(path)
            except OSError:
                place(path, target)
    return taken


def _movies(path: str) -> bool:
    return path.lower().endswith(".seq")


def _safe(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
