"""The pieces that an export is made of: some images each, written by a worker, noted when whole.

``TO/.msip/export/<name>.parquet`` has one row a crop (``CHUNK_SCHEMA``). It is written twice: before the crops, so that
what a killed export left behind is known, and after them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msip.errors import ManifestError
from msip.export.recipe import Crop, CropRecipe
from msip.files import atomic_path, write_bytes
from msip.manifest import ROI_FIELDS, Manifest
from msip.pictures import encode_png
from msip.shards import add_tar_member, end_tar, tar_key
from msip.storage import decode_image, stored_bytes

CropFormat = Literal["folder", "webdataset", "coco"]

IMAGES_A_CHUNK = 32
"""Of an export to files; a tar holds as many images as fit."""

_VERSION = 1
_READ = ("image_id", "source", "split", "path", "width", "height", "channels", "sha256", "transform", "licence", "rois")
_BOX = pa.struct([pa.field(name, pa.float64()) for name in ROI_FIELDS])

CHUNK_SCHEMA = pa.schema(
    [
        pa.field("file", pa.string()),  # of the crop, relative to TO; its name in the tar
        pa.field("shard", pa.string()),  # the tar that holds it
        pa.field("offset", pa.int64()),  # of its bytes in the tar
        pa.field("length", pa.int64()),
        pa.field("image_id", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("view", pa.int32()),
        *(pa.field(name, pa.int32()) for name in ROI_FIELDS[:4]),  # the crop in the stored image
        *(pa.field(f"roi_{name}", pa.int32()) for name in ROI_FIELDS),  # the proposal that was cut out
        pa.field("size", pa.int32()),  # side in pixels that it was squashed to
        pa.field("flip", pa.int8()),
        pa.field("seed", pa.int64()),
        pa.field("epoch", pa.int64()),
        pa.field("crop_width", pa.int32()),
        pa.field("crop_height", pa.int32()),
        pa.field("source", pa.string()),
        pa.field("split", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("image_sha256", pa.string()),  # of the stored image
        pa.field("transform", pa.string()),  # from the raw frame to the crop
        pa.field("boxes", pa.list_(_BOX)),  # proposals in the crop, in its pixels
    ]
)


_OfImage: TypeAlias = tuple[dict[str, Any], list[Crop], list[dict[str, Any]]]
"""An image's row of the manifest, its crops, and what is noted about each."""


@dataclass(frozen=True)
class Chunk:
    """Some images of a manifest, and what becomes of them.

    Attributes:
        name: of the chunk.
        digest: names exactly these crops of these images.
        root: the build.
        to: the export.
        fmt: what is written.
        recipe: which crops.
        images: rows of the manifest, as an Arrow stream (compact, and quick to send to a worker).
    """

    name: str
    digest: str
    root: Path
    to: Path
    fmt: CropFormat
    recipe: CropRecipe
    images: bytes

    @property
    def note(self) -> Path:
        """Where the chunk is noted."""
        return notes_folder(self.to) / f"{self.name}.parquet"

    @property
    def shard(self) -> str | None:
        """The tar."""
        return f"{self.name}.tar" if self.fmt == "webdataset" else None


def notes_folder(to: Path) -> Path:
    """Where an export keeps its notes; marks a folder as an export."""
    return to / ".msip" / "export"


def plan(manifest: Manifest, to: Path, fmt: CropFormat, recipe: CropRecipe, tar_pixels: int) -> Iterator[Chunk]:
    """Consecutive images; a tar is closed before its crops would have more than ``tar_pixels`` pixels together."""
    table = manifest.table.select(_READ)
    start, filled, number = 0, 0, 0
    for row in range(len(manifest)):
        pixels = _pixels(manifest, row, recipe) if fmt == "webdataset" else 0
        full = filled + pixels > tar_pixels if fmt == "webdataset" else row - start == IMAGES_A_CHUNK
        if full and row > start:
            yield _chunk(table.slice(start, row - start), number, manifest.root, to, fmt, recipe)
            start, filled, number = row, 0, number + 1
        filled += pixels
    yield _chunk(table.slice(start), number, manifest.root, to, fmt, recipe)


def _pixels(manifest: Manifest, row: int, recipe: CropRecipe) -> int:
    if recipe.mode == "training":
        return (recipe.per_image or 1) * recipe.crop.size**2
    size = int(manifest.table.column("width")[row].as_py()), int(manifest.table.column("height")[row].as_py())
    return sum(crop.box[2] * crop.box[3] for crop in recipe.crops("", size, manifest.rois(row)))


def _chunk(table: pa.Table, number: int, root: Path, to: Path, fmt: CropFormat, recipe: CropRecipe) -> Chunk:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    images = sink.getvalue().to_pybytes()
    digest = hashlib.sha256(f"{_VERSION} {fmt} {recipe}".encode() + images).hexdigest()
    return Chunk(f"crops-{number:06d}", digest, root, to, fmt, recipe, images)


def is_finished(chunk: Chunk) -> bool:
    """Whether all crops of the chunk are there, whole."""
    table = read_note(chunk.note)
    if table is None or not finished_note(table) or table.schema.metadata[b"digest"].decode() != chunk.digest:
        return False
    try:
        if chunk.shard:
            return (chunk.to / chunk.shard).stat().st_size == int(table.schema.metadata[b"bytes"])
        files, lengths = (table.column(name).to_pylist() for name in ("file", "length"))
        return all((chunk.to / file).stat().st_size == length for file, length in zip(files, lengths, strict=True))
    except OSError:
        return False


def read_note(path: Path) -> pa.Table | None:
    """What is noted about a chunk, ``None`` if it cannot be read."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError):
        return None
    return table if table.schema.names == CHUNK_SCHEMA.names else None


def finished_note(table: pa.Table) -> bool:
    """Whether the chunk was whole when it was noted."""
    return int(table.schema.metadata[b"bytes"]) >= 0


def remove_chunk(to: Path, note: Path) -> None:
    """Remove the crops of a chunk of an earlier export, then its note."""
    table = read_note(note)
    if table is not None:
        paths = {to / (row["shard"] or row["file"]) for row in table.select(["file", "shard"]).to_pylist()}
        for path in paths:
            path.unlink(missing_ok=True)
        for folder in {path.parent for path in paths} - {to}:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    note.unlink(missing_ok=True)


def write_chunk(chunk: Chunk) -> tuple[str, int]:
    """Write the crops of one chunk; returns its name and its number of images."""
    with pa.ipc.open_stream(chunk.images) as reader:
        manifest = Manifest(reader.read_all(), chunk.root)
    found = list(_crops(chunk, manifest))
    _write_note(chunk, found, -1)
    size = (_write_tar if chunk.shard else _write_files)(chunk, found)
    _write_note(chunk, found, size)
    return chunk.name, len(manifest)


def _crops(chunk: Chunk, manifest: Manifest) -> Iterator[_OfImage]:
    for row, image in enumerate(manifest.table.drop_columns("rois").to_pylist()):
        size = image["width"], image["height"]
        crops = list(chunk.recipe.crops(image["image_id"], size, manifest.rois(row)))
        yield image, crops, [_record(chunk, image, crop) for crop in crops]


def _record(chunk: Chunk, image: dict[str, Any], crop: Crop) -> dict[str, Any]:
    key = tar_key(image["image_id"]) if chunk.shard else image["image_id"]
    drawn = {"size": crop.side, "flip": int(crop.flip), "seed": chunk.recipe.seed, "epoch": chunk.recipe.epoch}
    return {
        "file": f"{key}_{crop.view}.png",
        "shard": chunk.shard,
        "mode": chunk.recipe.mode,
        "view": crop.view,
        **dict(zip(ROI_FIELDS[:4], crop.box, strict=True)),
        **({f"roi_{name}": value for name, value in zip(ROI_FIELDS, crop.roi, strict=True)} if crop.roi else drawn),
        **dict(zip(("crop_width", "crop_height"), crop.size, strict=True)),
        **{name: image[name] for name in ("image_id", "source", "split", "licence")},
        "image_sha256": image["sha256"],
        "transform": "; ".join(step for step in (image["transform"], crop.steps) if step),
        "boxes": [dict(zip(ROI_FIELDS, box, strict=True)) for box in crop.boxes],
    }


def _write_note(chunk: Chunk, found: list[_OfImage], size: int) -> None:
    with_crops = sum(1 for _, crops, _ in found if crops)
    notes = {"digest": chunk.digest, "images": str(len(found)), "with_crops": str(with_crops), "bytes": str(size)}
    records = [record for *_, of_image in found for record in of_image]
    with atomic_path(chunk.note, sync=False) as temporary:
        table = pa.Table.from_pylist(records, schema=CHUNK_SCHEMA.with_metadata(notes))
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _write_files(chunk: Chunk, found: list[_OfImage]) -> int:
    for record, data in _encoded(chunk, found):
        write_bytes(chunk.to / record["file"], data, sync=False)
        record |= {"offset": 0, "length": len(data)}
    return sum(record["length"] for *_, records in found for record in records)


def _write_tar(chunk: Chunk, found: list[_OfImage]) -> int:
    with atomic_path(chunk.to / str(chunk.shard)) as temporary:
        with temporary.open("wb") as file:
            for record, data in _encoded(chunk, found):
                text = json.dumps(_provenance(record), ensure_ascii=False, sort_keys=True)
                record |= {"offset": add_tar_member(file, record["file"], data), "length": len(data)}
                add_tar_member(file, record["file"].removesuffix(".png") + ".json", text.encode())
            end_tar(file)
        return temporary.stat().st_size


def _encoded(chunk: Chunk, found: list[_OfImage]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each crop's record, and its PNG; an image without crops is not read."""
    for image, crops, records in found:
        if crops:
            pixels = _read_image(chunk, image)
            yield from ((record, encode_png(crop.pixels(pixels))) for crop, record in zip(crops, records, strict=True))


def _provenance(record: dict[str, Any]) -> dict[str, Any]:
    """A crop's record in a tar: what is known, without where it lies."""
    return {name: value for name, value in record.items() if name not in ("file", "shard") and value is not None}


def _read_image(chunk: Chunk, image: dict[str, Any]) -> NDArray[np.uint8]:
    """One channel for training crops, as the trainer reads it; a proposal is shown as it was found."""
    path = chunk.root / image["path"]
    # OpenCV decodes what is left of a file that was cut off, so the size alone tells nothing.
    data = np.frombuffer(stored_bytes(path, image["sha256"]), np.uint8)
    pixels = decode_image(data, 1 if chunk.recipe.mode == "training" else image["channels"])
    if pixels is None or pixels.shape[:2] != (image["height"], image["width"]):
        raise ManifestError(f"{path} cannot be decoded as the manifest says; delete it and run the build again.")
    return pixels
