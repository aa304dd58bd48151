"""What a build did, for people (tables), machines (``--json``) and the folder itself (``build.json``)."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msip.errors import ManifestError

BUILD_NAME = "build.json"


@dataclass
class SourceReport:
    """One source of a build.

    Attributes:
        images: rows in the manifest.
        expected: what the corpus says, or ``None`` for one's own folder and where nobody has published a count.
        seen: image files before excluded names, stride and filters.
        selected: frames after the stride.
        dropped_dark: of these, dropped by the peak filter.
        sequences: folders with frames.
        strays: other files in frame folders, per suffix; a folder that msip wrote, and was left out, as ``name/``.
        leftovers: files that a system or a network disk left, per name.
        twins: files that differ in their suffix alone; each is stored under a name with its suffix.
        examples: of each kind of stray among one's own frames, a file.
        suspects: stored images per flag that a build gives: (count, one of them, a glob that matches them, or empty).
        choice: ``include``, ``exclude`` and ``every``, where one's own frames were chosen by them.
        problems: (source_path, kind, reason) of frames that were left out.
        flags: images per flag (without what follows a colon).
        stored_bytes: of all images; in a dry run an estimate.
        done_before: frames that an earlier run had finished.
        causes: likely causes of a difference between ``images`` and ``expected``.
    """

    name: str
    images: int = 0
    expected: int | None = None
    seen: int = 0
    selected: int = 0
    dropped_dark: int = 0
    sequences: int = 0
    strays: dict[str, int] = field(default_factory=dict)
    leftovers: dict[str, int] = field(default_factory=dict)
    twins: list[list[str]] = field(default_factory=list)
    choice: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)
    suspects: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    problems: list[tuple[str, str, str]] = field(default_factory=list)
    flags: dict[str, int] = field(default_factory=dict)
    stored_bytes: int = 0
    done_before: int = 0
    causes: list[str] = field(default_factory=list)

    @property
    def as_expected(self) -> bool:
        """Whether the count is the corpus's (always, where none is expected)."""
        return self.expected is None or self.expected == self.images

    @property
    def problem_kinds(self) -> dict[str, int]:
        """Left-out frames per kind: ``broken``, ``unsupported``, ``blank`` ..."""
        return dict(sorted(Counter(kind for _, kind, _ in self.problems).items()))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; without the counts of one particular run."""
        return {
            "images": self.images,
            "expected": self.expected,
            "seen": self.seen,
            "selected": self.selected,
            "dropped_dark": self.dropped_dark,
            "sequences": self.sequences,
            "strays": dict(sorted(self.strays.items())),
            "leftovers": dict(sorted(self.leftovers.items())),
            "twins": self.twins,
            "choice": self.choice,
            "suspects": {
                flag: {"images": count, "example": example, "glob": glob}
                for flag, (count, example, glob) in self.suspects.items()
            },
            "problems": [{"source_path": path, "kind": kind, "reason": reason} for path, kind, reason in self.problems],
            "flags": self.flags,
            "stored_bytes": self.stored_bytes,
            "causes": self.causes,
        }


@dataclass
class BuildReport:
    """A whole build.

    Attributes:
        sources: in output order.
        corpus: its name, or ``None`` for one's own ``folder``.
        dry_run: nothing was written.
        rois: RoIs in the manifest, or ``None`` where none were asked for.
        proposals: the name of how they were found, or ``None`` likewise.
        kept: sources of an earlier build into the same folder that this one left as they were, with their images.
        needed_bytes, free_bytes: of the disk, before the build.
    """

    sources: list[SourceReport]
    corpus: str | None
    dry_run: bool = False
    rois: int | None = None
    proposals: str | None = None
    kept: dict[str, int] = field(default_factory=dict)
    needed_bytes: int = 0
    free_bytes: int = 0

    @property
    def images(self) -> int:
        """Rows of this build's sources."""
        return sum(source.images for source in self.sources)

    def as_dict(self) -> dict[str, Any]:
        """The summary that ``--json`` prints."""
        return {
            "corpus": self.corpus,
            "images": self.images,
            "rois": self.rois,
            "dry_run": self.dry_run,
            "needed_bytes": self.needed_bytes,
            "kept": self.kept,
            "sources": {source.name: source.as_dict() | {"done_before": source.done_before} for source in self.sources},
        }


def likely_causes(report: SourceReport, stride: int, sequences: int | None) -> list[str]:
    """Why a count may differ from the expected one; the strongest evidence first.

    Args:
        report: with all counts filled in.
        stride: of the source's selection.
        sequences: how many the source is known to have, where it is known.
    """
    if report.as_expected or report.expected is None:
        return []
    causes = []
    missing = report.expected - report.images
    if report.problems:
        kinds = ", ".join(f"{count} {kind}" for kind, count in report.problem_kinds.items())
        causes.append(f"{len(report.problems)} frames were left out ({kinds})")
    if sequences is not None and report.sequences != sequences:
        causes.append(f"{report.sequences} sequences found, {sequences} expected: not all archives are extracted here")
    if missing > len(report.problems):
        if report.dropped_dark:
            causes.append(f"{report.dropped_dark} dark frames were dropped by the filter")
        if sequences is None or report.sequences == sequences:
            causes.append(
                f"{report.seen} raw frames found: the raw tree is a part of the source, or not fully extracted"
            )
    elif missing < 0:
        rule = f" (every {stride}th is taken)" if stride > 1 else ""
        causes.append(
            f"{report.seen} raw frames found{rule}: a newer release, or files of another split lie among them"
        )
    return causes


def read_build(out: Path) -> dict[str, Any] | None:
    """``OUT/build.json``, or ``None`` where there is none."""
    path = out / BUILD_NAME
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ManifestError(f"{path} is not JSON ({error}); remove it and run `msip build` again.") from error
