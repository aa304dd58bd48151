"""The manifest: Parquet, one row an image. The columns are fixed (README, "What a build leaves on disk")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msip.errors import ManifestError, ManifestNotFound
from msip.files import atomic_path, sha256_file
from msip.sampling import evenly_spread
from msip.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

MANIFEST_NAME = "manifest.parquet"
ROI_FIELDS = ("x", "y", "width", "height", "area")

_ROI = pa.struct([pa.field(name, pa.int32()) for name in ROI_FIELDS])

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),  # <source>/<stem>
        pa.field("source", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("path", pa.string(), nullable=False),  # of the stored file, relative to OUT
        pa.field("source_path", pa.string(), nullable=False),  # inside the raw source
        pa.field("sequence", pa.string()),
        pa.field("frame_index", pa.int32()),  # position in its sequence before the stride
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("channels", pa.int8()),  # of the stored file
        pa.field("bit_depth", pa.int8()),  # of the raw frame
        pa.field("sha256", pa.string()),  # of the stored file
        pa.field("source_sha256", pa.string()),
        pa.field("transform", pa.string()),
        pa.field("pixel_mean", pa.float64()),  # of the stored grey image, 0 to 1
        pa.field("pixel_std", pa.float64()),
        pa.field("phash", pa.string()),
        pa.field("rois", pa.list_(_ROI)),  # null: not computed; empty: none found
        pa.field("flags", pa.list_(pa.string())),
        pa.field("licence", pa.string()),
    ]
)


OPTIONAL = pa.schema([pa.field("nodata", pa.int32())])  # pixels without a measurement, stored as 0
"""Columns that only manifests have in which some row has a value there."""


class Manifest:
    """What a build made: a table with one row an image, and the folder that the paths are relative to.

    Attributes:
        table: the ``pyarrow.Table``, columns as in ``SCHEMA``, and of ``OPTIONAL`` those that say something.
        root: the folder OUT.
    """

    def __init__(self, table: pa.Table, root: Path) -> None:
        self.table = table
        self.root = Path(root)

    @classmethod
    def read(cls, path: str | Path, columns: Sequence[str] | None = None) -> Manifest:
        """Read OUT (a folder) or OUT/manifest.parquet, all columns or some. Raises ``ManifestError``."""
        path = Path(path)
        file = path if path.suffix == ".parquet" or path.is_file() else path / MANIFEST_NAME
        if not file.is_file():
            missing = "" if file.parent.is_dir() else f", the folder {file.parent} does not exist"
            raise ManifestNotFound(f"no manifest at {file}{missing}; give the folder of a build (`msip build`).")
        try:
            present = pq.read_schema(file).names
            absent = [name for name in SCHEMA.names if name not in present]
            table = None if absent else pq.read_table(file, columns=columns and list(columns), memory_map=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise ManifestError(
                f"{file} is not a readable Parquet file ({error}); remove it and build it again."
            ) from error
        if table is None:
            raise ManifestError(
                f"{file} lacks the columns {', '.join(absent)}: it is not a manifest of `msip build`; build it again."
            )
        return cls(table, file.parent)

    @classmethod
    def from_rows(cls, rows: Iterable[dict[str, Any]], root: Path) -> Manifest:
        """Make a manifest from row dictionaries with the keys of ``SCHEMA``."""
        return cls(pa.Table.from_pylist(list(rows), schema=SCHEMA), root)

    def write(self) -> Path:
        """Write ``root/manifest.parquet``, whole or not at all; equal tables give equal bytes."""
        path = self.root / MANIFEST_NAME
        with atomic_path(path) as temporary:
            pq.write_table(self.table, temporary, compression="zstd", row_group_size=16_384)
        return path

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def frame(self) -> pd.DataFrame:
        """The table as a pandas frame."""
        return self.table.to_pandas()

    def rois(self, index: int) -> NDArray[np.int32]:
        """RoIs of row ``index``: int32 (n, 5) x, y, width, height in pixels and area in region pixels."""
        boxes = self.table.column("rois")[index]
        if not boxes.is_valid or len(boxes) == 0:
            return np.zeros((0, 5), np.int32)
        values = boxes.values
        return np.stack([values.field(name).to_numpy(zero_copy_only=False) for name in ROI_FIELDS], axis=1)

    def path(self, index: int) -> Path:
        """Absolute path of the stored image of row ``index``."""
        return self.root / self.table.column("path")[index].as_py()

    def without_flags(self, flags: Sequence[str]) -> Manifest:
        """The rows that carry none of ``flags``; see ``rows_without_flags``."""
        return Manifest(rows_without_flags(self.table, flags), self.root) if flags else self

    def limited(self, most: int | None) -> Manifest:
        """All rows, or ``most`` of them, spread evenly."""
        rows = evenly_spread(len(self), most)
        return self if len(rows) == len(self) else Manifest(self.table.take(rows), self.root)

    def with_flags(self, flags: Sequence[Sequence[str]]) -> Manifest:
        """The same rows with other flags, one list a row."""
        field = SCHEMA.field("flags")
        column = pa.array(flags, field.type)
        return Manifest(self.table.set_column(self.table.schema.get_field_index("flags"), field, column), self.root)

    def digest(self) -> str:
        """SHA-256 of the manifest's file."""
        return sha256_file(self.root / MANIFEST_NAME)

    def storage(self) -> Storage:
        """Reads single images."""
        return Storage(self.root, "folder")

    def counts(self) -> dict[str, int]:
        """Images per source, in order of first appearance."""
        result: dict[str, int] = {}
        for item in self.table.column("source").value_counts().to_pylist():
            result[item["values"]] = item["counts"]
        return result


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of all: the columns of ``SCHEMA``, and of ``OPTIONAL`` those in which some row has a value."""
    optional = [
        field
        for field in OPTIONAL
        if any(field.name in t.column_names and t.column(field.name).null_count < len(t) for t in tables)
    ]
    schema = pa.schema([*SCHEMA, *optional])
    columns = [
        [t.column(f.name).cast(f.type) if f.name in t.column_names else pa.nulls(len(t), f.type) for f in schema]
        for t in tables
    ]
    return pa.concat_tables([pa.Table.from_arrays(c, schema=schema) for c in columns]).combine_chunks()


def flag_name(flag: str) -> str:
    """``duplicate_of:llvip/010001`` to ``duplicate_of``."""
    return flag.split(":", 1)[0]


def rows_without_flags(table: pa.Table, flags: Sequence[str]) -> pa.Table:
    """The rows whose ``flags`` name none of ``flags``.

    A name matches the whole flag, what stands before its colon, and that without ``_of``: ``duplicate`` and
    ``duplicate_of`` both match ``duplicate_of:<image_id>``, and neither matches ``near_duplicate_of:<image_id>``.
    """
    column = table.column("flags")
    parents = pc.list_parent_indices(column).to_numpy()
    names = pc.list_flatten(column).to_pylist()
    wanted = set(flags)
    hit = np.fromiter((not wanted.isdisjoint(_called(name)) for name in names), bool, len(names))
    keep = np.ones(table.num_rows, bool)
    keep[parents[hit]] = False
    return table.filter(pa.array(keep))


def unmatched_flags(table: pa.Table, flags: Sequence[str]) -> tuple[str, ...]:
    """A sentence for each of ``flags``, as ``rows_without_flags`` takes them, that no row has: it may be misspelt."""
    carried = pc.unique(pc.list_flatten(table.column("flags"))).to_pylist()
    known = {name for flag in carried for name in _called(flag)}
    kinds = ", ".join(sorted(set(map(flag_name, carried)))) or "none"
    return tuple(
        f"no image has the flag {flag}, so leaving it out changes nothing (flags here: {kinds})."
        for flag in flags
        if flag not in known
    )


def _called(flag: str) -> tuple[str, str, str]:
    """The names that mean a flag."""
    kind = flag_name(flag)
    return flag, kind, kind.removesuffix("_of")


def carried_flags(table: pa.Table, earlier: pa.Table) -> list[list[str]]:
    """The flags of ``table``, and those that the same images have in an ``earlier`` manifest.

    An image is the same if it comes from the same raw file and its stored file has the same SHA-256. A flag that names
    another image, as ``duplicate_of:<image_id>`` does, follows that image to its new name and goes with it.
    """
    flags = [list(found or []) for found in table.column("flags").to_pylist()]
    given = {row: found for row, found in enumerate(earlier.column("flags").to_pylist()) if found}
    if not given:
        return flags
    rows = {key: row for row, key in enumerate(_identities(table))}
    ids, earlier_ids = table.column("image_id").to_pylist(), earlier.column("image_id").to_pylist()
    places = [rows.get(key) for key in _identities(earlier)]
    renamed = {name: None if row is None else ids[row] for name, row in zip(earlier_ids, places, strict=True)}
    for row, found in given.items():
        place = places[row]
        if place is not None:
            moved = (_renamed(flag, renamed) for flag in found)
            flags[place] += [flag for flag in moved if flag is not None and flag not in flags[place]]
    return flags


def _identities(table: pa.Table) -> Iterator[tuple[str, ...]]:
    columns = (table.column(name).to_pylist() for name in ("source", "source_path", "sha256"))
    return zip(*columns, strict=True)


def _renamed(flag: str, renamed: dict[str, str | None]) -> str | None:
    """``name:<image_id>`` with the image's new id; ``None`` if it is no longer there."""
    name, colon, image_id = flag.partition(":")
    if not colon or image_id not in renamed:
        return flag
    now = renamed[image_id]
    return None if now is None else f"{name}:{now}"
