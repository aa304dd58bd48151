"""Manifest rows as the JSON that FiftyOne imports (``samples.json`` of a ``FiftyOneDataset`` folder)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip.inspection.orientation import orientation_of, shown_boxes, shown_size
from msip.inspection.rows import DIGESTED_NUMBERS, DIGESTED_TEXT, Boxes, Rows, size_class
from msip.manifest import flag_name

_MIME_TYPES = {".jpg": "image/jpeg", ".bmp": "image/bmp"}
_SIZES = ("width", "height", "channels")


@dataclass(frozen=True)
class DocumentWriter:
    """Writes rows.

    Attributes:
        rows: the manifest.
        tags: by sample id, of those whose tags are not the names of their flags.
    """

    rows: Rows
    tags: dict[str, list[str]]

    def write(self, path: Path, part: NDArray[np.int64], table: pa.Table, previews: dict[int, str]) -> None:
        """Write the rows ``part``, whose columns are ``table``; ``previews``: absolute paths by place in the table."""
        with path.open("w", encoding="utf-8") as file:
            file.write('{"samples": [')
            for number, text in enumerate(self._documents(part, table, previews)):
                file.write(",\n" + text if number else text)
            file.write("]}")

    def _documents(self, part: NDArray[np.int64], table: pa.Table, previews: dict[int, str]) -> Iterator[str]:
        boxes = Boxes.of(table)
        statistics = zip(*_roi_statistics(boxes), strict=True)
        records = table.select(["image_id", *DIGESTED_TEXT, *DIGESTED_NUMBERS]).to_pylist()
        for place, (row, record, numbers) in enumerate(zip(part.tolist(), records, statistics, strict=True)):
            stored = record["width"], record["height"]
            turn = orientation_of(self.rows.root / record["path"])
            document = self._document(row, record, shown_size(stored, turn))
            if boxes.computed[place]:
                document |= dict(zip(("roi_count", "roi_mean_share", "roi_largest_share"), numbers, strict=True))
            if place in previews:
                document["preview"] = previews[place]
            text = json.dumps(document, ensure_ascii=False)
            if boxes.computed[place]:
                text = f'{text[:-1]}, "rois": {_rois(boxes, place, stored, turn, self.rows.sample_ids[row][:18])}}}'
            yield text

    def _document(self, row: int, record: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
        """All but the RoIs; ``size``: (width, height) in pixels of the picture in the App."""
        identity, flags = self.rows.sample_ids[row], self.rows.flags[row]
        path = f"{self.rows.root}/{record['path']}"
        return {
            "_id": {"$oid": identity},
            "_media_type": "image",
            "_rand": int(identity[:13], 16) / 16**13,
            "filepath": path,
            "tags": self.tags.get(identity, list(dict.fromkeys(map(flag_name, flags)))),
            "metadata": {
                "_cls": "ImageMetadata",
                "size_bytes": _size(path),
                "mime_type": _MIME_TYPES.get(path[-4:], "image/png"),
                "width": size[0],
                "height": size[1],
                "num_channels": record["channels"],
            },
            **{name: value for name, value in record.items() if name not in _SIZES and name != "path"},
            "flags": list(flags),
            "duplicate_group": self.rows.groups[row],
            "row_digest": int(self.rows.numbers["digest"][row]),
            "roi_count": None,
            "roi_mean_share": None,
            "roi_largest_share": None,
        }


def _roi_statistics(boxes: Boxes) -> tuple[list[int], list[float], list[float]]:
    """Per row: number, mean share and largest share."""
    means = boxes.sums(boxes.shares) / np.maximum(1, boxes.lengths)
    return boxes.lengths.tolist(), means.tolist(), boxes.largest().tolist()


def _rois(boxes: Boxes, place: int, size: tuple[int, int], turn: int, prefix: str) -> str:
    """The ``Detections`` of one row; numbers only, so that plain formatting is safe.

    ``turn``: the EXIF orientation; ``prefix``: 18 of the 24 digits of every id, the others count.
    """
    values, shares = boxes.of_row(place), boxes.shares[boxes.offsets[place] : boxes.offsets[place + 1]]
    columns = (shown_boxes(values, size, turn).tolist(), values[:, 4].tolist(), shares.tolist())
    texts = [
        f'{{"_id":{{"$oid":"{prefix}{order:06x}"}},"_cls":"Detection","tags":[],"label":"{size_class(share)}",'
        f'"bounding_box":[{x:.9g},{y:.9g},{w:.9g},{h:.9g}],'
        f'"area":{area},"order":{order},"share":{share:.6g}}}'
        for order, ((x, y, w, h), area, share) in enumerate(zip(*columns, strict=True))
    ]
    return '{"_cls":"Detections","detections":[' + ",".join(texts) + "]}"


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116 (a Path costs more than the call)
    except OSError:
        return None
