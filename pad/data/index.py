"""The memory-mapped index of the images that training reads, made from a build or from shards of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msip.errors import ManifestError
from msip.files import atomic_path, path_or_url
from msip.manifest import Manifest
from msip.shards import Shards, is_shards
from msip.storage import WHOLE_FILE, Layout, Storage
from msip.trees import remote_errors


def open_data(path: str | Path) -> Manifest | Shards:
    """What there is to train on: a build, or shards of one (a folder or URL). Raises ``MsipError``."""
    if isinstance(path_or_url(path), str):
        with remote_errors(path):
            return Shards.read(path)
    return Shards.read(path) if is_shards(path) else Manifest.read(path)


def write_index(data: Manifest | Shards, path: Path) -> Path:
    """Write what training needs of the data as an Arrow file that all workers memory-map.

    Columns: image_id; path (relative to the data's root), offset, length: where the image lies, see ``msip.storage``;
    width, height; rois (list of 4 int32: x, y, width, height); sha256 (32 bytes, of the stored file) where the data
    has it: of decoded pixels (``raw``) it has none.
    """
    table = data.table
    rois = table.column("rois")
    lengths = pc.fill_null(pc.list_value_length(rois), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    boxes = pc.list_flatten(rois).combine_chunks()
    values = np.stack([boxes.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "width", "height")], 1)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.int32()), 4)
    columns = {name: table.column(name).cast(pa.large_string()).combine_chunks() for name in ("image_id", "path")}
    if isinstance(data, Manifest):
        columns |= {"offset": pa.array(np.zeros(len(data), np.int64))}
        columns |= {"length": pa.array(np.full(len(data), WHOLE_FILE))}
    else:
        columns |= {name: table.column(name).combine_chunks() for name in ("offset", "length")}
    columns |= {name: pc.fill_null(table.column(name), 0).combine_chunks() for name in ("width", "height")}
    if data.storage().layout != "raw" and "sha256" in table.column_names:
        hashes = [None if text is None else bytes.fromhex(text) for text in table.column("sha256").to_pylist()]
        columns["sha256"] = pa.array(hashes, pa.binary(32))
    index = pa.table({**columns, "rois": pa.LargeListArray.from_arrays(pa.array(offsets), flat)})
    index = index.replace_schema_metadata({"layout": data.storage().layout})
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, index.schema) as to,
    ):
        to.write_table(index)
    return path


class ImageIndex:
    """The memory-mapped file of ``write_index``; pickles as its path, so workers share one copy of the pages.

    Attributes:
        layout: how the images are stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        if table.num_rows == 0:
            raise ManifestError("the manifest leaves no image to train on; drop an `exclude_flag` or build it again.")
        self.layout: Layout = table.schema.metadata[b"layout"].decode()
        self._ids, self._paths, rois = (table.column(name).chunk(0) for name in ("image_id", "path", "rois"))
        names = ("offset", "length", "width", "height")
        self._offset, self._length, self._width, self._height = (table.column(n).chunk(0).to_numpy() for n in names)
        hashed = "sha256" in table.column_names  # an index of version 0.1 has none
        self._hashes: Any = table.column("sha256").chunk(0) if hashed else None
        self._first_roi = rois.offsets.to_numpy()
        self._boxes = rois.values.values.to_numpy().reshape(-1, 4)

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.path = state["path"]
        self._open()

    def __len__(self) -> int:
        return len(self._paths)

    def image_id(self, row: int) -> str:
        """``<source>/<stem>``."""
        return str(self._ids[row].as_py())

    def relative_path(self, row: int) -> str:
        """Of the file that holds the image, relative to the data's folder."""
        return str(self._paths[row].as_py())

    def read_grey(self, row: int, storage: Storage) -> NDArray[np.uint8] | None:
        """The stored image, uint8 (h, w), perhaps read-only; ``None`` if it is absent, damaged or cannot be decoded."""
        size = int(self._width[row]), int(self._height[row])
        place = self.relative_path(row), int(self._offset[row]), int(self._length[row])
        return storage.read_grey(*place, size, None if self._hashes is None else self._hashes[row].as_py())

    def rois(self, row: int) -> NDArray[np.int32]:
        """(n, 4) x, y, width, height in pixels; n may be 0."""
        boxes: NDArray[np.int32] = self._boxes[self._first_roi[row] : self._first_roi[row + 1]]
        return boxes
