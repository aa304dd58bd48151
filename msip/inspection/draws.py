"""Training crops in the App: drawn by the trainer's own function, over the images whose patches are shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from msip.crops import RoiCrop
from msip.inspection.orientation import orientation_of, shown_boxes
from msip.inspection.rows import Boxes, sample_id

DRAWN_FROM = ("image_id", "path", "width", "height", "rois")
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


def draw_crops(fiftyone: Any, root: Path, tables: Iterable[pa.Table], draw: Draw) -> dict[str, Any]:
    """``Detections`` by sample id, of manifest tables with the columns ``DRAWN_FROM``; ``root``: of their paths."""
    result = {}
    for table in tables:
        boxes = Boxes.of(table)
        columns = (table.column(name).to_pylist() for name in DRAWN_FROM[:-1])
        for row, (image_id, path, *size) in enumerate(zip(*columns, strict=True)):
            drawn = draw.crop.views(
                image_id, tuple(size), boxes.of_row(row), seed=draw.seed, epoch=draw.epoch, count=draw.per_image
            )
            crops, mirrored = zip(*drawn, strict=True)
            places = shown_boxes(np.array(crops), tuple(size), orientation_of(root / path)).tolist()
            result[sample_id(image_id)] = fiftyone.Detections(
                detections=[
                    fiftyone.Detection(
                        label=f"view {view}", bounding_box=place, view=view, mirrored=flip, share=place[2] * place[3]
                    )
                    for view, (place, flip) in enumerate(zip(places, mirrored, strict=True))
                ]
            )
    return result
