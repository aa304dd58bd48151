"""What a person should know after a build, sentence by sentence, the most harmful first: count, example, remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from msip.build_report import SourceReport
from msip.radiometry.frame import UNREAD_DATA
from msip.radiometry.suspects import IMAGE_IN_ALPHA, MASK, VISIBLE_PHOTO

SUSPECTS = {
    UNREAD_DATA: (
        "radiometric data of the maker inside is not read, only its picture for people is stored; export the frames as "
        "16-bit TIFF with the maker's software"
    ),
    IMAGE_IN_ALPHA: "the fourth channel holds an image of its own, the first three are stored; `channel=4` stores it",
    VISIBLE_PHOTO: "by its colours a photograph of visible light, no thermal frame",
    MASK: "flat regions of a few values: a label mask, by its looks",
    "colour_mapped": "false colour, whose grey values are no intensities; record in grey or with raw counts",
}
"""What is said of stored images that carry a flag of a build, in the order of harm."""
KINDS = ("broken", "unsupported", "too_large", "collapsed", "blank")


def remarks(report: SourceReport) -> Iterator[str]:
    """Sentences on one source, parameters in backquotes."""
    for flag, text in SUSPECTS.items():
        if flag in report.suspects:
            count, example, glob = report.suspects[flag]
            leave = f'; `exclude="{glob}"` leaves them out' if glob and flag in (VISIBLE_PHOTO, MASK) else ""
            yield f"{flag}: {report.name}: {_files(count, example, 'images')}: {text}{leave}"
    yield from _problems(report)
    for group in report.twins[:1]:
        more = f", and {len(report.twins) - 1} more such" if len(report.twins) > 1 else ""
        suffix = group[0].rpartition(".")[2]
        yield (
            f"one name: {report.name}: {' and '.join(group)}{more}: each is stored, its suffix in the name; "
            f'`exclude="*.{suffix}"` leaves one kind out'
        )
    for suffix, example in report.examples.items():
        count = report.strays[suffix]
        yield f"ignored: {report.name}: {_files(count, example, 'files')}: {suffix} is no format of images"
    if report.leftovers:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(report.leftovers.items()))
        total = sum(report.leftovers.values())
        yield f"ignored: {report.name}: left by a system or a network disk: {total} ({kinds})"


def _files(count: int, example: str, what: str) -> str:
    return example if count == 1 else f"{count:,} {what}, such as {example}"


def _problems(report: SourceReport) -> Iterator[str]:
    """Frames that were left out, one sentence for those of one kind whose reasons differ in numbers alone."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for path, kind, reason in report.problems:
        groups.setdefault((kind, re.sub(r"\d+", "#", reason)), []).append((path, reason))
    ranked = sorted(groups.items(), key=lambda item: (KINDS.index(item[0][0]), -len(item[1])))
    for (kind, _), members in ranked:
        path, reason = members[0]
        yield f"{kind}: {report.name}: {_files(len(members), path, 'files')}: {reason}"


def shared_glob(some: Sequence[str], all_paths: Sequence[str]) -> str:
    """A glob of the names (or folders) that most of ``some`` share and few others of ``all_paths`` have; else empty.

    ``DJI_0001_W.JPG`` and its like give ``*_W.JPG``, ``visible_1.png`` ``visible_*``, ``masks/1.png`` ``masks/*``.
    """
    chosen = set(some)
    candidates: dict[str, None] = {}
    for path in some[:: max(1, len(some) // 20)]:
        folder, _, name = path.rpartition("/")
        stem, dot, suffix = name.rpartition(".")
        words = re.split(r"[_-]", stem)
        tail, head = stem[len(stem) - len(words[-1]) - 1 :], stem[: len(words[0]) + 1]
        if len(words) > 1:
            candidates |= {f"*{tail}{dot}{suffix}": None} if not words[-1].isdigit() else {}
            candidates |= {f"{head}*": None} if not words[0].isdigit() else {}
        candidates |= {f"{folder}/*": None} if folder else {}
    for glob in candidates:
        matched = [path for path in all_paths if fnmatchcase(path if "/" in glob else path.rpartition("/")[2], glob)]
        right = sum(path in chosen for path in matched)
        if right >= 0.8 * len(some) and right >= 0.5 * len(matched):
            return glob
    return ""
