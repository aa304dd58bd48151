"""Segmentation sets in the layouts they are published in, and a plain one; each reader says what it left out.

Sources of the layouts: SODA and SCUT-Seg as shreyaskamathkm/FTNet reads them, MFNet as its authors and
yuxiangsun/RTFNet publish it, MSRS as Linfeng-Tang/MSRS does; class lists as casiatao/PAD and UNIP have them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from msip.errors import EvaluationError
from pad.evaluation.sets.base import (
    IGNORED,
    TEST_FOLDERS,
    Grey,
    Listing,
    SegmentationData,
    SegmentationItem,
    by_stem,
    decode_all,
    images_in,
    in_test,
    list_set,
    read_fourth_channel,
    read_image,
    read_list,
    read_mask,
)

SODA = (
    *("background", "person", "building", "tree", "road", "pole", "grass", "door", "table", "chair", "car", "bicycle"),
    *("lamp", "monitor", "traffic cone", "trash can", "animal", "fence", "sky", "river", "sidewalk"),
)
MFNET = ("background", "car", "person", "bike", "curve", "car stop", "guardrail", "color cone", "bump")
SCUT_SEG = ("background", "road", "person", "rider", "car", "truck", "fence", "tree", "bus", "pole")
_COPIES = ("(", "~")
FOREGROUND = 255
"""In a plain set whose masks hold 0 and 255 alone, 255 is the one class beside the background."""
MOST_UNNAMED = 64
"""Classes that masks may have without ``classes.txt``: more are grey values, of an image or of blurred edges."""


@dataclass(frozen=True)
class MaskedImage:
    """An image, its mask, and how the image's pixels are read."""

    name: str
    image: Path
    mask: Path
    read: Callable[[Path], Grey] = read_image


MaskedListing = Listing[MaskedImage]


def _soda(root: Path) -> MaskedListing | None:
    """Lists name stems; copies such as ``0001 (1)`` and ``~temp_0001`` are left out."""
    home = next((p for p in (root, root / "InfraredSemanticLabel") if (p / "train_infrared.txt").is_file()), None)
    if home is None:
        return None
    masks = next((home / n for n in ("SegmentationClassPNG", "SegmentationClassOne") if (home / n).is_dir()), None)
    if masks is None:
        raise EvaluationError(f"{home} has no SegmentationClassPNG beside train_infrared.txt; complete the set.")
    images, labels = (
        by_stem(path for path in images_in(folder) if not any(text in path.stem for text in _COPIES))
        for folder in (home / "JPEGImages", masks)
    )
    notes = [f"masks of {masks.name}; train_infrared.txt and test_infrared.txt"]
    dropped = sum(any(text in path.name for text in _COPIES) for path in (home / "JPEGImages").iterdir())
    if dropped:
        notes.append(f"{dropped} copies, '(' or '~' in their names, left out")
    train, test = (
        _paired(read_list(home / name, without=_COPIES), images, labels, home)
        for name in ("train_infrared.txt", "test_infrared.txt")
    )
    return Listing("SODA", home, SODA, (train, test), notes)


def _mfnet(root: Path) -> MaskedListing | None:
    """RGBA images with thermal as the fourth channel, or PAD's own ``thermal_imgs``; ``_flip`` entries are left out."""
    home = next((p for p in (root, root / "ir_seg_dataset") if (p / "labels").is_dir()), None)
    if home is None or not (home / "train.txt").is_file() or not (home / "test.txt").is_file():
        return None
    grey = (home / "thermal_imgs").is_dir()
    images = by_stem(images_in(home / ("thermal_imgs" if grey else "images")))
    labels = by_stem(images_in(home / "labels"))
    notes = [
        "train.txt and test.txt; val.txt is not used",
        "thermal_imgs" if grey else "thermal is the fourth channel of images/",
    ]
    splits = []
    for name in ("train.txt", "test.txt"):
        kept = read_list(home / name, without=("flip",))
        flipped = len(read_list(home / name)) - len(kept)
        if flipped:
            notes.append(f"{flipped} mirrored copies (_flip) of {name} left out")
        splits.append(_paired(kept, images, labels, home, read=read_image if grey else read_fourth_channel))
    return Listing("MFNet", home, MFNET, (splits[0], splits[1]), notes)


def _scut_seg(root: Path) -> MaskedListing | None:
    if not (root / "scut_train.txt").is_file() or not (root / "gt_instance").is_dir():
        return None
    images = by_stem(images_in(root / "images", deep=True))
    ends = "_labelIds"
    masks = {
        path.stem.removesuffix(ends): path
        for path in images_in(root / "gt_instance", deep=True)
        if path.stem.endswith(ends)
    }
    train, test = (_paired(read_list(root / name), images, masks, root) for name in ("scut_train.txt", "scut_val.txt"))
    notes = [
        "scut_train.txt and scut_val.txt",
        "its frames come from SCUT FIR Pedestrian, a source of MSIP: what was pre-trained on MSIP has seen them",
    ]
    return Listing("SCUT-Seg", root, SCUT_SEG, (train, test), notes)


def _msrs(root: Path) -> MaskedListing | None:
    if not all((root / split / "Segmentation_labels").is_dir() for split in ("train", "test")):
        return None
    splits = []
    for split in ("train", "test"):
        images = by_stem(images_in(root / split / "ir"))
        labels = by_stem(images_in(root / split / "Segmentation_labels"))
        splits.append(_paired(sorted(images), images, labels, root / split))
    return Listing("MSRS", root, MFNET, (splits[0], splits[1]), ["infrared images of train/ir and test/ir"])


def _folder(root: Path) -> MaskedListing | None:
    """``images/`` and ``masks/``: below ``train/`` and ``test/`` (or ``val/``), the other way round, or with lists."""
    notes: list[str] = []
    splits = _split_folders(root, notes) or _listed(root, notes) or _undivided(root, notes)
    if splits is None:
        return None
    return Listing("images/masks", root, _named_classes(root), splits, notes)


Pairs = list[MaskedImage]


def _split_folders(root: Path, notes: list[str]) -> tuple[Pairs, Pairs] | None:
    for shape in ("{split}/{kind}", "{kind}/{split}"):

        def place(split: str, kind: str, shape: str = shape) -> Path:
            return root / shape.format(split=split, kind=kind)

        there = [name for name in TEST_FOLDERS if place(name, "images").is_dir()]
        if not place("train", "images").is_dir() or not there:
            continue
        test, *unused = there
        notes.append(f"train and {test} folders" + (f"; {unused[0]} is not used" if unused else ""))
        first, second = (_folder_pairs(place(name, "images"), place(name, "masks"), notes) for name in ("train", test))
        return first, second
    return None


def _listed(root: Path, notes: list[str]) -> tuple[Pairs, Pairs] | None:
    test = next((name for name in ("test.txt", "val.txt") if (root / name).is_file()), None)
    if not (root / "images").is_dir() or test is None or not (root / "train.txt").is_file():
        return None
    images, masks = by_stem(images_in(root / "images")), by_stem(images_in(root / "masks"))
    notes.append(f"train.txt and {test}")
    first, second = (_paired(read_list(root / name), images, masks, root) for name in ("train.txt", test))
    return first, second


def _undivided(root: Path, notes: list[str]) -> tuple[Pairs, Pairs] | None:
    if not (root / "images").is_dir() or not (root / "masks").is_dir():
        return None
    pairs = _folder_pairs(root / "images", root / "masks", notes)
    notes.append("no split given: one image in five, by a hash of its name, is test")
    return [p for p in pairs if not in_test(p.name)], [p for p in pairs if in_test(p.name)]


def _folder_pairs(images: Path, masks: Path, notes: list[str]) -> Pairs:
    found, its = by_stem(images_in(images)), by_stem(images_in(masks)) if masks.is_dir() else {}
    alone = sorted(its.keys() - found.keys())
    if alone:
        place = f"{masks.parent.name}/{masks.name}"
        notes.append(f"{len(alone)} masks of {place} have no image and are left out, e.g. {its[alone[0]].name}")
    return _paired(sorted(found), found, its, images.parent)


def _named_classes(root: Path) -> tuple[str, ...]:
    """``classes.txt``, one name a line, background first; empty where the masks have to tell."""
    file = root / "classes.txt"
    return tuple(line.strip() for line in file.read_text().splitlines() if line.strip()) if file.is_file() else ()


def _paired(
    stems: Sequence[str],
    images: dict[str, Path],
    masks: dict[str, Path],
    root: Path,
    *,
    read: Callable[[Path], Grey] = read_image,
) -> Pairs:
    """Images with their masks, in the list's order. Raises ``EvaluationError`` for what is missing or listed twice."""
    for kind, table in (("image", images), ("mask", masks)):
        absent = [stem for stem in stems if stem not in table]
        if absent:
            raise EvaluationError(
                f"{root}: {len(absent)} of {len(stems)} images have no {kind} file, e.g. {absent[0]}; add it or take "
                "the image out."
            )
    twice = sorted(stem for stem in set(stems) if stems.count(stem) > 1) if len(set(stems)) < len(stems) else []
    if twice:
        raise EvaluationError(f"{root}: {len(twice)} images are listed twice in one split, e.g. {twice[0]}.")
    return [MaskedImage(stem, images[stem], masks[stem], read) for stem in stems]


LAYOUTS: dict[str, Callable[[Path], MaskedListing | None]] = {
    "soda": _soda,
    "scut-seg": _scut_seg,
    "msrs": _msrs,
    "mfnet": _mfnet,
    "folder": _folder,
}
"""Readers, the most particular first: each returns None for a tree that is not of its layout."""


def list_segmentation(root: Path) -> MaskedListing:
    """The images and masks of a folder in whatever layout it is. Raises ``EvaluationError``."""
    plain = "the plain one has images/ and masks/ with equal file names, below train/ and test/ or without."
    return list_set(root, LAYOUTS, "segmentation", plain)


def has_masks(root: Path) -> bool:
    """Whether a folder is a segmentation set, complete or not, and none of classes."""
    try:
        return root.is_dir() and any(read(root) is not None for read in LAYOUTS.values())
    except EvaluationError:  # its reader knew the layout, and will say the same again
        return True


def read_segmentation(root: Path) -> SegmentationData:
    """A segmentation set, decoded and checked: sizes agree, no mask holds a class that the set does not have.

    Raises ``EvaluationError``, also where no pixel of the test images counts.
    """
    listing = list_segmentation(root)
    train, test = (decode_all(refs, _decode) for refs in (listing.train, listing.test))
    classes = listing.classes
    if listing.layout == "images/masks":
        train, test, classes = _plain_values(train, test, listing)
    for item in (*train, *test):
        _check_classes(item, classes, listing)
    if all((item.mask == IGNORED).all() for item in test):
        raise EvaluationError(f"{root}: the masks of all test images are {IGNORED} everywhere, which is not counted.")
    return SegmentationData(listing.layout, root, classes, train, test, tuple(listing.notes))


def _decode(ref: MaskedImage) -> SegmentationItem:
    image, mask = ref.read(ref.image), read_mask(ref.mask)
    if image.shape != mask.shape:
        raise EvaluationError(
            f"{ref.mask} is {mask.shape[1]} x {mask.shape[0]} px, its image {image.shape[1]} x {image.shape[0]}; they "
            "must be equal."
        )
    return SegmentationItem(ref.name, image, mask)


Items = tuple[SegmentationItem, ...]


def _plain_values(train: Items, test: Items, listing: MaskedListing) -> tuple[Items, Items, tuple[str, ...]]:
    """Masks of 0 and 255 become classes 0 and 1; without classes.txt the values themselves say how many there are."""
    classes, root = listing.classes, listing.root
    values = np.unique(np.concatenate([np.unique(item.mask) for item in (*train, *test)])).tolist()
    if len(values) == 1:
        raise EvaluationError(f"{root}: all masks are {values[0]} everywhere; nothing can be learnt from them.")
    if values == [0, FOREGROUND]:
        if len(classes) not in (0, 2):
            raise EvaluationError(
                f"{root}: its masks hold 0 and 255, which are two classes, but classes.txt names {len(classes)}."
            )
        binary = partial(np.equal, FOREGROUND)
        train, test = (
            tuple(SegmentationItem(i.name, i.image, binary(i.mask).astype(np.uint8)) for i in items)
            for items in (train, test)
        )
        return train, test, classes or ("background", "foreground")
    numbers = [value for value in values if value != IGNORED]
    if len(classes) == 1 or (not classes and len(numbers) == 1):
        raise EvaluationError(f"{root}: there is one class; segmentation tells at least two apart.")
    gaps = numbers[0] > 1 or numbers != list(range(numbers[0], numbers[0] + len(numbers)))
    if not classes and (gaps or len(numbers) > MOST_UNNAMED):
        shown = ", ".join(map(str, numbers[:6])) + (" ..." if len(numbers) > 6 else "")
        raise EvaluationError(
            f"{root}: its masks hold {len(numbers)} values ({shown}), expected class numbers 0, 1, 2 ..., or 0 and "
            f"{FOREGROUND} alone; correct them (resized or blurred masks get values in between), or name all classes "
            "in classes.txt."
        )
    return train, test, classes or ("background", *(f"class {n}" for n in range(1, numbers[-1] + 1)))


def _check_classes(item: SegmentationItem, classes: tuple[str, ...], listing: MaskedListing) -> None:
    counted = item.mask[item.mask != IGNORED]
    if counted.size and int(counted.max()) >= len(classes):
        raise EvaluationError(
            f"the mask of {item.name} holds class {int(counted.max())}, but {listing.root} ({listing.layout} layout) "
            f"has {len(classes)} classes, 0 to {len(classes) - 1}; correct the mask or classes.txt."
        )
