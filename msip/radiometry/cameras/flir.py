"""FLIR: the raw sensor counts inside radiometric JPEGs and FFF files.

Both hold one record file ("FFF"): a 64-byte header, a directory of 32-byte entries, and the records themselves. A
radiometric JPEG carries it in numbered APP1 segments. Source: the FLIR tag tables of ExifTool's documentation
(https://exiftool.org/TagNames/FLIR.html), checked against the files of nine cameras; header and records may differ
in byte order.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from msip.errors import BrokenFrame, UnsupportedFrame
from msip.radiometry.camera import CameraFormat
from msip.radiometry.cameras import jpeg, png
from msip.radiometry.frame import RawFrame, check_size, roughness

MAGICS = (b"FFF\0", b"AFF\0")
APP1, SEGMENT_MAGIC = 0xE1, b"FLIR\0"
SEGMENT_HEADER = 8  # magic, a version byte, this segment's number, the last segment's number
HEADER, ENTRY, MAX_ENTRIES = 64, 32, 1024
RAW_RECORD, PIXELS_AT = 1, 32


class Record(NamedTuple):
    """One directory entry: what it is, and its extent in the record file."""

    kind: int
    start: int
    stop: int


def read_flir_jpeg(data: bytes, name: str) -> RawFrame | None:
    """The counts in a JPEG's FLIR segments; None where there are none, or no raw record (a plain 8-bit export).

    The preview is decoded too, because a damaged file is refused as broken whatever it carries.
    """
    parts, _ = jpeg.segments(data, name)
    numbered = [part.content for part in parts if part.marker == APP1 and part.content.startswith(SEGMENT_MAGIC)]
    if not numbered:
        return None
    jpeg.read_jpeg(data, name)
    by_number = {content[6]: content[SEGMENT_HEADER:] for content in numbered if len(content) >= SEGMENT_HEADER}
    last = numbered[0][7] if len(numbered[0]) >= SEGMENT_HEADER else 0
    if sorted(by_number) != list(range(last + 1)):
        raise BrokenFrame(
            f"{name}: {len(by_number)} of the {last + 1} segments with FLIR data are here; get the file again"
        )
    records = b"".join(by_number[number] for number in range(last + 1))
    record = _raw_record(_directory(records, name))
    return None if record is None else _read_counts(records, record, "flir", name)


def read_fff(data: bytes, name: str) -> RawFrame:
    """The counts of a single-frame FFF file."""
    records = _directory(data, name)
    record = _raw_record(records)
    if record is None:
        raise UnsupportedFrame(f"{name}: this FFF file has no raw frame; export it again as radiometric")
    if data.startswith(MAGICS, max(record.stop for record in records)):
        raise UnsupportedFrame(f"{name}: a FLIR movie of several frames; split it into one file a frame")
    return _read_counts(data, record, "fff", name)


def _directory(data: bytes, name: str) -> list[Record]:
    """All used entries; ``UnsupportedFrame`` for a header that is not understood, ``BrokenFrame`` for a cut one."""
    if len(data) < HEADER:
        raise BrokenFrame(f"{name}: the FLIR record file ends inside its header; get the file again")
    orders = [order for order in "<>" if struct.unpack_from(order + "I", data, 0x14)[0] in range(1, 1 << 16)]
    if not data.startswith(MAGICS) or not orders:
        raise UnsupportedFrame(f"{name}: FLIR data of an unknown layout; export the frame as 16-bit TIFF")
    start, count = struct.unpack_from(orders[0] + "II", data, 0x18)
    if count > MAX_ENTRIES or start + count * ENTRY > len(data):
        raise BrokenFrame(f"{name}: the directory of the FLIR records is cut off or damaged; get the file again")
    entries = (struct.unpack_from(orders[0] + "HHIIII", data, start + i * ENTRY) for i in range(count))
    return [Record(kind, at, at + length) for kind, _, _, _, at, length in entries if kind]


def _raw_record(records: list[Record]) -> Record | None:
    return next((record for record in records if record.kind == RAW_RECORD), None)


def _read_counts(data: bytes, record: Record, container: str, name: str) -> RawFrame:
    """The raw record's pixels as native uint16; its first word, always 2, tells its byte order."""
    if record.stop > len(data) or record.stop - record.start <= PIXELS_AT:
        raise BrokenFrame(f"{name}: the FLIR raw frame is cut off; get the file again from its source")
    order = "<" if struct.unpack_from("<H", data, record.start)[0] == 2 else ">"
    width, height = struct.unpack_from(order + "HH", data, record.start + 2)
    check_size(width, height, name)
    content = data[record.start + PIXELS_AT : record.stop]
    if content.startswith(png.MAGIC):
        counts, note = _counts_of_png(content, name), "FLIR raw frame stored as PNG"
    elif content.startswith(jpeg.MAGIC):
        raise UnsupportedFrame(f"{name}: a FLIR raw frame packed as JPEG is not read; export it as 16-bit TIFF")
    elif len(content) >= 2 * width * height:
        counts = np.frombuffer(content, order + "u2", width * height).reshape(height, width).astype(np.uint16)
        note = "FLIR raw frame stored plain"
    else:
        raise UnsupportedFrame(
            f"{name}: a FLIR raw frame of {width} x {height} in {len(content)} bytes is packed in an unknown way; "
            "export it as 16-bit TIFF"
        )
    if counts.shape != (height, width):
        raise BrokenFrame(f"{name}: the FLIR raw frame is {counts.shape[::-1]}, its record says {(width, height)}")
    return RawFrame(counts, 16, 1, container, radiometric=True, note=note)


def _counts_of_png(content: bytes, name: str) -> np.ndarray:
    """Counts of an embedded PNG.

    FLIR writes them low byte first although PNG says high byte first. Whether a camera did is seen in the values:
    in the wrong order neighbours differ by hundreds of times more.
    """
    frame = png.read_png(content, f"{name}: raw frame")
    if frame.pixels.dtype != np.uint16 or frame.pixels.ndim != 2:
        raise UnsupportedFrame(f"{name}: its FLIR raw frame is no 16-bit grey image; export it as 16-bit TIFF")
    swapped = frame.pixels.byteswap()
    return swapped if roughness(swapped) <= roughness(frame.pixels) else frame.pixels


FLIR = CameraFormat(
    name="FLIR radiometric JPEG",
    suffixes=jpeg.JPEG.suffixes,
    recognises=jpeg.JPEG.recognises,
    read=read_flir_jpeg,
    reads="the raw counts: stored plain in either byte order, or as PNG",
    refuses="raw frames packed in another way",
)
FFF = CameraFormat(
    name="FLIR FFF",
    suffixes=(".fff",),
    recognises=lambda data: data.startswith(MAGICS),
    read=read_fff,
    reads="the raw counts, as in a radiometric JPEG",
    refuses="movies of several frames",
)
