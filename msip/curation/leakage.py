"""Images of a build that an evaluation set holds too: a table, and a sheet of the pairs to judge by eye."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.curation.fingerprint import VARIANTS
from msip.curation.matching import Matches, best_matches
from msip.curation.near import ImagePrints, NearDuplicate, image_files, nearest, read_image_prints
from msip.errors import FrameError, OptionError
from msip.files import write_bytes
from msip.manifest import Manifest
from msip.pictures import contact_sheet, encode_png
from msip.radiometry import read_grey8

FOLDER = "leakage"
_SHOWN_PAIRS = 48
_CELL = 240


@dataclass(frozen=True)
class Leakage:
    """What one evaluation set shares with a build.

    Attributes:
        name: of the set: its folder's.
        images: of the set.
        leaked: its images that are like one of the build, each with the most similar one.
        rows, scores: int64 and float32, rows of the build that are like an image of the set, and how much.
        unreadable: files of the set that were skipped.
        table, sheet: the files written; the sheet only where anything leaked.
    """

    name: str
    images: int
    leaked: list[NearDuplicate] = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    scores: NDArray[np.float32] = field(repr=False)
    unreadable: int
    table: Path
    sheet: Path | None

    @property
    def exact(self) -> int:
        """Leaked images whose pixels are equal to those of the build's image."""
        return sum(pair.exact for pair in self.leaked)


def set_names(places: Sequence[str | Path], known: Mapping[str, str]) -> list[str]:
    """A short name for each evaluation set: its folder's, with the parent's before it where another set is called so.

    Args:
        places: folders or manifests.
        known: absolute places of earlier runs' sets, by name.

    Raises:
        OptionError: two sets have the same name even so.
    """
    names = []
    for place in places:
        path = Path(place).resolve()
        names.append((path.parent if path.suffix == ".parquet" else path).name.replace(":", "_") or "set")
    twice = {name for name in names if names.count(name) > 1}  # as .../a/images and .../b/images
    names = [
        f"{Path(place).resolve().parent.name}_{name}" if name in twice or _is_taken(name, place, known) else name
        for place, name in zip(places, names, strict=True)
    ]
    taken = any(_is_taken(name, place, known) for place, name in zip(places, names, strict=True))
    if taken or len(set(names)) < len(names):
        raise OptionError(
            f"two of the sets in `against`, now or before, have the same name ({', '.join(names)}); rename a folder."
        )
    return names


def _is_taken(name: str, place: str | Path, known: Mapping[str, str]) -> bool:
    """Whether another set, that is still there, has the name: its leaks would count as looked for again."""
    return known.get(name, str(Path(place).resolve())) != str(Path(place).resolve()) and Path(known[name]).exists()


def find_leakage(
    manifest: Manifest,
    mine: ImagePrints,
    place: str | Path,
    name: str,
    *,
    min_similarity: float,
    flips: bool,
    threads: int,
) -> Leakage:
    """Compare a build with one evaluation set; writes ``OUT/leakage/NAME.csv`` and ``NAME.png``.

    Args:
        manifest: of the build.
        mine: its images, in row order.
        place: a folder of images, a build or a manifest.
        name: of the set.
        min_similarity, flips, threads: as in ``near_duplicates``.
    """
    theirs = read_image_prints(image_files(place), threads)
    leaked = nearest(theirs, mine, min_similarity=min_similarity, flips=flips, threads=threads)
    back: Matches = best_matches(mine.prints, theirs.prints, least=min_similarity, flips=flips, threads=threads)
    leaked.sort(key=lambda pair: (-pair.exact, -pair.similarity, str(pair.path)))
    table = manifest.root / FOLDER / f"{name}.csv"
    write_bytes(table, _table(manifest, Path(place), leaked).encode())
    sheet = table.with_suffix(".png") if leaked else None
    if sheet is not None:
        write_bytes(sheet, encode_png(pair_sheet(leaked)))
    rows = np.flatnonzero(back.partner[:, 2] >= 0)
    return Leakage(
        name, len(theirs.paths), leaked, rows, back.similarity[rows, 2], len(theirs.unreadable), table, sheet
    )


def _table(manifest: Manifest, place: Path, leaked: Sequence[NearDuplicate]) -> str:
    """CSV, one line per leaked image of the set."""
    columns = (manifest.table.column(name).to_pylist() for name in ("path", "image_id", "source", "sequence"))
    rows = {str(manifest.root / path): rest for path, *rest in zip(*columns, strict=True)}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set_image", "similarity", "exact", "variant", "image_id", "source", "sequence"])
    for pair in leaked:
        path = pair.path.relative_to(place) if pair.path.is_relative_to(place) else pair.path
        values = [path, f"{pair.similarity:.4f}", "yes" if pair.exact else "no", pair.variant, *rows[str(pair.other)]]
        writer.writerow(values)
    return text.getvalue()


def pair_sheet(pairs: Sequence[NearDuplicate]) -> NDArray[np.uint8]:
    """Pairs side by side, two a line: the set's image with the similarity on it, then the build's.

    The most and the least similar ones where there are more than fit: the least similar are the ones to judge.
    """
    if len(pairs) > _SHOWN_PAIRS:
        pairs = [*pairs[: _SHOWN_PAIRS // 2], *pairs[-_SHOWN_PAIRS // 2 :]]
    cells: list[NDArray[np.uint8]] = []
    for pair in pairs:
        label = "equal" if pair.exact else f"{pair.similarity:.3f}"
        if pair.variant != VARIANTS[0]:
            label += f" {pair.variant}"
        cells += [_labelled(pair.path, label), _labelled(pair.other, "")]
    return contact_sheet(cells, columns=4, cell=_CELL)


def _labelled(path: Path, label: str) -> NDArray[np.uint8]:
    """An image at the sheet's size, with a line of text on a dark bar."""
    try:
        image = read_grey8(path)
    except (FrameError, OSError):
        image = np.zeros((_CELL, _CELL), np.uint8)
    scale = _CELL / max(image.shape)
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    picture = np.asarray(cv2.cvtColor(small, cv2.COLOR_GRAY2BGR), np.uint8)
    if label:
        width = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0]
        cv2.rectangle(picture, (0, 0), (width + 8, 18), (24, 24, 24), -1)
        cv2.putText(picture, label, (4, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (80, 220, 255), 1, cv2.LINE_AA)
    return picture
