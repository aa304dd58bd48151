"""Does a build, or a folder of shards, still hold what it says? Files, hashes, counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msip.build_report import read_build
from msip.files import TEMPORARY_SUFFIX, sha256_file
from msip.manifest import Manifest
from msip.progress import Progress, silent
from msip.shards import INDEX_NAME, Shards, is_shards


@dataclass
class CountDifference:
    """A source whose number of images is not the corpus's."""

    source: str
    images: int
    expected: int
    causes: list[str]


@dataclass
class VerifyReport:
    """What ``msip verify`` found.

    Attributes:
        images: rows of the manifest.
        missing: stored files that are gone.
        damaged: stored files whose bytes are not those of the manifest.
        strangers: files beside the stored images that no row names.
        twice: image ids that occur more than once.
        counts: sources whose count differs from the corpus's.
        left_out: frames that the build could not use, per source (not an error here).
        of_shards: a folder of shards was checked, not a build.
    """

    images: int
    missing: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    counts: list[CountDifference] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    of_shards: bool = False

    @property
    def ok(self) -> bool:
        """Everything is as the manifest and the corpus say."""
        return not (self.missing or self.damaged or self.strangers or self.twice or self.counts)

    def as_dict(self) -> dict[str, Any]:
        """The summary that ``--json`` prints."""
        return {
            "ok": self.ok,
            "images": self.images,
            "missing": self.missing,
            "damaged": self.damaged,
            "strangers": self.strangers,
            "twice": self.twice,
            "counts": [vars(difference) for difference in self.counts],
            "left_out": self.left_out,
        }


def verify_build(out: str | Path, *, workers: int = 2, progress: Progress = silent) -> VerifyReport:
    """Check every file of a build against its manifest and corpus, or every shard against ``shards.json``.

    Args:
        out: the folder of a build or of shards.
        workers: threads that read and hash.
        progress: of the stage ``verify``, in files.

    Raises:
        ManifestError: there is no readable manifest, or the shards are not complete.
    """
    if is_shards(out):
        return _verify_shards(Path(out), workers, progress)
    manifest = Manifest.read(out)
    report = VerifyReport(len(manifest))
    paths = manifest.table.column("path").to_pylist()
    hashes = manifest.table.column("sha256").to_pylist()
    _check_files(manifest.root, paths, hashes, report, workers, progress)
    report.strangers = _strangers(manifest, set(paths))
    ids = manifest.table.column("image_id").value_counts().to_pylist()
    report.twice = [item["values"] for item in ids if item["counts"] > 1]
    _check_counts(manifest, report)
    return report


def _check_files(
    root: Path,
    paths: list[str],
    hashes: list[str],
    report: VerifyReport,
    workers: int,
    progress: Progress,
) -> None:
    progress("verify", 0, len(paths))
    with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing releases the interpreter's lock
        for path, expected, found in zip(paths, hashes, pool.map(lambda p: _hash(root / p), paths), strict=True):
            if found is None:
                report.missing.append(path)
            elif found != expected:
                report.damaged.append(path)
            progress("verify", 1, len(paths))


def _verify_shards(root: Path, workers: int, progress: Progress) -> VerifyReport:
    shards = Shards.read(root)
    report = VerifyReport(len(shards), of_shards=True)
    hashes = {entry["file"]: entry["sha256"] for entry in shards.summary["shards"]}
    if "index_sha256" in shards.summary:  # older ones lack it
        hashes[INDEX_NAME] = shards.summary["index_sha256"]
    _check_files(root, list(hashes), list(hashes.values()), report, workers, progress)
    report.strangers = sorted(path.name for path in root.glob("msip-*") if path.name not in hashes)
    ids = shards.table.column("image_id").value_counts().to_pylist()
    report.twice = [item["values"] for item in ids if item["counts"] > 1]
    return report


def _hash(path: Path) -> str | None:
    try:
        return sha256_file(path)
    except OSError:
        return None


def _strangers(manifest: Manifest, paths: set[str]) -> list[str]:
    found = []
    for source in manifest.counts():
        folder = manifest.root / source / "thermal"
        for file in folder.iterdir() if folder.is_dir() else ():
            path = f"{source}/thermal/{file.name}"
            if path not in paths and not file.name.endswith(TEMPORARY_SUFFIX):
                found.append(path)
    return sorted(found)


def _check_counts(manifest: Manifest, report: VerifyReport) -> None:
    built = (read_build(manifest.root) or {"sources": {}})["sources"]
    for source, images in manifest.counts().items():
        entry = built.get(source, {})
        if entry.get("problems"):
            report.left_out[source] = len(entry["problems"])
        expected = entry.get("expected")
        if expected is not None and expected != images:
            report.counts.append(CountDifference(source, images, expected, entry.get("causes", [])))
    for source, entry in built.items():
        if source not in manifest.counts() and entry.get("expected"):
            report.counts.append(CountDifference(source, 0, entry["expected"], entry.get("causes", [])))
