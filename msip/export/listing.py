"""What an export says of itself: a table, a COCO file, a contact sheet; written chunk by chunk."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias

import pyarrow as pa
from pyarrow import csv

from msip.export.chunks import CHUNK_SCHEMA, CropFormat
from msip.files import atomic_path, write_bytes
from msip.manifest import ROI_FIELDS
from msip.pictures import contact_sheet, encode_png
from msip.sampling import evenly_spread
from msip.storage import WHOLE_FILE, Storage

TABLE_NAME = "crops.csv"
SHEET_NAME = "contact_sheet.png"
ANNOTATIONS_NAME = "annotations.json"
_SHEET_CROPS = 64
_LISTED = [name for name in CHUNK_SCHEMA.names if name not in ("offset", "length", "boxes")]
_PROVENANCE = ("image_id", "mode", "view", "source", "split", "image_sha256", "transform", "flip", "seed", "epoch")

Chunks: TypeAlias = Callable[[], Iterator[pa.Table]]
"""The rows of an export from the beginning, chunk by chunk; see ``CHUNK_SCHEMA``."""


def write_table(to: Path, chunks: Chunks) -> None:
    """``crops.csv``: one row a crop."""
    schema = pa.schema([CHUNK_SCHEMA.field(name) for name in _LISTED])
    with (
        atomic_path(to / TABLE_NAME) as temporary,
        csv.CSVWriter(str(temporary), schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer,
    ):
        for chunk in chunks():
            writer.write_table(chunk.select(_LISTED))


def write_coco(to: Path, chunks: Chunks, licences: Sequence[str]) -> None:
    """``annotations.json``: an image for each crop, an annotation for each proposal in it, in the crop's pixels."""
    numbers = {name: number for number, name in enumerate(licences, 1)}
    with atomic_path(to / ANNOTATIONS_NAME) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "Crops of msip export-crops"},\n"licenses": ')
        json.dump([{"id": number, "name": name, "url": ""} for name, number in numbers.items()], file)
        file.write(',\n"categories": [{"id": 1, "name": "proposal", "supercategory": "roi"}],\n"images": [')
        _write_list(file, _coco_images(chunks, numbers))
        file.write('],\n"annotations": [')
        _write_list(file, _coco_annotations(chunks))
        file.write("]}\n")


def _write_list(file: IO[str], entries: Iterator[dict[str, Any]]) -> None:
    separator = "\n"
    for entry in entries:
        file.write(separator + json.dumps(entry, ensure_ascii=False))
        separator = ",\n"


def _coco_images(chunks: Chunks, licences: dict[str, int]) -> Iterator[dict[str, Any]]:
    number = 0
    for chunk in chunks():
        for row in chunk.to_pylist():
            number += 1
            yield {
                "id": number,
                "file_name": row["file"],
                "width": row["crop_width"],
                "height": row["crop_height"],
                **({"license": licences[row["licence"]]} if row["licence"] else {}),
                **{name: row[name] for name in _PROVENANCE if row[name] is not None},
                "box": [row[name] for name in ROI_FIELDS[:4]],
            }


def _coco_annotations(chunks: Chunks) -> Iterator[dict[str, Any]]:
    image, number = 0, 0
    for chunk in chunks():
        for boxes in chunk.column("boxes").to_pylist():
            image += 1
            for box in boxes:
                number += 1
                place = [box[name] for name in ROI_FIELDS[:4]]
                yield {
                    "id": number,
                    "image_id": image,
                    "category_id": 1,
                    "bbox": place,
                    "area": box["area"],
                    "iscrowd": 0,
                }


def write_sheet(to: Path, chunks: Chunks, fmt: CropFormat, crops: int) -> None:
    """Crops from all over the export, evenly spread."""
    if crops == 0:
        (to / SHEET_NAME).unlink(missing_ok=True)
        return
    storage = Storage(to, "webdataset" if fmt == "webdataset" else "folder")
    images = [_read_crop(storage, place) for place in _spread(chunks, crops)]
    write_bytes(to / SHEET_NAME, encode_png(contact_sheet([image for image in images if image is not None])))


def _spread(chunks: Chunks, crops: int) -> Iterator[dict[str, Any]]:
    chosen = evenly_spread(crops, _SHEET_CROPS)
    first = 0
    for chunk in chunks():
        here = chosen[(chosen >= first) & (chosen < first + len(chunk))] - first
        yield from chunk.select(["file", "shard", "offset", "length"]).take(pa.array(here)).to_pylist()
        first += len(chunk)


def _read_crop(storage: Storage, place: dict[str, Any]) -> Any:
    length = WHOLE_FILE if place["shard"] is None else place["length"]
    return storage.read_grey(place["shard"] or place["file"], place["offset"], length, (0, 0))
