"""Evaluation sets in memory: one type a task, decoded once, grey uint8, the same split for every contestant.

A reader (``segmentation_sets``, ``detection_sets``, ``probe_sets``) lists what belongs to which split and says what it
left out; decoding and the checks that hold for every set are here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from msip.crops import sample_key
from msip.errors import EvaluationError, FrameError
from msip.radiometry import read_grey8
from msip.storage import quiet_cv2

Grey: TypeAlias = NDArray[np.uint8]

IGNORED = 255
"""Mask value of pixels that neither train nor count."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"})
LOSSY_SUFFIXES = frozenset({".jpg", ".jpeg"})
TEST_FOLDERS = ("test", "val", "valid")
"""Names of the folder that is scored, the first of them that is there."""
TEST_SHARE = 5
"""Where a set has no split of its own, one image in so many is test."""


@dataclass(frozen=True)
class SegmentationItem:
    """``image`` uint8 (h, w); ``mask`` uint8 (h, w), class numbers and ``IGNORED``."""

    name: str
    image: Grey
    mask: Grey


@dataclass(frozen=True)
class DetectionItem:
    """``boxes`` float32 (n, 4), x1, y1, x2, y2 in pixels; ``labels`` int64 (n,) from 0; ``crowd`` bool (n,).

    A crowd box is no target: detections of its class inside it are neither right nor wrong (COCO's ``iscrowd``).
    """

    name: str
    image: Grey
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True)
class ProbeItem:
    """One image of one class."""

    name: str
    image: Grey
    label: int


Item = TypeVar("Item", SegmentationItem, DetectionItem, ProbeItem)


class _HasImage(Protocol):
    """A reader's reference to an image and what belongs to it."""

    @property
    def image(self) -> Path: ...


Ref = TypeVar("Ref", bound=_HasImage)


@dataclass(frozen=True)
class TaskData(Generic[Item]):
    """A whole evaluation set.

    Attributes:
        layout: the reader that read it.
        classes: names by class number, background included where the set counts it.
        notes: what a reader of the results must know: which lists were used, what was left out and why.
    """

    layout: str
    root: Path
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of the names, pixels and labels of both splits, in order: what scores depend on."""
        state = hashlib.sha256()
        for split in (self.train, self.test):
            state.update(f"{len(split)} images".encode())
            for item in split:
                for name, value in vars(item).items():
                    _update(state, name, value)
        return state.hexdigest()


def _update(state: Any, name: str, value: Any) -> None:
    if isinstance(value, np.ndarray):
        state.update(f"{name} {value.dtype.str} {value.shape}".encode())
        state.update(np.ascontiguousarray(value).data)
    else:
        state.update(f"{name} {value!r}".encode())


SegmentationData: TypeAlias = TaskData[SegmentationItem]
DetectionData: TypeAlias = TaskData[DetectionItem]
ProbeData: TypeAlias = TaskData[ProbeItem]


@dataclass
class Listing(Generic[Ref]):
    """What a reader found: references to the images of both splits, nothing decoded yet."""

    layout: str
    root: Path
    classes: tuple[str, ...]
    splits: tuple[list[Ref], list[Ref]]
    notes: list[str] = field(default_factory=list)

    @property
    def train(self) -> list[Ref]:
        """What is learnt from."""
        return self.splits[0]

    @property
    def test(self) -> list[Ref]:
        """What is scored."""
        return self.splits[1]

    def check(self) -> None:
        """Raise ``EvaluationError`` for a split without images, or an image in both."""
        for split, refs in zip(("train", "test"), self.splits, strict=True):
            if not refs:
                raise EvaluationError(
                    f"{self.root} ({self.layout} layout) has no {split} images; each of train and test needs some."
                )
        known = {ref.image.resolve() for ref in self.train}
        both = [ref.image for ref in self.test if ref.image.resolve() in known]
        if both:
            raise EvaluationError(
                f"{self.root}: {len(both)} of {len(self.test)} test images are training images, too, e.g. {both[0]}; "
                "take them out of one of the two."
            )


def list_set(
    root: Path, readers: dict[str, Callable[[Path], Listing[Ref] | None]], what: str, plain: str
) -> Listing[Ref]:
    """What the first reader that knows the layout of ``root`` found, checked.

    Args:
        readers: by layout, the most particular first; each returns None for a tree that is not of its layout.
        what: the task, for messages; ``plain``: how a set without a layout of its own should lie.

    Raises:
        EvaluationError: no folder, no known layout, or what the reader refuses.
    """
    if not root.is_dir():
        raise EvaluationError(f"{root} is no folder; give the folder of a {what} set as --data.")
    for read in readers.values():
        listing = read(root)
        if listing is not None:
            listing.check()
            return listing
    raise EvaluationError(f"{root} is in no layout that is read for {what} ({', '.join(readers)}); {plain}")


def decode_all(refs: Sequence[Ref], decode: Callable[[Ref], Item], threads: int = 4) -> tuple[Item, ...]:
    """Every reference decoded, in order; the decoders release the interpreter, so threads help."""
    with ThreadPoolExecutor(threads) as pool:
        return tuple(pool.map(decode, refs))


def read_image(path: Path) -> Grey:
    """Any image as uint8 (h, w); 16-bit frames through the percentile window, as a build has it."""
    try:
        return read_grey8(path)
    except (FrameError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise EvaluationError(f"{path} cannot be read ({reason}); replace it or take it out of the set.") from error


def read_fourth_channel(path: Path) -> Grey:
    """The thermal channel of an MFNet image, the fourth of a PNG, uint8 (h, w)."""
    with quiet_cv2():
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise EvaluationError(f"{path} cannot be read; replace it or take it out of the set.")
    if pixels.ndim != 3 or pixels.shape[2] != 4:
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        raise EvaluationError(f"{path} has {channels} channels, MFNet's have 4, the last of them thermal.")
    return np.ascontiguousarray(pixels[..., 3])


def read_mask(path: Path) -> Grey:
    """Class numbers, uint8 (h, w): a palette's indices, a grey value, or the value of three equal channels."""
    if path.suffix.lower() in LOSSY_SUFFIXES:
        raise EvaluationError(f"{path} is a JPEG, which changes class numbers; save the masks as PNG.")
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (OSError, ValueError) as error:
        reason = "no image" if isinstance(error, UnidentifiedImageError) else error
        raise EvaluationError(f"{path} cannot be read ({reason}); replace it or take its image out.") from error
    if values.ndim == 3:
        if (values[..., :1] != values[..., 1:3]).any():
            raise EvaluationError(f"{path} holds colours, expected class numbers (one channel or a palette).")
        values = values[..., 0]
    if values.max(initial=0) > IGNORED:
        raise EvaluationError(f"{path} holds the value {values.max()}; class numbers end at 254, 255 is ignored.")
    return np.ascontiguousarray(values.astype(np.uint8))


def images_in(folder: Path, *, deep: bool = False) -> list[Path]:
    """The images of a folder by name, hidden and temporary files left out."""
    found = folder.rglob("*") if deep else folder.glob("*")
    return sorted(p for p in found if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith((".", "~")))


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Stem to path. Raises ``EvaluationError`` where two files share one."""
    table: dict[str, Path] = {}
    for path in paths:
        if path.stem in table:
            raise EvaluationError(f"{table[path.stem]} and {path} have the same name; rename one of them.")
        table[path.stem] = path
    return table


def read_list(path: Path, *, without: tuple[str, ...] = ()) -> list[str]:
    """The first column of a list file, folders and extensions taken off; lines with a text of ``without`` are skipped.

    Raises ``EvaluationError`` for a file that cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} cannot be read ({error}); it should list one image a line.") from error
    names = [line.split()[0] for line in lines if line.strip() and not any(text in line for text in without)]
    return [Path(name).stem if Path(name).suffix.lower() in IMAGE_SUFFIXES else Path(name).name for name in names]


def in_test(name: str) -> bool:
    """Whether an image of a set without a split is test: a function of its name alone."""
    return sample_key(name) % TEST_SHARE == 0


def share(items: Sequence[Item], fraction: float, seed: int) -> tuple[Item, ...]:
    """``fraction`` of the training images, drawn by ``seed``; of each class for a probe, so that none is lost.

    The smaller share of one seed is contained in the larger one, and contestants of a seed get the same images.
    """
    if not 0 < fraction <= 1:
        raise EvaluationError(f"--label-fraction is {fraction}; give a number above 0 and at most 1.")
    groups: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(item.label if isinstance(item, ProbeItem) else 0, []).append(index)
    kept: list[int] = []
    for number, group in sorted(groups.items()):
        order = np.random.default_rng([seed, number]).permutation(group)
        kept.extend(order[: max(1, round(fraction * len(group)))].tolist())
    return tuple(items[index] for index in sorted(kept))
