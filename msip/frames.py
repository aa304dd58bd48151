"""Which files of a raw tree become images: folders, order, stride. Nothing is decoded here.

The rules are facts of each source (``data_manifests/*.yaml``); this module only applies them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from msip.build_report import BUILD_NAME
from msip.choosing import Choice, is_leftover, leftover_kind
from msip.errors import LayoutError, StemCollisionError
from msip.manifest import MANIFEST_NAME
from msip.radiometry.cameras import HEAD, starts_a_frame, suffixes
from msip.sources import Source, has_wildcard
from msip.trees import files_below, is_remote, read_head, scan

_MAX_STEM_BYTES = 200  # file systems allow 255 for a name; the temporary suffix needs room
_OUTPUTS = (  # what names a folder that msip wrote: all of one line
    (MANIFEST_NAME, BUILD_NAME),
    (".msip/frames",),
    (".msip/export",),
    ("crops.csv", "contact_sheet.png"),
    ("run.yaml", "checkpoints"),
    ("results.csv", "cells", "tasks"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One raw file that becomes one image.

    Attributes:
        source_path: relative to the root of the list, with forward slashes.
        stem: name of the stored image, without extension.
        sequence: name of the video it comes from, or ``None``.
        frame_index: its position in that video before the stride, from 0.
    """

    source_path: str
    stem: str
    sequence: str | None = None
    frame_index: int | None = None


@dataclass
class FrameList:
    """What a raw tree holds for one source.

    Attributes:
        root: the folder that ``source_path`` is relative to.
        frames: in output order.
        seen: image files before excluded names, stride and filters.
        sequences: folders that hold frames.
        lengths: image files of each named sequence, before excluded names and stride.
        strays: other files in frame folders, per suffix; a folder that holds a build, and is left out, as ``name/``.
        examples: of each kind of stray file among one's own frames, one.
        leftovers: files that a system or a network disk left, per name of file or folder.
        twins: groups of files that differ in their suffix alone; the suffix goes into their stems.
        problems: (source_path, reason) of files that cannot be named or ordered.
    """

    root: Path
    frames: list[Frame] = field(default_factory=list)
    seen: int = 0
    sequences: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    strays: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    leftovers: Counter[str] = field(default_factory=Counter)
    twins: list[list[str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)


def name_key(name: str) -> tuple[str, str]:
    """Alphabetical, case-insensitive: the order of a Windows folder, where the reference's lists were made."""
    return name.upper(), name


def natural_key(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Runs of digits compare as numbers, so ``i9`` comes before ``i10``."""
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts], name


def integer_key(name: str) -> tuple[int, str]:
    """The stem as a number. Raises ``ValueError`` where it is none."""
    stem = name.split(".", 1)[0]
    if not (stem.isascii() and stem.isdigit()):
        raise ValueError(name)
    return int(stem), name


ORDERS: dict[str, Callable[[str], tuple]] = {"integer": integer_key, "natural": natural_key, "name": name_key}


def list_frames(source: Source, raw: Path) -> FrameList:
    """List the frames of a corpus source under ``raw``.

    Raises:
        LayoutError: its folder, or the frame folders inside, are not there.
        StemCollisionError: two frames would get one name.
    """
    root, folders = find_root(source, raw)
    listing = FrameList(root)
    for folder, captures in folders:
        _add_folder(listing, source, folder, captures)
    if source.naming == "numbered":
        number(listing)
    refuse_collisions(listing.frames)
    return listing


def number(listing: FrameList) -> None:
    """Name the frames ``%07d`` in list order, as the reference's extraction scripts do."""
    listing.frames = [
        Frame(frame.source_path, f"{index:07d}", frame.sequence, frame.frame_index)
        for index, frame in enumerate(listing.frames)
    ]


def _add_folder(listing: FrameList, source: Source, folder: Path, captures: tuple[str, ...]) -> None:
    names = []
    for entry in scan(folder):
        if not entry.is_file:
            continue
        suffix = _suffix(entry.name)
        if suffix in suffixes() and not entry.name.startswith("."):
            names.append(entry.name)
        else:
            listing.strays[printable(suffix or entry.name)] += 1
    ordered = _ordered(listing, names, source.layout.order, folder)
    if not ordered:
        return
    listing.seen += len(ordered)
    listing.sequences += 1
    sequence = source.layout.sequence.format(*captures) if source.layout.sequence else None
    if sequence:
        listing.lengths[sequence] = len(ordered)
    ordered = [name for name in ordered if not _excluded(source, name)]
    prefix = folder.relative_to(listing.root).as_posix()
    for index in range(0, len(ordered), source.selection.stride):
        name = ordered[index]
        path = name if prefix == "." else f"{prefix}/{name}"
        stem = name.rsplit(".", 1)[0]
        listing.frames.append(Frame(path, stem, sequence, index if sequence else None))


def _excluded(source: Source, name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in source.selection.exclude)


def _ordered(listing: FrameList, names: list[str], order: str, folder: Path) -> list[str]:
    """Sort; names that have no place in the order, or are not text, become problems."""
    key = ORDERS[order]
    keyed = []
    for name in names:
        reason = unusable_name(name)
        if reason is None:
            try:
                keyed.append((key(name), name))
                continue
            except ValueError:
                reason = "its name is not a frame number"
        listing.problems.append((printable((folder / name).relative_to(listing.root).as_posix()), reason))
    return [name for _, name in sorted(keyed)]


def printable(text: str) -> str:
    """File names are bytes; show those that are not text with escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def unusable_name(name: str) -> str | None:
    """Why ``name`` cannot stand in a manifest, or ``None``."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is not valid UTF-8"
    return None


def refuse_collisions(frames: list[Frame], remedy: str = "rename one of them") -> None:
    """Raise ``StemCollisionError`` where two frames would be stored under one name."""
    first: dict[str, str] = {}
    for frame in frames:
        other = first.setdefault(frame.stem, frame.source_path)
        if other is not frame.source_path and other != frame.source_path:
            raise StemCollisionError(
                f"{other} and {frame.source_path} would both be stored as {frame.stem!r}; {remedy}."
            )


def find_root(source: Source, raw: Path) -> tuple[Path, list[tuple[Path, tuple[str, ...]]]]:
    """Find a source's top folder under ``raw`` and the frame folders in it, with what each ``*`` matched."""
    if not raw.is_dir():
        found = "is a file" if raw.is_file() else "does not exist"
        raise LayoutError(f"the raw folder {raw} {found}; give the folder that holds the sources as `raw`.")
    own = raw / source.name
    candidates = [raw / root for root in source.layout.roots]
    candidates += [own / root for root in source.layout.roots] + [own]
    existing = [folder for folder in dict.fromkeys(candidates) if folder.is_dir()]
    for folder in existing:
        matches = _match_folders(source, folder)
        if matches:
            return folder, matches
    raise LayoutError(_layout_message(source, raw, existing))


def _match_folders(source: Source, root: Path) -> list[tuple[Path, tuple[str, ...]]]:
    for pattern in source.layout.frame_folders:
        parts = tuple(part for part in pattern.split("/") if part not in ("", "."))
        matches = list(_walk(root, parts, ()))
        if any(_has_image(folder) for folder, _ in matches):
            return matches
    return []


def _walk(folder: Path, parts: tuple[str, ...], captures: tuple[str, ...]) -> Iterator[tuple[Path, tuple[str, ...]]]:
    if not parts:
        yield folder, captures
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _walk(folder, rest, captures)
        for child in _folders(folder):
            yield from _walk(child, parts, captures)
    elif has_wildcard(part):
        for child in _folders(folder):
            if fnmatchcase(child.name, part):
                yield from _walk(child, rest, (*captures, child.name))
    elif (folder / part).is_dir():
        yield from _walk(folder / part, rest, captures)


def folder_matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a folder's path is one of those that a pattern of ``Layout.frame_folders`` finds on disk."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(folder_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and folder_matches(parts[1:], pattern[1:])


def _folders(folder: Path) -> list[Path]:
    names = [entry.name for entry in scan(folder) if entry.is_folder and not is_leftover(entry.name)]
    return [folder / name for name in sorted(names, key=name_key) if unusable_name(name) is None]


def _has_image(folder: Path) -> bool:
    return any(_suffix(entry.name) in suffixes() for entry in scan(folder))


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _layout_message(source: Source, raw: Path, existing: list[Path]) -> str:
    expected = " or ".join(f"{root}/{source.layout.frame_folders[0]}" for root in source.layout.roots)
    if existing:
        found = f"{existing[0]} is there but no frames in {' or '.join(source.layout.frame_folders)}"
        held = _contents(existing[0])
        if source.name == "scut_fir_pedestrian" and next(existing[0].rglob("*.seq"), None) is not None:
            held += "; put the .seq movies into RAW/archives/scut_fir_pedestrian/setXX/ and run `msip download` for it"
    else:
        found = "no folder of that name"
        held = _contents(raw)
    return (
        f"{source.name}: {found} under {raw} (it holds {held}); expected {expected}, or the same inside {source.name}/."
    )


def _contents(folder: Path) -> str:
    names = sorted(entry.name for entry in scan(folder))
    shown = ", ".join(printable(name) for name in names[:8]) or "nothing"
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def list_folder(folder: Path, *, exclude: Path | None = None, choice: Choice | None = None) -> FrameList:
    """List anyone's own frames, recursively, in natural order of their relative paths.

    Folders below that msip wrote (builds, exported crops, runs, evaluations) are left out: their images were made from
    frames, perhaps these.

    Args:
        folder: the tree.
        exclude: a subtree to leave out (the output, when it lies inside).
        choice: which of the frames are taken; all by default.

    Raises:
        LayoutError: the folder is missing or holds no image, or a glob of ``choice`` matches none.
        StemCollisionError: two relative paths become one stem.
    """
    if not folder.is_dir():
        found = "is a file" if folder.is_file() else "does not exist"
        raise LayoutError(f"the folder {folder} {found}; give the folder that holds your frames as `folder`.")
    listing = FrameList(folder)
    paths = []
    for path in _files_below(listing, exclude.resolve() if exclude else None):
        relative = path.relative_to(folder).as_posix()
        reason = unusable_name(relative)
        if reason is not None:
            listing.problems.append((printable(relative), reason))
        elif may_be_image(path):
            paths.append(relative)
        else:
            kind = path.suffix.lower() or path.name
            listing.strays[kind] += 1
            listing.examples[kind] = min(relative, listing.examples.get(kind, relative))
    if not paths:
        own = ", ".join(name for name in listing.strays if name.endswith("/"))
        beside = f" beside what msip wrote itself, in {own}" if own else ""
        raise LayoutError(
            f"{folder} holds no image{beside} (it holds {_contents(folder)}); give a folder with image files."
        )
    listing.seen = len(paths)
    paths = (choice or Choice()).of(sorted(paths, key=natural_key), folder)
    groups: dict[str, list[str]] = {}
    for relative in paths:
        groups.setdefault(_without_suffix(relative), []).append(relative)
    listing.twins = [group for group in groups.values() if len(group) > 1]
    apart = {relative for group in listing.twins for relative in group}
    for relative in paths:
        suffix = f"_{Path(relative).suffix[1:].lower()}" if relative in apart else ""
        listing.frames.append(Frame(relative, stem_of(relative) + suffix))
    refuse_collisions(listing.frames, "rename one of them, or leave one out with `exclude`")
    return listing


def _files_below(listing: FrameList, exclude: Path | None) -> Iterator[Path]:
    """The files that may be frames; leftovers, and folders that msip wrote, are counted. URLs hold no such folders."""
    folder = listing.root
    if is_remote(folder):
        for path in files_below(folder):
            left = next((part for part in path.relative_to(folder).parts if is_leftover(part)), None)
            if left is None:
                yield path
            else:
                listing.leftovers[leftover_kind(left)] += 1
        return
    for current, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
        for name in [name for name in folders if is_leftover(name) or _leads_back(Path(current) / name, exclude)]:
            folders.remove(name)
            if is_leftover(name):
                listing.leftovers[name] += _count_files(Path(current) / name)
        for name in [name for name in folders if _is_output(Path(current) / name)]:
            folders.remove(name)
            listing.strays[f"{printable((Path(current) / name).relative_to(folder).as_posix())}/"] += 1
        for name in files:
            if is_leftover(name):
                listing.leftovers[leftover_kind(name)] += 1
            else:
                yield Path(current) / name


def _count_files(folder: Path) -> int:
    """Files below a leftover folder; a hidden one counts as one, for snapshots of whole disks lie in such."""
    return 1 if folder.name.startswith(".") else sum(len(files) for _, _, files in os.walk(folder))


def _raise(error: OSError) -> None:
    """A folder that cannot be listed is no empty one."""
    raise error


def _leads_back(folder: Path, exclude: Path | None) -> bool:
    """Whether it is ``exclude``, or a link to a folder that it lies in itself, which would have no end."""
    real = folder.resolve()
    loop = folder.is_symlink() and any(parent.resolve().is_relative_to(real) for parent in folder.parents)
    return loop or real == exclude


def _is_output(folder: Path) -> bool:
    """Whether msip wrote it; also a build or export that was stopped, or one that was copied without hidden files."""
    return any(all((folder / name).exists() for name in names) for names in _OUTPUTS)


def may_be_image(path: Path) -> bool:
    """Whether a file among anyone's own frames is read, or refused by name: by its suffix or its first bytes."""
    return path.suffix.lower() in suffixes(refused=True) or starts_a_frame(read_head(path, HEAD))


def stem_of(relative: str) -> str:
    """``cam1/2024.05/img.001.tiff`` to ``cam1_2024_05_img_001``; overlong ones are cut and get a hash."""
    stem = _without_suffix(relative).replace("/", "_").replace(".", "_")
    if len(stem.encode()) <= _MAX_STEM_BYTES:
        return stem
    digest = hashlib.sha256(stem.encode()).hexdigest()[:12]
    return stem.encode()[: _MAX_STEM_BYTES - 13].decode(errors="ignore") + "_" + digest


def _without_suffix(relative: str) -> str:
    return relative.rsplit(".", 1)[0] if "." in relative.rsplit("/", 1)[-1][1:] else relative
