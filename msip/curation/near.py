"""Near-duplicates among images on disk, in a build or not: one call."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msip.choosing import is_leftover
from msip.curation.fingerprint import PRINT, VARIANTS, Fingerprints, fingerprint, pixels_digest
from msip.curation.image_measures import without_borders
from msip.curation.matching import best_matches
from msip.errors import FrameError, ManifestError
from msip.frames import may_be_image
from msip.manifest import MANIFEST_NAME, Manifest
from msip.radiometry import read_grey8

SIMILARITY = 0.75
"""From here on two images count as near-duplicates unless another threshold is given; ``docs/curate.md`` says why."""

Images = str | Path | Manifest | Sequence[str | Path]


@dataclass(frozen=True)
class NearDuplicate:
    """An image and the most similar other one.

    Attributes:
        path, other: the two files.
        similarity: above the threshold, up to 1.
        exact: their grey pixels are equal.
        variant: what was done to ``path``: ``same``, ``mirrored`` ... (``fingerprint.VARIANTS``).
    """

    path: Path
    other: Path
    similarity: float
    variant: str
    exact: bool


def near_duplicates(
    a: Images, b: Images | None = None, *, min_similarity: float = SIMILARITY, flips: bool = False, threads: int = 2
) -> list[NearDuplicate]:
    """For each image of ``a`` the most similar one of ``b`` (or another of ``a``), where one is similar enough.

    Example: ``near_duplicates(test_files, train_files)`` lists the test images that leaked into training.

    Args:
        a, b: a list of files, a folder (all images under it), a build's folder or manifest.
        min_similarity: above 0, at most 1.
        flips: also find mirrored, turned and polarity-inverted copies.
        threads: that read images and compare.

    Raises:
        ManifestError: nothing to compare.
        ValueError: ``min_similarity`` is out of range.
    """
    if not 0 < min_similarity <= 1:
        raise ValueError(f"min_similarity is {min_similarity}, expected a number above 0 and at most 1")
    mine = read_image_prints(image_files(a), threads)
    theirs = mine if b is None else read_image_prints(image_files(b), threads)
    return nearest(mine, theirs, min_similarity=min_similarity, flips=flips, threads=threads)


@dataclass(frozen=True)
class ImagePrints:
    """Files, their fingerprints, and what names their pixels (``None`` for a file that cannot be read)."""

    paths: list[Path]
    prints: Fingerprints
    digests: list[str | None]

    @property
    def unreadable(self) -> list[Path]:
        """Files that are like no other because they cannot be read."""
        return [path for path, digest in zip(self.paths, self.digests, strict=True) if digest is None]


def nearest(
    mine: ImagePrints, theirs: ImagePrints, *, min_similarity: float, flips: bool = False, threads: int = 2
) -> list[NearDuplicate]:
    """As ``near_duplicates``, of images that are read already; within one set where both are the same object.

    Of several that are equally alike, one with equal pixels is taken.
    """
    others = None if theirs is mine else theirs.prints
    found = best_matches(mine.prints, others, least=min_similarity, flips=flips, threads=threads)
    rows = np.flatnonzero(found.partner[:, 2] >= 0).tolist()
    twins = {digest: other for other, digest in reversed([*enumerate(theirs.digests)])}
    pairs = []
    for row in rows:
        other = int(found.partner[row, 2])
        similarity, variant = float(found.similarity[row, 2]), VARIANTS[found.variant[row, 2]]
        twin = twins.get(mine.digests[row])
        if twin is not None and not (theirs is mine and twin == row):
            other, similarity, variant = twin, 1.0, VARIANTS[0]
        exact = mine.digests[row] == theirs.digests[other]
        pairs.append(NearDuplicate(mine.paths[row], theirs.paths[other], similarity, variant, exact))
    return pairs


def read_image_prints(paths: Sequence[Path], threads: int) -> ImagePrints:
    """Read files of any kind that a build reads, in their order."""
    with ThreadPoolExecutor(threads) as pool:
        done = list(pool.map(_read, paths))
    return ImagePrints(list(paths), Fingerprints.of([found for found, _ in done]), [digest for _, digest in done])


def image_files(images: Images) -> list[Path]:
    """The image files that ``images`` names. Raises ``ManifestError`` where there are none."""
    if isinstance(images, Manifest):
        return [images.root / path for path in images.table.column("path").to_pylist()]
    if not isinstance(images, (str, Path)):
        return [Path(path) for path in images]
    place = Path(images)
    if (place.is_file() and place.suffix == ".parquet") or (place / MANIFEST_NAME).is_file():
        return image_files(Manifest.read(place))
    paths = (path for path in place.rglob("*") if not any(map(is_leftover, path.relative_to(place).parts)))
    found = sorted(path for path in paths if path.is_file() and may_be_image(path))
    if not found:
        raise ManifestError(f"{place} holds no images and no manifest; give a folder of images or a build.")
    return found


def _read(path: Path) -> tuple[NDArray[np.void], str | None]:
    try:
        grey = read_grey8(path)
    except (FrameError, OSError):
        return np.zeros((), PRINT), None
    return fingerprint(without_borders(grey)), pixels_digest(grey)
