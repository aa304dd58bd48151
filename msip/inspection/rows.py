"""A manifest as the App needs it, read row group by row group: what is kept does not grow with the number of RoIs.

Nothing here needs FiftyOne. Ids are functions of ``image_id``, so that an update finds its samples again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msip.errors import ManifestError
from msip.files import sha256_bytes
from msip.manifest import MANIFEST_NAME, ROI_FIELDS, Manifest, flag_name

FORMAT = 2
"""Part of every digest: another way of writing documents updates every sample."""

SMALL_SHARE, LARGE_SHARE = 0.02, 0.15
"""Share of the image that a RoI's box covers; large is what ``RoiCrop`` calls large (``RoiCrop.large_area``)."""

DARK_MEAN, LOW_CONTRAST_STD = 0.1, 0.05
"""Of grey values in 0 to 1: an image below either is in the view ``dark and low contrast``."""

MOST_PATCHES = 20_000
"""Of one patches view: FiftyOne copies every patch into a collection of its own (75 s for 5 million)."""

DIGESTED_TEXT = ("source", "split", "path", "source_path", "sequence", "sha256", "transform", "phash", "licence")
DIGESTED_NUMBERS = ("frame_index", "width", "height", "channels", "bit_depth", "pixel_mean", "pixel_std")
COLUMNS: tuple[str, ...] = ("image_id", *DIGESTED_TEXT, *DIGESTED_NUMBERS, "flags", "rois")
"""What the App shows of a row."""


def sample_id(image_id: str) -> str:
    """24 hexadecimal digits (a MongoDB ObjectId) that stand for one image in the database."""
    return hashlib.blake2b(image_id.encode(), digest_size=12).hexdigest()


def dataset_name(out: Path) -> str:
    """The folder's name, and eight digits of its whole path: two builds called ``data`` do not meet."""
    resolved = out.resolve()
    words = re.sub(r"[^A-Za-z0-9]+", "-", resolved.name).strip("-") or "msip"
    return f"{words}-{sha256_bytes(str(resolved).encode())[:8]}"


def spread(total: int, most: int | None) -> NDArray[np.int64]:
    """Row numbers: all of ``total``, or ``most`` of them, spread evenly."""
    if most is None or most >= total:
        return np.arange(total)
    return np.unique(np.linspace(0, total - 1, most).astype(np.int64))


@dataclass(frozen=True)
class Boxes:
    """RoIs of some rows.

    Attributes:
        offsets: int64 (n + 1): the RoIs of row i are ``values[offsets[i]:offsets[i + 1]]``.
        values: int32 (m, 5) x, y, width, height in pixels, area in region pixels.
        shares: float64 (m,) share of the image that each box covers.
        computed: bool (n,) RoIs were computed; there may be none.
    """

    offsets: NDArray[np.int64]
    values: NDArray[np.int32]
    shares: NDArray[np.float64]
    computed: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table) -> Boxes:
        """From a table with ``rois``, ``width`` and ``height``."""
        column = table.column("rois")
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        flat = pc.list_flatten(column).combine_chunks()
        values = np.stack([flat.field(name).to_numpy(zero_copy_only=False) for name in ROI_FIELDS], 1).astype(np.int32)
        width, height = (table.column(name).to_numpy().astype(np.int64) for name in ("width", "height"))
        pixels = np.repeat(np.maximum(1, width * height), lengths)
        shares = values[:, 2].astype(np.int64) * values[:, 3] / pixels
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        return cls(offsets, values, shares, column.is_valid().to_numpy())

    @property
    def lengths(self) -> NDArray[np.int64]:
        """RoIs per row."""
        return np.diff(self.offsets)

    def sums(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n,) ``values``, one a RoI, added up per row."""
        total = np.concatenate([np.zeros(1, values.dtype), np.cumsum(values)])
        return np.asarray(total[self.offsets[1:]] - total[self.offsets[:-1]])

    def largest(self) -> NDArray[np.float64]:
        """(n,) share of the image that the largest box covers; 0 where there is none."""
        padded = np.append(self.shares, 0.0)
        found = np.maximum.reduceat(padded, np.minimum(self.offsets[:-1], len(self.shares)))
        return np.where(self.lengths > 0, found, 0.0)


class Rows:
    """A manifest on disk, or some of its rows; arrays hold one value per row.

    Attributes:
        root: the folder OUT, absolute.
        sample_ids: in the database.
        flags: as in the manifest.
        groups: the image that this one is, or has, a duplicate of (an image_id), else ``None``.
        sources: images per source, in order of first appearance.
        digests: int64, changes with anything that the App shows of the row.
        roi_counts, small_counts, large_counts: RoIs, those below ``SMALL_SHARE``, those from ``LARGE_SHARE``.
        computed: RoIs were computed; there may be none.
        dark: mean or standard deviation of the grey values is low; an unknown one is not.
    """

    def __init__(self, out: str | Path, max_samples: int | None = None) -> None:
        """Read ``out``; ``max_samples``: only this many rows, spread evenly. Raises ``ManifestError``."""
        manifest = Manifest.read(out, ("image_id", "source", "flags"))
        self.root = manifest.root.resolve()
        self._file = pq.ParquetFile(manifest.root / MANIFEST_NAME, memory_map=True)
        self._chosen = spread(len(manifest), max_samples)
        known = Manifest(manifest.table.take(self._chosen), self.root)
        image_ids = known.table.column("image_id").to_pylist()
        self.sample_ids = [sample_id(name) for name in image_ids]
        self.flags: list[Sequence[str]] = [flags or () for flags in known.table.column("flags").to_pylist()]
        self.groups = _groups(image_ids, self.flags)
        self.sources = known.counts()
        parts = [_summary(table, self, rows) for rows, table in self.tables(np.arange(len(self)))]
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else _NO_SUMMARY
        self.digests: NDArray[np.int64] = columns["digests"]
        self.computed: NDArray[np.bool_] = columns["computed"]
        self.dark: NDArray[np.bool_] = columns["dark"]
        self.roi_counts, self.small_counts, self.large_counts = (columns[name] for name in ("all", "small", "large"))

    def __len__(self) -> int:
        return len(self.sample_ids)

    def tables(
        self, rows: NDArray[np.int64], columns: Sequence[str] = COLUMNS
    ) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """Read ``rows`` (ascending), one row group at a time: (some of the rows, their table)."""
        wanted, end = self._chosen[rows], 0
        for group in range(self._file.num_row_groups):
            start, end = end, end + self._file.metadata.row_group(group).num_rows
            first, last = np.searchsorted(wanted, [start, end])
            if first == last:
                continue
            try:
                table = self._file.read_row_group(group, columns=list(columns))
            except (pa.ArrowInvalid, OSError) as error:
                raise ManifestError(f"{self.root / MANIFEST_NAME} is damaged ({error}); build it again.") from error
            yield rows[first:last], table.take(wanted[first:last] - start)

    def chosen_for_patches(self, per_image: int) -> NDArray[np.int64]:
        """Rows whose patches are shown: all, or as many as give at most ``MOST_PATCHES``, spread evenly.

        Args:
            per_image: training crops that each of them also gets.
        """
        total = max(int(self.roi_counts.sum()), per_image * len(self))
        count = len(self)
        if total <= MOST_PATCHES:
            return np.arange(count)
        count = max(1, int(count * MOST_PATCHES / total))
        while True:
            rows = spread(len(self), count)
            if count == 1 or max(int(self.roi_counts[rows].sum()), per_image * len(rows)) <= MOST_PATCHES:
                return rows
            count = max(1, int(count * 0.95))


_NO_SUMMARY = {
    "digests": np.zeros(0, np.int64),
    "computed": np.zeros(0, bool),
    "dark": np.zeros(0, bool),
    **{name: np.zeros(0, np.int64) for name in ("all", "small", "large")},
}


def _summary(table: pa.Table, rows: Rows, part: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """What is kept of some rows."""
    boxes = Boxes.of(table)
    mean, std = (table.column(name).to_numpy() for name in ("pixel_mean", "pixel_std"))
    return {
        "digests": _digests(table, boxes, rows, part),
        "computed": boxes.computed,
        "dark": (mean < DARK_MEAN) | (std < LOW_CONTRAST_STD),  # a null is NaN here, and below nothing
        "all": boxes.lengths,
        "small": boxes.sums((boxes.shares < SMALL_SHARE).astype(np.int64)),
        "large": boxes.sums((boxes.shares >= LARGE_SHARE).astype(np.int64)),
    }


def _digests(table: pa.Table, boxes: Boxes, rows: Rows, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every column in one type, whatever its neighbours are: a row's digest depends on this row alone."""
    frame = table.select([*DIGESTED_TEXT, *DIGESTED_NUMBERS]).to_pandas()
    for name in DIGESTED_TEXT:
        frame[name] = frame[name].astype(object).fillna("")
    for name in DIGESTED_NUMBERS:
        frame[name] = frame[name].astype(float).fillna(-1.0)
    frame["flags"] = ["\n".join(rows.flags[row]) for row in part.tolist()]
    frame["group"] = [rows.groups[row] or "" for row in part.tolist()]
    frame["rois"] = _roi_digests(boxes)
    frame["computed"] = boxes.computed
    frame["seed"] = f"{FORMAT} {rows.root}"
    return pd.util.hash_pandas_object(frame, index=False).to_numpy().view(np.int64)


def _roi_digests(boxes: Boxes) -> NDArray[np.uint64]:
    """(n,) of each row's boxes and their order."""
    starts = np.repeat(boxes.offsets[:-1], boxes.lengths)
    mixed = (np.arange(len(boxes.values)) - starts).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for column in range(boxes.values.shape[1]):
        mixed = (mixed ^ boxes.values[:, column].astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(29)
    return boxes.sums(mixed)


def _groups(image_ids: list[str], flags: list[Sequence[str]]) -> list[str | None]:
    """Per row the image at the end of its chain of ``duplicate_of:`` and ``near_duplicate_of:`` flags."""
    of: dict[str, str] = {}
    for name, given in zip(image_ids, flags, strict=True):
        for flag in given:
            if flag_name(flag).endswith("duplicate_of") and ":" in flag:
                of.setdefault(name, flag.split(":", 1)[1])
    originals = set(of.values())
    return [_end_of_chain(name, of) if name in of or name in originals else None for name in image_ids]


def _end_of_chain(name: str, of: dict[str, str]) -> str:
    seen = [name]
    while seen[-1] in of:
        following = of[seen[-1]]
        if following in seen:  # two images that name each other
            return min(seen[seen.index(following) :])
        seen.append(following)
    return seen[-1]


def size_class(share: float) -> str:
    """``small``, ``medium`` or ``large``: the label of a RoI, by the share of the image that its box covers."""
    return "small" if share < SMALL_SHARE else "large" if share >= LARGE_SHARE else "medium"
