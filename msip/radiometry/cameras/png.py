"""PNG: every chunk's checksum is verified up to IEND, then OpenCV decodes the critical chunks alone.

Source: PNG specification, third edition (W3C), sections 5 and 11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from msip.errors import BrokenFrame, UnsupportedFrame
from msip.radiometry.camera import CameraFormat
from msip.radiometry.frame import RawFrame, check_size, decode_with_cv2, trailing_note

MAGIC = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE, GREY_ALPHA = 0, 3, 4
CHANNELS = {GREY: 1, 2: 3, PALETTE: 1, GREY_ALPHA: 2, 6: 4}


class Chunk(NamedTuple):
    """One chunk: its type, its content, and its whole extent in the file."""

    kind: bytes
    content: bytes
    start: int
    stop: int


def walk_chunks(data: bytes, name: str) -> Iterator[Chunk]:
    """All chunks up to and with IEND; ``BrokenFrame`` at the first that is cut off or fails its CRC."""
    start, kind = len(MAGIC), b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise BrokenFrame(
                f"{name}: the PNG ends after {len(data)} bytes without its IEND chunk; get the file again"
            )
        (length,) = struct.unpack_from(">I", data, start)
        kind, stop = data[start + 4 : start + 8], start + 12 + length
        if stop > len(data):
            raise BrokenFrame(f"{name}: the PNG is cut off inside its {_name(kind)} chunk; get the file again")
        if zlib.crc32(memoryview(data)[start + 4 : stop - 4]) != struct.unpack_from(">I", data, stop - 4)[0]:
            raise BrokenFrame(
                f"{name}: the PNG chunk {_name(kind)} at byte {start} fails its checksum; get the file again"
            )
        yield Chunk(kind, data[start + 8 : stop - 4], start, stop)
        start = stop


def _name(kind: bytes) -> str:
    """A chunk's four letters; other bytes, which damage leaves there, as escapes."""
    return kind.decode("ascii", "backslashreplace")


def read_png(data: bytes, name: str) -> RawFrame:
    """A PNG of any depth and colour type; transparency of palettes and colour keys (tRNS) is not applied."""
    critical = [MAGIC]
    depth = colour_type = stop = -1
    for chunk in walk_chunks(data, name):
        if chunk.start == len(MAGIC):
            depth, colour_type = _read_header(chunk, name)
        elif chunk.kind == b"acTL" and len(chunk.content) >= 4 and struct.unpack_from(">I", chunk.content)[0] > 1:
            raise UnsupportedFrame(f"{name}: an animated PNG holds several frames; split it into one file a frame")
        if chunk.kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            critical.append(data[chunk.start : chunk.stop])
        stop = chunk.stop
    # Without the other chunks no colour profile warns, no gamma, no orientation can touch the values.
    pixels = decode_with_cv2(b"".join(critical), name, "PNG")
    if colour_type == GREY_ALPHA:
        pixels = np.ascontiguousarray(pixels[..., 0])
    notes = [{PALETTE: "palette", GREY_ALPHA: "alpha dropped"}.get(colour_type, ""), trailing_note(len(data) - stop)]
    return RawFrame(pixels, depth, CHANNELS[colour_type], "png", note="; ".join(filter(None, notes)))


def _read_header(chunk: Chunk, name: str) -> tuple[int, int]:
    """Bit depth and colour type of a checked IHDR."""
    if chunk.kind == b"CgBI":
        raise UnsupportedFrame(f"{name}: Apple's private PNG variant (CgBI) is not read; save it as an ordinary PNG")
    if chunk.kind != b"IHDR" or len(chunk.content) != 13:
        raise BrokenFrame(f"{name}: the PNG starts with {_name(chunk.kind)} instead of its header; get the file again")
    width, height, depth, colour_type = struct.unpack_from(">IIBB", chunk.content)
    check_size(width, height, name)
    if colour_type not in CHANNELS:
        raise BrokenFrame(f"{name}: the PNG header names the colour type {colour_type}, which does not exist")
    return depth, colour_type


PNG = CameraFormat(
    name="PNG",
    suffixes=(".png",),
    recognises=lambda data: data.startswith(MAGIC),
    read=read_png,
    reads="1 to 16 bits, grey, grey with alpha, RGB, RGBA, palette",
    refuses="animations",
    kept=".png",
)
