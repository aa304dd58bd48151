"""One raw file to grey: for whoever wants pixels, and no record of how they came about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msip.radiometry.agc import to_8bit
from msip.radiometry.checks import to_grey
from msip.radiometry.decode import decode


def read_grey8(path: Path, *, name: str | None = None) -> NDArray[np.uint8]:
    """Any image as uint8 (h, w): colour to luma, 16-bit counts through the percentile window as in a build.

    Raises ``FrameError`` (``name`` begins its message) and ``OSError``.
    """
    pixels = to_grey(decode(path.read_bytes(), name=name or str(path)).pixels)
    return np.asarray(pixels if pixels.dtype == np.uint8 else to_8bit(pixels, "percentile")[0], np.uint8)
