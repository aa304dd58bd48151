"""JPEG: the segments before the scan, and strict decoding that turns every warning of the codec into an error.

Source: ITU-T T.81, annex B. Strict decoding gives exactly the pixels of OpenCV and Pillow (all build on
libjpeg-turbo with the accurate integer transform), and notices what they let pass: a missing end marker, and damage
inside the scan unless the decoder happens to fall back into step. A hole of zeros, the commonest damage, is therefore
looked for by itself.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from msip.errors import BrokenFrame, UnsupportedFrame
from msip.radiometry.camera import CameraFormat
from msip.radiometry.frame import UNREAD, UNREAD_DATA, RawFrame, check_size, decode_with_cv2, trailing_note

MAGIC = b"\xff\xd8\xff"
END = b"\xff\xd9"
TABLES, SCAN = 0xC4, 0xDA
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
READ_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; all Huffman
PROGRESSIVE = 0xC2
OTHER_FRAMES = {0xC3: "lossless", 0xC9: "arithmetic", 0xCA: "arithmetic", 0xF7: "JPEG-LS"}
HARMLESS = ("Unknown Adobe color transform", "Warning: unknown JFIF revision", "Invalid SOS parameters for sequential")
"""Warnings of libjpeg on odd headers; the pixels are whole."""
HOLE = b"\0" * 16
"""Zeros in a row that a sequential scan holds only where zero bits mean empty blocks (see ``has_hole``)."""
END_OF_BLOCK = 0
MAKER_SEGMENTS = range(0xE2, 0xED)
KNOWN_SEGMENTS = (b"ICC_PROFILE", b"MPF", b"FPXR", b"http", b"urn:", b"JPS", b"Ducky")


class Segment(NamedTuple):
    """One marker segment: the marker's second byte and what follows its length."""

    marker: int
    content: bytes


def segments(data: bytes, name: str) -> tuple[list[Segment], int]:
    """All segments before the first scan, and where that starts; ``BrokenFrame`` where the chain breaks."""
    found: list[Segment] = []
    at = 2
    while at + 4 <= len(data):
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if data[at] != 0xFF:
            raise BrokenFrame(f"{name}: the JPEG header is damaged at byte {at}; get the file again")
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == SCAN:
            return found, at
        else:
            found.append(Segment(marker, data[at + 4 : at + 2 + length]))
            at += 2 + max(length, 2)
    raise BrokenFrame(f"{name}: the JPEG ends before its image data; get the file again")


def checked_components(parts: list[Segment], name: str) -> int:
    """1 (grey) or 3 (colour), from the frame header; what is not read, or too large, is refused by name."""
    frame = next((part for part in parts if part.marker in FRAMES and len(part.content) >= 6), None)
    if frame is None:
        raise BrokenFrame(f"{name}: the JPEG has no frame header; get the file again")
    precision, height, width, components = struct.unpack_from(">BHHB", frame.content)
    if frame.marker not in READ_FRAMES:
        kind = OTHER_FRAMES.get(frame.marker, "hierarchical or arithmetic")
        raise UnsupportedFrame(f"{name}: {kind} JPEG is not read; save it as PNG")
    if precision != 8:
        raise UnsupportedFrame(f"{name}: JPEG with {precision} bits a sample is not read; save it as 16-bit PNG")
    if components not in (1, 3):
        kind = "CMYK" if components == 4 else f"{components}-component"
        raise UnsupportedFrame(f"{name}: {kind} JPEG is not read; save it as grey or RGB")
    check_size(width, height, name)
    return int(components)


def has_hole(scan: bytes, parts: list[Segment], components: int) -> bool:
    """Whether the one scan of a sequential JPEG (from its marker on) has a run of zeros that no encoder writes.

    Zero bits are the first code of each Huffman table. Where that code means "end of block" in the AC tables of all
    components, a run of zeros is a flat area. Where it does not in one of them, it is block after block full of one
    and the same small coefficient: a hole. Strict decoding alone lets a hole of 30 bytes pass in up to a quarter of
    the cases in finely quantised images, because the decoder falls back into step.
    """
    if HOLE not in scan or scan[4] != components or any(part.marker == PROGRESSIVE for part in parts):
        return False
    first = {key: symbol for part in parts if part.marker == TABLES for key, symbol in _first_ac_symbols(part.content)}
    used = [scan[6 + 2 * i] & 15 for i in range(components)]
    return any(first.get(key, END_OF_BLOCK) != END_OF_BLOCK for key in used)


def _first_ac_symbols(tables: bytes) -> list[tuple[int, int]]:
    """Of each AC table in a DHT segment: its number, and the symbol whose code is all zeros."""
    found, at = [], 0
    while at + 17 < len(tables):
        if tables[at] >> 4 == 1:
            found.append((tables[at] & 15, tables[at + 17]))
        at += 17 + sum(tables[at + 1 : at + 17])
    return found


def decode_pixels(data: bytes, components: int, name: str) -> tuple[np.ndarray, str]:
    """Pixels ``(h, w)`` or ``(h, w, 3)`` BGR and a note; any damage is a ``BrokenFrame``."""
    import simplejpeg

    try:
        pixels = simplejpeg.decode_jpeg(data, "GRAY" if components == 1 else "BGR", strict=True)
    except ValueError as error:
        if not str(error).startswith(HARMLESS):
            raise BrokenFrame(f"{name}: damaged JPEG ({error}); get the file again from its source") from error
        return decode_with_cv2(data, name, "JPEG"), str(error)
    return (pixels[..., 0] if components == 1 else pixels), ""


def read_jpeg(data: bytes, name: str) -> RawFrame:
    """The 8-bit image of a whole JPEG.

    The EXIF orientation is not applied: the stored bytes stay as they are, and the reference loader ignores it as well.
    """
    parts, scan = segments(data, name)
    components = checked_components(parts, name)
    pixels, warning = decode_pixels(data, components, name)
    stop = data.find(END, scan) + len(END)  # inside a scan every 0xFF is followed by 0 or a restart marker
    if has_hole(data[scan:stop], parts, components):
        raise BrokenFrame(f"{name}: damaged JPEG (a run of zeros inside its image data); get the file again")
    inside, behind = _foreign_bytes(parts), _behind_pictures(data[stop:])
    notes = [warning, trailing_note(len(data) - stop)]
    if inside >= UNREAD:
        notes.append(f"{inside} bytes of its maker's segments not read")
    flags = (UNREAD_DATA,) if max(inside, behind) >= UNREAD else ()
    return RawFrame(pixels, 8, components, "jpeg", note="; ".join(filter(None, notes)), flags=flags)


def _foreign_bytes(parts: list[Segment]) -> int:
    """Bytes in application segments that neither describe the picture (JFIF, Exif, ICC, Adobe) nor repeat it (MPF)."""
    own = [part for part in parts if part.marker in MAKER_SEGMENTS]
    return sum(len(part.content) for part in own if not part.content.startswith(KNOWN_SEGMENTS))


def _behind_pictures(rest: bytes) -> int:
    """Bytes behind the image that are no further JPEG, film or padding."""
    if rest.lstrip(b"\0").startswith(MAGIC):
        rest = rest[rest.rfind(END) + len(END) :]
    return 0 if rest[4:8] == b"ftyp" or not rest.strip(b"\0\xff") else len(rest)


JPEG = CameraFormat(
    name="JPEG",
    suffixes=(".jpg", ".jpeg", ".jpe"),
    recognises=lambda data: data.startswith(MAGIC),
    read=read_jpeg,
    reads="8-bit grey and colour, baseline and progressive",
    refuses="CMYK, 12-bit, lossless, JPEG-LS, arithmetic",
    kept=".jpg",
)
