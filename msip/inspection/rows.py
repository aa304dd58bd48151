"""Manifest rows as FiftyOne documents: ids, digests, size classes, patches, and the JSON that FiftyOne imports.

Nothing here needs FiftyOne. Ids are functions of ``image_id``, so that an update finds its samples again.
"""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from msip.manifest import Manifest

FORMAT = 1
"""Part of every digest: another way of writing documents updates every sample."""

SMALL_SHARE, LARGE_SHARE = 0.02, 0.15
"""Share of the image that a RoI's box covers; large is what ``RoiCrop`` calls large (``RoiCrop.large_area``)."""

MOST_PATCHES = 20_000
"""Of one patches view: FiftyOne copies every patch into a collection of its own (75 s for 5 million)."""

_DIGESTED_TEXT = ("source", "split", "path", "source_path", "sequence", "sha256", "transform", "phash", "licence")
_DIGESTED_NUMBERS = ("frame_index", "width", "height", "channels", "bit_depth", "pixel_mean", "pixel_std")
DIGESTED: tuple[str, ...] = _DIGESTED_TEXT + _DIGESTED_NUMBERS
_BOX = ("x", "y", "width", "height", "area")


def sample_id(image_id: str) -> str:
    """24 hexadecimal digits (a MongoDB ObjectId) that stand for one image in the database."""
    return hashlib.blake2b(image_id.encode(), digest_size=12).hexdigest()


def flag_name(flag: str) -> str:
    """``duplicate_of:llvip/010001`` to ``duplicate_of``: what can be a tag."""
    return flag.split(":", 1)[0]


class Rows:
    """A manifest's columns, ready to be written as documents and to be counted.

    Attributes:
        manifest: the table.
        image_ids, sample_ids: per row.
        offsets: int64 (n + 1): the RoIs of row i are ``boxes[offsets[i]:offsets[i + 1]]``.
        boxes: int32 (m, 5) x, y, width, height, area of all RoIs.
        shares: float64 (m,): share of the image that each RoI's box covers.
        with_rois: bool (n,): RoIs were computed (there may be none).
        flags: per row.
        groups: per row: the image that this one is, or has, a duplicate of (an image_id), else ``None``.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        table = manifest.table
        self.image_ids: list[str] = table.column("image_id").to_pylist()
        self.sample_ids = [sample_id(name) for name in self.image_ids]
        rois = table.column("rois")
        lengths = pc.fill_null(pc.list_value_length(rois), 0).to_numpy()
        self.offsets: NDArray[np.int64] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        flat = pc.list_flatten(rois).combine_chunks()
        self.boxes = np.stack([flat.field(name).to_numpy(zero_copy_only=False) for name in _BOX], 1).astype(np.int32)
        self.with_rois: NDArray[np.bool_] = rois.is_valid().to_numpy()
        self.widths, self.heights = (table.column(name).to_numpy().astype(np.int64) for name in ("width", "height"))
        pixels = np.repeat(self.widths * self.heights, lengths)
        self.shares: NDArray[np.float64] = self.boxes[:, 2].astype(np.int64) * self.boxes[:, 3] / np.maximum(1, pixels)
        self.flags: list[list[str]] = [flags or [] for flags in table.column("flags").to_pylist()]
        self.groups = self._groups()

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """RoIs per image."""
        return np.diff(self.offsets)

    def _groups(self) -> list[str | None]:
        targets = [
            next((flag.split(":", 1)[1] for flag in flags if flag_name(flag).endswith("duplicate_of")), None)
            for flags in self.flags
        ]
        originals = {target for target in targets if target is not None}
        return [
            target or (name if name in originals else None)
            for name, target in zip(self.image_ids, targets, strict=True)
        ]

    def digests(self) -> NDArray[np.int64]:
        """(n,) a number per row that changes with anything that the App shows of it."""
        seed = f"{FORMAT} {self.manifest.root.resolve()}"
        frame = self.manifest.table.select(DIGESTED).to_pandas()
        frame["flags"] = ["\n".join(flags) for flags in self.flags]
        frame["group"] = self.groups
        frame["rois"] = self._roi_digests()
        frame["with_rois"] = self.with_rois
        frame["seed"] = seed
        for name in frame.columns[frame.isna().any()]:  # one spelling of "none" for every type
            frame[name] = frame[name].astype(object).where(frame[name].notna(), "")
            frame[name] = frame[name].astype(str)
        return pd.util.hash_pandas_object(frame, index=False).to_numpy().view(np.int64)

    def _roi_digests(self) -> NDArray[np.uint64]:
        """(n,) of each row's boxes and their order."""
        order = np.arange(len(self.boxes), dtype=np.uint64) - np.repeat(self.offsets[:-1], self.lengths).astype(
            np.uint64
        )
        mixed = order * np.uint64(0x9E3779B97F4A7C15)
        for column in range(5):
            mixed = (mixed ^ self.boxes[:, column].astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
            mixed ^= mixed >> np.uint64(29)
        sums = np.concatenate([[np.uint64(0)], np.cumsum(mixed, dtype=np.uint64)])
        return np.asarray(sums[self.offsets[1:]] - sums[self.offsets[:-1]], np.uint64)

    def chosen_for_patches(self, per_image: int) -> NDArray[np.int64]:
        """Rows whose patches are shown: all, or as many as give at most ``MOST_PATCHES``, spread evenly.

        Args:
            per_image: training crops that each of them also gets.
        """
        total = max(int(self.lengths.sum()), per_image * len(self))
        count = len(self)
        if total <= MOST_PATCHES:
            return np.arange(count)
        count = max(1, int(count * MOST_PATCHES / total))
        while True:
            rows = np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64))
            if count == 1 or max(int(self.lengths[rows].sum()), per_image * len(rows)) <= MOST_PATCHES:
                return rows
            count = max(1, int(count * 0.95))


class DocumentWriter:
    """Writes rows as the ``samples.json`` of a ``FiftyOneDataset`` folder."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.digests = rows.digests()
        self.root = str(rows.manifest.root.resolve())
        count = np.maximum(1, rows.lengths)
        padded = np.append(rows.shares, 0.0)
        largest = np.maximum.reduceat(padded, np.minimum(rows.offsets[:-1], len(rows.shares)))
        self.largest = np.where(rows.lengths > 0, largest, 0.0)
        sums = np.concatenate([[0.0], np.cumsum(rows.shares)])
        self.mean = (sums[rows.offsets[1:]] - sums[rows.offsets[:-1]]) / count

    def write(
        self, path: Path, indices: NDArray[np.int64], tags: dict[str, list[str]], previews: dict[int, str]
    ) -> None:
        """Write the rows ``indices``; ``tags`` by sample id, ``previews`` (absolute paths) by row."""
        with path.open("w", encoding="utf-8") as file:
            file.write('{"samples": [')
            for number, text in enumerate(self._documents(indices, tags, previews)):
                file.write(",\n" + text if number else text)
            file.write("]}")

    def _documents(
        self, indices: NDArray[np.int64], tags: dict[str, list[str]], previews: dict[int, str]
    ) -> Iterator[str]:
        part = self.rows.manifest.table.select(["image_id", *DIGESTED]).take(pa.array(indices))
        for index, row in zip(indices.tolist(), part.to_pylist(), strict=True):
            document = self._document(index, row, tags)
            if index in previews:
                document["preview"] = previews[index]
            rois = self._rois(index)
            text = json.dumps(document, ensure_ascii=False)
            yield text if rois is None else f'{text[:-1]}, "rois": {rois}}}'

    def _document(self, index: int, row: dict[str, Any], tags: dict[str, list[str]]) -> dict[str, Any]:
        identity = self.rows.sample_ids[index]
        path = f"{self.root}/{row.pop('path')}"
        metadata = {
            "_cls": "ImageMetadata",
            "size_bytes": _size(path),
            "mime_type": mimetypes.guess_type(path)[0] or "image/png",
            "width": row.pop("width"),
            "height": row.pop("height"),
            "num_channels": row.pop("channels"),
        }
        flags = self.rows.flags[index]
        return {
            "_id": {"$oid": identity},
            "_media_type": "image",
            "_rand": int(identity[:13], 16) / 16**13,
            "filepath": path,
            "tags": tags.get(identity, list(dict.fromkeys(map(flag_name, flags)))),
            "metadata": metadata,
            **row,
            "flags": flags,
            "duplicate_group": self.rows.groups[index],
            "row_digest": int(self.digests[index]),
            **self._roi_statistics(index),
        }

    def _roi_statistics(self, index: int) -> dict[str, Any]:
        if not self.rows.with_rois[index]:
            return {"roi_count": None, "roi_mean_share": None, "roi_largest_share": None}
        return {
            "roi_count": int(self.rows.lengths[index]),
            "roi_mean_share": float(self.mean[index]),
            "roi_largest_share": float(self.largest[index]),
        }

    def _rois(self, index: int) -> str | None:
        """The ``Detections`` of one row, as JSON; numbers only, so that plain formatting is safe."""
        if not self.rows.with_rois[index]:
            return None
        first, last = self.rows.offsets[index], self.rows.offsets[index + 1]
        width, height, prefix = self.rows.widths[index], self.rows.heights[index], self.rows.sample_ids[index][:18]
        boxes, shares = self.rows.boxes[first:last].tolist(), self.rows.shares[first:last].tolist()
        parts = [
            f'{{"_id":{{"$oid":"{prefix}{order:06x}"}},"_cls":"Detection","tags":[],"label":"{size_class(share)}",'
            f'"bounding_box":[{x / width:.9g},{y / height:.9g},{w / width:.9g},{h / height:.9g}],'
            f'"area":{area},"order":{order},"share":{share:.6g}}}'
            for order, ((x, y, w, h, area), share) in enumerate(zip(boxes, shares, strict=True))
        ]
        return '{"_cls":"Detections","detections":[' + ",".join(parts) + "]}"


def size_class(share: float) -> str:
    """``small``, ``medium`` or ``large``: the label of a RoI, by the share of the image that its box covers."""
    return "small" if share < SMALL_SHARE else "large" if share >= LARGE_SHARE else "medium"


def _size(path: str) -> int | None:
    try:
        return Path(path).stat().st_size
    except OSError:
        return None
