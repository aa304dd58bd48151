"""What is already done, on disk, so that a killed job continues and an unchanged one does nothing.

A ledger is a folder of small Parquet files, one per finished batch, each written whole or not at all. ``finish``
joins them into one. Entries are found by a key column; the newest entry of a key counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from msip.files import atomic_path

_COMPACT_NAME = "all.parquet"


class Ledger:
    """Finished work of one kind and one recipe; another recipe has another folder.

    Args:
        folder: where the parts lie; created on the first ``append``.
        schema: of the entries.
        key: the column that names an entry.
    """

    def __init__(self, folder: Path, schema: pa.Schema, key: str) -> None:
        self.folder = folder
        self.schema = schema
        self.key = key
        self._next = 0

    def read(self) -> pa.Table:
        """All entries, oldest first; parts that cannot be read (a crash of the machine) count as not done."""
        tables = []
        for path in self._parts():
            try:
                tables.append(pq.read_table(path, schema=self.schema, page_checksum_verification=True))
            except (pa.ArrowInvalid, OSError, KeyError):
                path.unlink(missing_ok=True)
        if not tables:
            return self.schema.empty_table()
        return pa.concat_tables(tables)

    def index(self, table: pa.Table) -> dict[str, int]:
        """Key to row number in ``table``; the last row of a key wins."""
        return {key: row for row, key in enumerate(table.column(self.key).to_pylist())}

    def append(self, entries: list[dict[str, object]]) -> None:
        """Add finished entries. They outlive the process; a power cut may lose the last ones, which are then redone."""
        self._write(f"{self._number():08d}.parquet", pa.Table.from_pylist(entries, schema=self.schema), sync=False)

    def finish(self, wanted: Sequence[str]) -> pa.Table:
        """The newest entry of each ``wanted`` key, in that order; everything else is dropped, parts become one."""
        table = self.read()
        rows = self.index(table)
        table = table.take(pa.array([rows[key] for key in wanted], pa.int64()))
        parts = [path for path in self._parts() if path.name != _COMPACT_NAME]
        if parts or len(rows) != len(wanted):
            self._write(_COMPACT_NAME, table, sync=True)
            for path in parts:
                path.unlink(missing_ok=True)
        return table

    def drop_others(self) -> None:
        """Remove the ledgers of older recipes that lie beside this one."""
        for other in self.folder.parent.iterdir() if self.folder.parent.is_dir() else ():
            if other.is_dir() and other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    def _parts(self) -> list[Path]:
        compacted = self.folder / _COMPACT_NAME
        numbered = sorted(self.folder.glob("[0-9]*.parquet"))
        return ([compacted] if compacted.exists() else []) + numbered

    def _number(self) -> int:
        if self._next == 0:
            self._next = 1 + max((int(path.stem) for path in self.folder.glob("[0-9]*.parquet")), default=0)
        self._next += 1
        return self._next - 1

    def _write(self, name: str, table: pa.Table, *, sync: bool) -> None:
        with atomic_path(self.folder / name, sync=sync) as temporary:
            pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)
