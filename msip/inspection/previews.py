"""8-bit previews of stored 16-bit images: a browser shows only their upper 8 bits, which is near-black."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip.errors import MsipError
from msip.files import write_bytes
from msip.pictures import encode_png
from msip.radiometry import to_8bit
from msip.storage import quiet_cv2

FOLDER = Path(".msip") / "previews"


def make_previews(root: Path, table: pa.Table) -> dict[int, str]:
    """Write previews of those rows of a manifest whose stored file has 16 bits, by the default AGC.

    Returns their absolute paths by place in the table. A file that cannot be read has none.
    """
    previews = {}
    columns = (table.column(name).to_pylist() for name in ("bit_depth", "path"))
    for place, (depth, path) in enumerate(zip(*columns, strict=True)):
        if (depth or 8) <= 8:
            continue
        with quiet_cv2():
            pixels = cv2.imread(str(root / path), cv2.IMREAD_UNCHANGED)
        if pixels is None or pixels.dtype != np.uint16:
            continue  # most: a build stores 16-bit frames as 8 bits already
        to = (root / FOLDER / path).with_suffix(".png").resolve()
        if not to.exists() or to.stat().st_mtime_ns < (root / path).stat().st_mtime_ns:
            write_bytes(to, encode_png(_eight_bits(pixels)), sync=False)
        previews[place] = str(to)
    return previews


def _eight_bits(pixels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    grey = pixels if pixels.ndim == 2 else pixels[..., :3].mean(-1).astype(np.uint16)
    try:
        return to_8bit(grey, "percentile")[0]
    except MsipError:  # constant, or nearly so
        return np.zeros(grey.shape, np.uint8)
