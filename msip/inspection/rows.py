"""A manifest as the App needs it, read row group by row group: what is kept does not grow with the number of RoIs.

Nothing here needs FiftyOne. Ids are functions of ``image_id``, so that an update finds its samples again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
from msip.manifest import MANIFEST_NAME, ROI_FIELDS, SCHEMA, Manifest, flag_name
from msip.sampling import evenly_spread

FORMAT = 3
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

    def of_row(self, row: int) -> NDArray[np.int32]:
        """(n, 5) the RoIs of a row."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

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
    """A manifest on disk, or some of its rows; lists hold one entry a row.

    Attributes:
        max_samples: the most rows, spread evenly; ``None`` for all.
        manifest: ``image_id``, ``source``, ``path`` and ``flags`` of the rows.
        root: the folder OUT, absolute.
        sample_ids: in the database.
        flags: as in the manifest.
    """

    def __init__(self, out: str | Path, max_samples: int | None = None) -> None:
        """Read ``out``; ``max_samples``: only this many rows, spread evenly. Raises ``ManifestError``."""
        manifest = Manifest.read(out, ("image_id", "source", "path", "flags"))
        self.root = manifest.root.resolve()
        self._file = pq.ParquetFile(manifest.root / MANIFEST_NAME, memory_map=True)
        self.max_samples = max_samples
        self._chosen = evenly_spread(len(manifest), max_samples)
        self.manifest = manifest.limited(max_samples)
        self._image_ids = self.manifest.table.column("image_id").to_pylist()
        self.sample_ids = [sample_id(name) for name in self._image_ids]
        self.flags: list[Sequence[str]] = [flags or () for flags in self.manifest.table.column("flags").to_pylist()]

    @cached_property
    def groups(self) -> list[str | None]:
        """The image (an image_id) that each one is, or has, a duplicate of, else ``None``."""
        return _groups(self._image_ids, self.flags)

    @cached_property
    def numbers(self) -> pd.DataFrame:
        """One line a row, from all columns of the manifest.

        digest              int64, changes with anything that the App shows of the row
        computed            RoIs were computed; there may be none
        dark                mean or deviation of the grey values is low; unknown ones are not
        rois, small, large  RoIs, those below ``SMALL_SHARE``, those from ``LARGE_SHARE``
        """
        found = [_numbers(table, self, rows) for rows, table in self.tables(np.arange(len(self)))]
        return pd.concat(found or [_numbers(SCHEMA.empty_table(), self, np.arange(0))], ignore_index=True)

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
        counts = self.numbers["rois"].to_numpy()
        total = max(1, int(counts.sum()), per_image * len(self))
        count = min(len(self), int(len(self) * MOST_PATCHES / total))
        while True:
            rows = evenly_spread(len(self), max(1, count))
            if count <= 1 or max(int(counts[rows].sum()), per_image * len(rows)) <= MOST_PATCHES:
                return rows
            count = int(count * 0.95)


def _numbers(table: pa.Table, rows: Rows, part: NDArray[np.int64]) -> pd.DataFrame:
    """``Rows.numbers`` of the rows ``part``, whose columns are ``table``."""
    boxes = Boxes.of(table)
    mean, std = (table.column(name).to_numpy() for name in ("pixel_mean", "pixel_std"))
    return pd.DataFrame(
        {
            "digest": _digests(table, boxes, rows, part),
            "computed": boxes.computed,
            "dark": (mean < DARK_MEAN) | (std < LOW_CONTRAST_STD),  # a null is NaN here, and below nothing
            "rois": boxes.lengths,
            "small": boxes.sums((boxes.shares < SMALL_SHARE).astype(np.int64)),
            "large": boxes.sums((boxes.shares >= LARGE_SHARE).astype(np.int64)),
        }
    )


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
