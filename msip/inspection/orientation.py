"""EXIF orientation: a browser turns the picture by it, the boxes of a manifest are of the stored pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

_SHOWN = {2: (0, 1, 0), 3: (0, 1, 1), 4: (0, 0, 1), 5: (1, 0, 0), 6: (1, 1, 0), 7: (1, 1, 1), 8: (1, 0, 1)}
"""By orientation: are the axes swapped, and then mirrored left to right, top to bottom."""


def orientation_of(path: Path) -> int:
    """The EXIF orientation that a browser applies to an image file; 1, as stored, where there is none.

    Of a 16-bit image the App shows a preview, which has no tag.
    """
    try:
        with Image.open(path) as image:
            tags = Image.Exif()
            tags.load(b"" if image.mode.startswith("I") else image.info.get("exif", b""))
        found = tags.get(Base.Orientation)
    except Exception:  # a file that is gone or damaged turns nothing, whatever Pillow meets in it
        return 1
    return found if found in _SHOWN else 1


def shown_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) in pixels of the picture that a browser shows."""
    return size[::-1] if orientation > 4 else size


def shown_boxes(boxes: NDArray, size: tuple[int, int], orientation: int) -> NDArray[np.float64]:
    """Boxes on the picture that a browser shows, as FiftyOne has them.

    Args:
        boxes: (n, >= 4) x, y, width, height in pixels of the stored image.
        size: its (width, height) in pixels.
        orientation: its EXIF orientation, 1 to 8.

    Returns:
        (n, 4) x, y, width, height relative to the picture's.
    """
    relative = boxes[:, :4] / np.array(size * 2)
    swapped, *mirrored = _SHOWN.get(orientation, (0, 0, 0))
    if swapped:
        relative = relative[:, [1, 0, 3, 2]]
    for axis in np.flatnonzero(mirrored):
        relative[:, axis] = 1 - relative[:, axis] - relative[:, axis + 2]
    return relative
