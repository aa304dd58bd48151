"""A build curated: every image measured and compared, flags with score and reason, perhaps a lean subset.

    OUT/manifest.parquet        the column ``flags``
    OUT/curation.parquet        per image: findings, measurements, the most similar image of each relation
    OUT/subsets/NAME.parquet    which images a subset keeps
    OUT/leakage/SET.csv, .png   which images of an evaluation set are here too

Nothing is deleted. Running it again gives the same files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msip.curation import flags as rules
from msip.curation import selection
from msip.curation.fingerprint import VARIANTS, Fingerprints
from msip.curation.flags import FINDINGS, LEAKS_INTO, Earlier, Finding
from msip.curation.leakage import Leakage, find_leakage, set_names
from msip.curation.matching import RELATIONS, Leaders, Matches, best_matches, leaders
from msip.curation.measure import NUMBERS, fingerprints_of, measure
from msip.curation.near import SIMILARITY, ImagePrints
from msip.engine import LocalEngine
from msip.errors import MsipError, OptionError
from msip.files import atomic_path
from msip.manifest import Manifest, flag_name
from msip.progress import Progress, silent
from msip.subsets import subset_path, write_subset

CURATION_NAME = "curation.parquet"
_SETS = b"evaluation_sets"
_PREFIXES = dict(zip(RELATIONS, ("sequence", "source", "other_source"), strict=True))


@dataclass
class CurateReport:
    """What ``curate`` found.

    Attributes:
        images: of the build.
        similarity: from which images count as near-duplicates.
        flags: images per flag that this run gives.
        kept_flags: images per flag that others gave.
        small: images judged strictly: of so few pixels that a near-duplicate must be nearly equal.
        featureless: images that nothing but equal pixels can make a duplicate: no structure beyond rows and columns.
        near: per relation (``matching.RELATIONS``), images with a near-duplicate of that relation.
        between: (source, other source, images of the first with a near-duplicate in the second).
        leakage: per evaluation set.
        subset: its name, images, similarity, and how many were filled up; ``None`` without one.
    """

    images: int
    similarity: float
    flags: dict[str, int] = field(default_factory=dict)
    kept_flags: dict[str, int] = field(default_factory=dict)
    small: int = 0
    featureless: int = 0
    near: dict[str, int] = field(default_factory=dict)
    between: list[tuple[str, str, int]] = field(default_factory=list)
    leakage: list[Leakage] = field(default_factory=list)
    subset: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The summary that ``--json`` prints."""
        leaks = [
            {
                "set": leak.name,
                "images": leak.images,
                "leaked": len(leak.leaked),
                "exact": leak.exact,
                "images_here": len(leak.rows),
                "unreadable": leak.unreadable,
                "table": str(leak.table),
                "sheet": None if leak.sheet is None else str(leak.sheet),
            }
            for leak in self.leakage
        ]
        between = [{"source": a, "other": b, "images": n} for a, b, n in self.between]
        return vars(self) | {"leakage": leaks, "between": between}


@dataclass(frozen=True)
class SubsetRequest:
    """A subset to make: ``name``, and either ``max_similar`` or ``keep_fraction``."""

    name: str
    max_similar: float | None = None
    keep_fraction: float | None = None

    def check(self, root: Path) -> None:
        """Raise ``OptionError`` unless it can be made."""
        subset_path(root, self.name)
        if (self.max_similar is None) == (self.keep_fraction is None):
            raise OptionError(f"the subset {self.name} needs one of `max_similar` and `keep_fraction`.")
        if self.max_similar is not None and not selection.LEAST_SIMILARITY <= self.max_similar <= 1:
            raise OptionError(
                f"`max_similar` is {self.max_similar:g}, expected {selection.LEAST_SIMILARITY:g} to 1: images less "
                "alike are not near-duplicates."
            )
        if self.keep_fraction is not None and not 0 < self.keep_fraction <= 1:
            raise OptionError(f"`keep_fraction` is {self.keep_fraction:g}, expected a number above 0 and at most 1.")


def curate(
    out: str | Path,
    *,
    against: Sequence[str | Path] = (),
    similarity: float = SIMILARITY,
    flips: bool = False,
    subset: str | None = None,
    max_similar: float | None = None,
    keep_fraction: float | None = None,
    workers: int = 1,
    progress: Progress = silent,
) -> CurateReport:
    """Flag what is twice, odd or leaked in a build, and perhaps make a lean subset of it; see the module.

    Args:
        out: a build.
        against: evaluation sets: folders of images, builds or manifests.
        similarity: from which two images are near-duplicates, 0.5 to 1.
        flips: also find mirrored, turned and polarity-inverted copies, in 16 times the comparing time.
        subset: also make a lean subset of this name, for ``shard(..., subset=)``; it takes one of the two that follow.
        max_similar: no two images of the subset are more alike than this, 0.5 to 1.
        keep_fraction: the subset keeps this share of all images, above 0 and at most 1.
        workers: processes that measure, threads that compare.
        progress: of the stages ``measure``, ``against SET``, ``compare`` and ``group``, in images.

    Raises:
        ManifestError: no readable manifest.
        OptionError: options that contradict, or are out of range.
        OutputError: ``out`` cannot be written.
    """
    if not selection.LEAST_SIMILARITY <= similarity <= 1:
        raise OptionError(f"`similarity` is {similarity:g}, expected {selection.LEAST_SIMILARITY:g} to 1.")
    if subset is None and (max_similar, keep_fraction) != (None, None):
        raise OptionError("`max_similar` and `keep_fraction` make a subset; name it with `subset=NAME`.")
    manifest = Manifest.read(out)
    request = None if subset is None else SubsetRequest(subset, max_similar, keep_fraction)
    if request is not None:
        request.check(manifest.root)
    sets = _known_sets(manifest.root)
    names = set_names(against, sets)
    sets |= {name: str(Path(place).resolve()) for place, name in zip(against, names, strict=True)}
    with LocalEngine(workers) as engine:
        entries = measure(manifest, engine=engine, progress=progress)
    work = _Work(manifest, entries, similarity, flips, workers, progress)
    leaks = [work.leakage(place, name) for place, name in zip(against, names, strict=True)]
    report = CurateReport(len(manifest), similarity, leakage=leaks)
    chosen = None if request is None else work.choose(request)  # may refuse: before anything is written
    work.write(report, sets)
    if request is not None and chosen is not None:
        how = asdict(request) | {"similarity": chosen.similarity, "filled": chosen.filled}
        path = write_subset(manifest, request.name, chosen.keep, how)
        report.subset = how | {"images": int(chosen.keep.sum()), "path": str(path)}
    return report


def _known_sets(root: Path) -> dict[str, str]:
    """The evaluation sets of earlier runs: their absolute places by name."""
    try:
        notes = pq.read_schema(root / CURATION_NAME).metadata or {}
    except (pa.ArrowInvalid, OSError):
        return {}
    found: dict[str, str] = json.loads(notes.get(_SETS, b"{}"))
    return found


class _Work:
    """One run: what is known of the images, step by step."""

    def __init__(
        self, manifest: Manifest, entries: pa.Table, similarity: float, flips: bool, workers: int, progress: Progress
    ) -> None:
        self.manifest, self.entries = manifest, entries
        self.similarity, self.flips, self.workers, self.progress = similarity, flips, workers, progress
        self.ids: list[str] = manifest.table.column("image_id").to_pylist()
        self.source_names: list[str] = manifest.table.column("source").to_pylist()
        self.prints: Fingerprints = fingerprints_of(entries)
        self.readable: NDArray[np.bool_] = entries.column("fingerprint").is_valid().to_numpy()
        self.digests: list[str | None] = entries.column("pixels_sha256").to_pylist()
        self.first = self._first_of_equals()

    def _first_of_equals(self) -> NDArray[np.int64]:
        """(n,) the first row with the same pixels."""
        seen: dict[str, int] = {}
        return np.array(
            [row if digest is None else seen.setdefault(digest, row) for row, digest in enumerate(self.digests)],
            np.int64,
        )

    def leakage(self, place: str | Path, name: str) -> Leakage:
        """Compare with one evaluation set."""
        self.progress(f"against {name}", 0, len(self.ids))
        paths = [self.manifest.root / path for path in self.manifest.table.column("path").to_pylist()]
        mine = ImagePrints(paths, self.prints, self.digests)
        options = {"min_similarity": self.similarity, "flips": self.flips, "threads": self.workers}
        found = find_leakage(self.manifest, mine, place, name, **options)  # type: ignore[arg-type]
        self.progress(f"against {name}", len(self.ids), len(self.ids))
        return found

    def choose(self, subset: SubsetRequest) -> selection.Selection:
        """The rows of a subset, out of those that are not broken, blank or the second of equals."""
        eligible = self.readable & (self.prints.norms > 0) & (self.first == np.arange(len(self.ids)))
        options: dict[str, Any] = {"flips": self.flips, "threads": self.workers}
        if subset.max_similar is not None:
            return selection.most_similar(self.prints, eligible, subset.max_similar, **options)
        assert subset.keep_fraction is not None  # checked
        return selection.fraction(self.prints, eligible, subset.keep_fraction, **options)

    def write(self, report: CurateReport, sets: dict[str, str]) -> None:
        """Compare, flag, and write ``curation.parquet`` (with the places of all ``sets``) and the manifest."""
        matches = best_matches(
            self.prints,
            least=self.similarity,
            flips=self.flips,
            sources=_numbers(self.source_names),
            sequences=_numbers(self._sequence_names()),
            threads=self.workers,
            progress=self.progress,
        )
        found = leaders(
            self.prints, least=self.similarity, flips=self.flips, threads=self.workers, progress=self.progress
        )
        findings = rules.appearance_findings(self._columns())
        self._add_duplicates(findings, found)
        earlier, old_leaks = self._earlier()
        _add_leaks(findings, report.leakage, old_leaks)
        flags, given, dismissed = self._merge(findings, earlier)
        self._fill(report, matches, flags, given)
        table = self._curation(matches, found, given, dismissed)
        table = table.replace_schema_metadata(table.schema.metadata | {_SETS: json.dumps(sets, sort_keys=True)})
        with atomic_path(self.manifest.root / CURATION_NAME) as temporary:
            pq.write_table(table, temporary, compression="zstd")
            # First: flags that are noted as given and are not in the manifest would count as taken away.
            self.manifest.with_flags(flags).write()

    def _sequence_names(self) -> list[str | None]:
        sequences = self.manifest.table.column("sequence").to_pylist()
        return [
            None if name is None else f"{source}\n{name}"
            for source, name in zip(self.source_names, sequences, strict=True)
        ]

    def _columns(self) -> rules.Columns:
        columns = {name: self.entries.column(name).to_numpy().astype(np.float64) for name in NUMBERS}
        for name in ("width", "height"):
            columns[name] = self.manifest.table.column(name).to_numpy().astype(np.float64)
        return columns | {"readable": self.readable}

    def _add_duplicates(self, findings: list[list[Finding]], found: Leaders) -> None:
        shas = self.manifest.table.column("sha256").to_pylist()
        for row, (first, other) in enumerate(zip(self.first.tolist(), found.row.tolist(), strict=True)):
            if first != row:
                what = "bytes" if shas[first] == shas[row] else "pixels"
                findings[row].append(Finding(f"duplicate_of:{self.ids[first]}", 1.0, f"the same {what}"))
            elif other != row:
                score, variant = float(found.similarity[row]), int(found.variant[row])
                reason = f"similarity {score:.3f}" + (f", {VARIANTS[variant]}" if variant else "")
                findings[row].append(Finding(f"near_duplicate_of:{self.ids[other]}", score, reason))

    def _earlier(self) -> tuple[list[Earlier], list[list[Finding]]]:
        """Per row: what the last run noted, and the leaks that it found; nothing of an image that has changed."""
        path = self.manifest.root / CURATION_NAME
        if not path.is_file():
            return [Earlier()] * len(self.ids), [[] for _ in self.ids]
        try:
            old = pq.read_table(path, columns=["image_id", "sha256", "findings", "dismissed"]).to_pylist()
        except (pa.ArrowInvalid, OSError, KeyError) as error:
            raise MsipError(f"{path} cannot be read ({error}); delete it, then every flag counts as yours.") from error
        known = {(row["image_id"], row["sha256"]): row for row in old}
        earlier, leaks = [], []
        for key in zip(self.ids, self.manifest.table.column("sha256").to_pylist(), strict=True):
            row = known.get(key, {"findings": [], "dismissed": []})
            earlier.append(Earlier(tuple(item["flag"] for item in row["findings"]), frozenset(row["dismissed"])))
            leaks.append([Finding(**item) for item in row["findings"] if flag_name(item["flag"]) == LEAKS_INTO])
        return earlier, leaks

    def _merge(
        self, findings: list[list[Finding]], earlier: list[Earlier]
    ) -> tuple[list[list[str]], list[list[Finding]], list[frozenset[str]]]:
        now: list[list[str]] = [value or [] for value in self.manifest.table.column("flags").to_pylist()]
        trusted = {
            source
            for source, flags, before in zip(self.source_names, now, earlier, strict=True)
            if any(flag in before.given for flag in flags)
        }
        flags, given, dismissed = [], [], []
        for row, (have, before) in enumerate(zip(now, earlier, strict=True)):
            gone = rules.dismissed_names(have, before, trusted=self.source_names[row] in trusted)
            merged, reasons = rules.merged(have, before, findings[row], gone)
            flags.append(merged)
            given.append(reasons)
            dismissed.append(gone)
        return flags, given, dismissed

    def _fill(self, report: CurateReport, matches: Matches, flags: list[list[str]], given: list[list[Finding]]) -> None:
        ours = Counter(flag_name(item.flag) for items in given for item in items)
        every = Counter(flag_name(flag) for items in flags for flag in items)
        report.flags = dict(sorted(ours.items()))
        report.kept_flags = dict(sorted((every - ours).items()))
        report.small = int((self.readable & self.prints.small).sum())
        report.featureless = int((self.readable & self.prints.featureless).sum())
        report.near = {name: int((matches.partner[:, i] >= 0).sum()) for i, name in enumerate(RELATIONS)}
        pairs = Counter(
            (self.source_names[row], self.source_names[matches.partner[row, 2]])
            for row in np.flatnonzero(matches.partner[:, 2] >= 0).tolist()
        )
        report.between = [(one, other, images) for (one, other), images in sorted(pairs.items())]

    def _curation(
        self,
        matches: Matches,
        found: Leaders,
        given: list[list[Finding]],
        dismissed: list[frozenset[str]],
    ) -> pa.Table:
        """The content of ``curation.parquet``."""
        ids = pa.array([*self.ids, None], pa.string())  # row -1: none
        columns: dict[str, Any] = {
            "image_id": self.manifest.table.column("image_id"),
            "sha256": self.manifest.table.column("sha256"),
            "findings": pa.array([[asdict(item) for item in items] for items in given], FINDINGS),
            "dismissed": pa.array([sorted(names) for names in dismissed], pa.list_(pa.string())),
            "leader": ids.take(pa.array(found.row)),
            "leader_similarity": pa.array(found.similarity),
        }
        for index, prefix in enumerate(_PREFIXES.values()):
            partner = matches.partner[:, index]
            has = partner >= 0
            columns[f"{prefix}_match"] = ids.take(pa.array(np.where(has, partner, len(self.ids))))
            columns[f"{prefix}_similarity"] = pa.array(matches.similarity[:, index], mask=~has)
            columns[f"{prefix}_count"] = pa.array(matches.count[:, index])
            variants = [VARIANTS[turn] for turn in matches.variant[:, index].tolist()]
            columns[f"{prefix}_variant"] = pa.array(variants, pa.string(), mask=~has)
        columns |= {name: self.entries.column(name) for name in (*NUMBERS, "histogram")}
        notes = {"similarity": repr(self.similarity), "flips": str(self.flips)}
        return pa.table(columns).combine_chunks().replace_schema_metadata(notes)


def _numbers(names: Sequence[str | None]) -> NDArray[np.int32]:
    """(n,) a number per distinct name, -1 for none."""
    known: dict[str, int] = {}
    return np.array([-1 if name is None else known.setdefault(name, len(known)) for name in names], np.int32)


def _add_leaks(findings: list[list[Finding]], leakage: Sequence[Leakage], old: list[list[Finding]]) -> None:
    """The leaks found now, and those into sets that this run was not asked about."""
    asked = {f"{LEAKS_INTO}:{leak.name}" for leak in leakage}
    for row, items in enumerate(old):
        findings[row] += [item for item in items if item.flag not in asked]
    for leak in leakage:
        for row, score in zip(leak.rows.tolist(), leak.scores.tolist(), strict=True):
            findings[row].append(Finding(f"{LEAKS_INTO}:{leak.name}", score, f"similarity {score:.3f}"))
