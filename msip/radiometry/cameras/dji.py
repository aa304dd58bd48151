"""DJI R-JPEG: the raw sensor counts in its APP3 segments.

The layout is undocumented. In files of the H20N, H30T, M4T and Mavic 2 Enterprise Advanced the APP3 segments together
hold exactly one little-endian uint16 for each pixel of the preview, and show the preview's scene. Only that form is
read, and only where the values look like an image; every other R-JPEG is refused by name. The counts are
uncalibrated: temperatures need DJI's Thermal SDK.
"""

from __future__ import annotations

import numpy as np

from msip.errors import UnsupportedFrame
from msip.radiometry.camera import CameraFormat
from msip.radiometry.cameras import jpeg
from msip.radiometry.frame import RawFrame, roughness

APP1, APP3, APP4 = 0xE1, 0xE3, 0xE4
SMALLEST_RAW = 2 * 160 * 120
"""Bytes of a raw frame of DJI's smallest thermal sensor; other cameras keep a few hundred bytes here."""
SMOOTHER = 4.0
"""How much smoother counts must be than with their bytes swapped; images measured 100 to 900, noise is 1."""


def read_dji(data: bytes, name: str) -> RawFrame | None:
    """The counts of a DJI R-JPEG; None where the file is no such thing."""
    parts, _ = jpeg.segments(data, name)
    by_dji = any(part.marker == APP1 and b"DJI" in part.content for part in parts)
    raw = b"".join(part.content for part in parts if part.marker == APP3)
    extra = sum(len(part.content) for part in parts if part.marker == APP4)
    if not by_dji or len(raw) + extra < SMALLEST_RAW:
        return None
    height, width = jpeg.read_jpeg(data, name).pixels.shape[:2]
    if len(raw) == 2 * width * height:
        counts = np.frombuffer(raw, "<u2").reshape(height, width).astype(np.uint16)
        if roughness(counts) * SMOOTHER <= roughness(counts.byteswap()):
            return RawFrame(counts, 16, 1, "dji", radiometric=True, note="DJI raw frame, uncalibrated counts")
    raise UnsupportedFrame(
        f"{name}: a DJI R-JPEG whose raw frame is stored in an unknown way, and its preview is no radiometric data; "
        "convert it to 16-bit TIFF with DJI's Thermal SDK first"
    )


DJI = CameraFormat(
    name="DJI R-JPEG",
    suffixes=jpeg.JPEG.suffixes,
    recognises=jpeg.JPEG.recognises,
    read=read_dji,
    reads="the raw counts, where the APP3 segments hold exactly one 16-bit value for each pixel of the preview",
    refuses="every other form (convert it to 16-bit TIFF with DJI's Thermal SDK first)",
)
