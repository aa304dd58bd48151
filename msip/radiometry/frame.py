"""What every container reader shares: the decoded frame, the size limit, OpenCV's decoder kept quiet."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from msip.errors import BrokenFrame, TooLargeFrame
from msip.storage import quiet_cv2

MAX_PIXELS = 2**28
"""More pixels than this are not decoded: no infrared sensor has them, but a hostile header may claim them."""


@dataclass(frozen=True, eq=False)
class RawFrame:
    """One raw frame exactly as its container holds it.

    ``pixels``: ``(h, w)`` grey, ``(h, w, 3)`` BGR or ``(h, w, 4)`` BGRA (OpenCV's channel order), uint8 or uint16,
    native byte order. A palette is already applied; an alpha beside grey is dropped.
    ``bit_depth``: bits per sample as stored (1, 2, 4, 8 or 16; 1 to 4 are expanded to 0..255 in ``pixels``).
    ``channels``: samples per pixel as stored (palette 1, grey with alpha 2).
    ``container``: the key of the format in ``msip.radiometry.cameras.FORMATS`` or of a package's entry point.
    ``radiometric``: the container says that ``pixels`` are sensor counts (``flir``, ``fff``, ``dji``). A 16-bit PNG
    or TIFF usually holds counts too, but nothing in it says so: False.
    ``note``: what a careful user wants to know (palette, bytes left unread, ...), else empty.
    ``nodata``: the count that marks pixels without a measurement; None where there are none.
    ``flags``: what the reader wants an image of one's own to be flagged with.
    """

    pixels: np.ndarray
    bit_depth: int
    channels: int
    container: str
    radiometric: bool = False
    note: str = ""
    nodata: int | None = None
    flags: tuple[str, ...] = ()


def check_size(width: int, height: int, name: str) -> None:
    """Raise before decoding: ``BrokenFrame`` for an empty size, ``TooLargeFrame`` above ``MAX_PIXELS``."""
    if width <= 0 or height <= 0:
        raise BrokenFrame(f"{name}: the header announces {width} x {height} pixels; get the file again")
    if width * height > MAX_PIXELS:
        raise TooLargeFrame(
            f"{name}: the header announces {width} x {height} pixels, more than the {MAX_PIXELS} that are decoded; "
            "cut the image into tiles if it is genuine"
        )


def decode_with_cv2(data: bytes, name: str, what: str) -> np.ndarray:
    """The pixels as stored, by OpenCV (EXIF orientation is not applied); ``BrokenFrame`` when it gives up."""
    try:
        with quiet_cv2():
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise BrokenFrame(f"{name}: the {what} cannot be decoded whole; get the file again from its source")
    return pixels


UNREAD = 2 * 80 * 60
"""Bytes of counts of the smallest thermal sensors: a maker's own data of this size may be a radiometric frame."""

UNREAD_DATA = "unread_data"
"""The flag of an image that carries such data."""


def trailing_note(count: int) -> str:
    """Note on bytes behind the image's end (some cameras append undocumented data), empty for none."""
    return f"{count} bytes after the end of the image not read" if count > 0 else ""


def roughness(counts: np.ndarray) -> float:
    """Mean absolute difference between horizontal neighbours, in counts; 0 for a single column."""
    return float(np.abs(np.diff(counts.astype(np.int32), axis=1)).mean()) if counts.shape[1] > 1 else 0.0
