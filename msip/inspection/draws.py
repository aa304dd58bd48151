"""Training crops in the App: drawn by the trainer's own function, over the images whose patches are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from msip.crops import RoiCrop, sample_key, sample_rng
from msip.inspection.rows import Boxes, sample_id

DRAWN_FROM = ("image_id", "width", "height", "rois")
"""Columns of a manifest that a draw needs."""


@dataclass(frozen=True)
class Draw:
    """Which training crops are shown: ``per_image`` views of (``seed``, ``epoch``), by ``crop``."""

    seed: int = 0
    epoch: int = 0
    per_image: int = 4
    crop: RoiCrop = field(default_factory=RoiCrop)

    def as_dict(self) -> dict[str, Any]:
        """As the database keeps it (it has no tuples)."""
        plain = asdict(self)
        plain["crop"] = {name: list(v) if isinstance(v, tuple) else v for name, v in plain["crop"].items()}
        return plain


def draw_crops(fiftyone: Any, tables: Iterable[pa.Table], draw: Draw) -> dict[str, Any]:
    """``Detections`` by sample id, of manifest tables with the columns ``DRAWN_FROM``."""
    result = {}
    for table in tables:
        boxes = Boxes.of(table)
        columns = (table.column(name).to_pylist() for name in ("image_id", "width", "height"))
        for row, (image_id, width, height) in enumerate(zip(*columns, strict=True)):
            found = boxes.values[boxes.offsets[row] : boxes.offsets[row + 1]]
            key = sample_key(image_id)
            detections = []
            for view in range(draw.per_image):
                rng = sample_rng(draw.seed, draw.epoch, key, view)
                (x, y, w, h), mirrored = draw.crop.draw((width, height), found, rng)
                place, share = [x / width, y / height, w / width, h / height], w * h / (width * height)
                detections.append(
                    fiftyone.Detection(
                        label=f"view {view}", bounding_box=place, view=view, mirrored=mirrored, share=share
                    )
                )
            result[sample_id(image_id)] = fiftyone.Detections(detections=detections)
    return result
