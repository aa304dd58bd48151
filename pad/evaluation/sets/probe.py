"""Classification sets for probes: a list of files and classes, or a folder a class."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from msip.errors import EvaluationError
from pad.evaluation.sets.base import (
    TEST_FOLDERS,
    Listing,
    ProbeData,
    ProbeItem,
    decode_all,
    images_in,
    in_test,
    list_set,
    read_image,
)

LABELS = "labels.csv"
SPLITS = {"train": "train", "training": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
"""What ``split`` in labels.csv may say, in any case; where there is test, val is not used."""


@dataclass(frozen=True)
class LabelledImage:
    """An image and its class number."""

    name: str
    image: Path
    label: int


LabelledListing = Listing[LabelledImage]
Found = list[tuple[Path, str, str]]
"""(image, class, split or empty)."""


def _csv(root: Path) -> LabelledListing | None:
    """``labels.csv`` with columns file and class, and perhaps split (train and test, or val)."""
    file = root / LABELS
    if not file.is_file():
        return None
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            rows = list(csv.DictReader(lines))
    except (OSError, ValueError, csv.Error) as error:
        raise EvaluationError(f"{file} cannot be read ({error}); write it as CSV in UTF-8.") from error
    if not rows or not {"file", "class"} <= rows[0].keys():
        raise EvaluationError(f"{file} has no lines, or no columns named file and class; expected `file,class`.")
    divided = any(row.get("split") for row in rows)
    found: Found = []
    for number, row in enumerate(rows, 2):
        name, of, split = row["file"], row["class"], row.get("split") or ""
        if not name or not of:
            raise EvaluationError(f"{file}, line {number}: no file or no class; expected `file,class`.")
        if divided and split.strip().lower() not in SPLITS:
            raise EvaluationError(f"{file}, line {number}: the split is {split!r}; expected train, val or test.")
        image = next((home / name for home in (root, root / "images") if (home / name).is_file()), None)
        if image is None:
            raise EvaluationError(f"{file} names {name}, which is neither there nor in images/; add it.")
        found.append((image, of, SPLITS[split.strip().lower()] if divided else ""))
    return _listing(LABELS, root, found)


def _folders(root: Path) -> LabelledListing | None:
    """A folder a class, below ``train`` and ``test`` (or ``val``), or without a split."""
    test = next((name for name in TEST_FOLDERS if (root / name).is_dir()), None)
    splits = {"train": root / "train", "test": root / test} if test and (root / "train").is_dir() else {"": root}
    found: Found = [
        (image, folder.name, split)
        for split, home in splits.items()
        for folder in sorted(home.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for image in images_in(folder)
    ]
    return _listing("folders of classes", root, found) if found else None


def _listing(layout: str, root: Path, found: Found) -> LabelledListing:
    splits_given = {split for _, _, split in found}
    given = splits_given != {""}
    note = "no split given: one image in five, by a hash of its name, is test"
    if given:
        test = "test" if "test" in splits_given else "val"
        unused = sum(split not in ("train", test) for _, _, split in found)
        note = f"the split it names, train and {test}" + (f"; {unused} images of val are not used" if unused else "")
        found = [entry for entry in found if entry[2] in ("train", test)]
    classes = tuple(sorted({name for _, name, _ in found}))
    if len(classes) < 2:
        raise EvaluationError(f"{root} has the one class {classes[0]!r}; a probe tells at least two apart.")
    splits: tuple[list[LabelledImage], list[LabelledImage]] = ([], [])
    for image, name, split in found:
        in_second = split != "train" if given else in_test(image.stem)
        splits[in_second].append(LabelledImage(image.stem, image, classes.index(name)))
    absent = set(range(len(classes))) - {ref.label for ref in splits[0]}
    if absent:
        raise EvaluationError(f"{root}: the class {classes[min(absent)]!r} has no training image; add some.")
    return Listing(layout, root, classes, splits, [note])


LAYOUTS: dict[str, Callable[[Path], LabelledListing | None]] = {LABELS: _csv, "folders": _folders}


def read_probe(root: Path) -> ProbeData:
    """A classification set, decoded. Raises ``EvaluationError``."""
    plain = "write labels.csv (columns file and class), or make a folder a class."
    listing = list_set(root, LAYOUTS, "probe", plain)
    train, test = (decode_all(refs, _decode) for refs in (listing.train, listing.test))
    return ProbeData(listing.layout, root, listing.classes, train, test, tuple(listing.notes))


def _decode(ref: LabelledImage) -> ProbeItem:
    return ProbeItem(ref.name, read_image(ref.image), ref.label)
