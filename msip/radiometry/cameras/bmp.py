"""Uncompressed Windows and OS/2 bitmaps, by OpenCV; a file shorter than its header promises is broken."""

from __future__ import annotations

import struct

from msip.errors import BrokenFrame, UnsupportedFrame
from msip.radiometry.camera import CameraFormat
from msip.radiometry.frame import UNREAD, UNREAD_DATA, RawFrame, check_size, decode_with_cv2, trailing_note

MAGIC = b"BM"
COMPRESSIONS = {1: "RLE8", 2: "RLE4", 4: "JPEG", 5: "PNG"}
CORE_HEADER, INFO_HEADER = 12, 40
CHANNELS = {16: 3, 24: 3, 32: 4}


def read_bmp(data: bytes, name: str) -> RawFrame:
    """A BMP of 1 to 32 bits per pixel; palettes with equal red, green and blue come out grey."""
    if len(data) < 26:
        raise BrokenFrame(f"{name}: the BMP ends inside its header; get the file again")
    offset, header = struct.unpack_from("<II", data, 10)
    compression = 0
    if header == CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    elif header >= INFO_HEADER and len(data) >= 14 + INFO_HEADER:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise BrokenFrame(f"{name}: the BMP header is cut off or says a length of {header} bytes; get the file again")
    check_size(width, abs(height), name)  # a negative height only means that the rows run from the top
    if compression in COMPRESSIONS:
        raise UnsupportedFrame(f"{name}: BMP compression {COMPRESSIONS[compression]} is not read; save it as PNG")
    stop = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if stop > len(data):
        raise BrokenFrame(f"{name}: the BMP has {len(data)} bytes of the {stop} its header promises; get it again")
    if bits == 16 and data.startswith(MAGIC, stop):
        raise UnsupportedFrame(
            f"{name}: a Testo thermogram, whose picture is false colour; export it as 16-bit TIFF with Testo's software"
        )
    pixels = decode_with_cv2(data, name, "BMP")
    notes = ["palette" if bits <= 8 and pixels.ndim == 3 else "", trailing_note(len(data) - stop)]
    flags = (UNREAD_DATA,) if len(data) - stop >= UNREAD else ()
    note = "; ".join(filter(None, notes))
    return RawFrame(pixels, min(bits, 8), CHANNELS.get(bits, 1), "bmp", note=note, flags=flags)


BMP = CameraFormat(
    name="BMP",
    suffixes=(".bmp",),
    recognises=lambda data: data.startswith(MAGIC),
    read=read_bmp,
    reads="uncompressed, 1 to 32 bits",
    refuses="RLE, Testo thermograms",
    kept=".bmp",
)
