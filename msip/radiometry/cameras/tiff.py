"""TIFF: the first page's tags are checked by tifffile, the pixels decoded by OpenCV (libtiff, so every usual codec).

An uncompressed, LZW or PackBits TIFF has no checksum: damage that keeps its length cannot be noticed by anyone.
"""

from __future__ import annotations

import io
import logging
import math
import struct
import zlib
from typing import Any

from msip.errors import BrokenFrame, UnsupportedFrame
from msip.radiometry.camera import CameraFormat
from msip.radiometry.frame import RawFrame, check_size, decode_with_cv2

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
DEFLATE = (8, 32946)
COMPRESSIONS = (1, 5, *DEFLATE, 32773)  # none, LZW, Deflate (two numbers), PackBits
CHUNK = 1 << 20
MIN_IS_WHITE, MIN_IS_BLACK, RGB, PALETTE = 0, 1, 2, 3
SAMPLES = {MIN_IS_BLACK: 1, RGB: 3, PALETTE: 1}
CONTIGUOUS = 1
GDAL_NODATA = 42113
REDUCED_OR_MASK = 0b101  # NewSubfileType bits: a thumbnail or a mask, not a further frame


def read_tiff(data: bytes, name: str) -> RawFrame:
    """An 8- or 16-bit (or bilevel) TIFF or BigTIFF of one frame, either byte order; its Orientation tag is applied."""
    page, note = _first_page(data, name)
    try:
        check_size(page.imagewidth, page.imagelength, name)
        _refuse_what_is_not_read(page, name)
    except TypeError as error:  # damage can make any tag a list or text
        raise BrokenFrame(f"{name}: the TIFF's tags cannot be read ({error}); get the file again") from error
    extents = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if any(o + n > len(data) for o, n in extents):
        raise BrokenFrame(f"{name}: the TIFF is cut off: its strips reach past {len(data)} bytes; get the file again")
    if page.compression in DEFLATE:
        _check_deflated(data, extents, name)
    pixels = decode_with_cv2(data, name, "TIFF")
    return RawFrame(pixels, page.bitspersample, page.samplesperpixel, "tiff", note=note, nodata=_nodata(page))


def _nodata(page: Any) -> int | None:
    """The count that GDAL's tag calls no data; None without the tag, or for a value that 16 bits cannot hold."""
    tag = page.tags.get(GDAL_NODATA)
    try:
        value = float(str(tag.value)) if tag is not None else math.nan
    except ValueError:
        return None
    return int(value) & 0xFFFF if value.is_integer() and -32768 <= value <= 65535 else None


def _first_page(data: bytes, name: str) -> tuple[Any, str]:
    """The page that is the frame, with a note on thumbnails behind it; a movie is refused."""
    import tifffile

    log = logging.getLogger("tifffile")
    disabled, log.disabled = log.disabled, True  # a damaged file is reported once, by the exception
    try:
        file = tifffile.TiffFile(io.BytesIO(data))
        pages, promised = list(file.pages), _promised_frames(file)
    except (tifffile.TiffFileError, struct.error, ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise BrokenFrame(f"{name}: the TIFF's tags cannot be read ({error}); get the file again") from error
    finally:
        log.disabled = disabled
    if not pages or not pages[0].dataoffsets:
        raise BrokenFrame(f"{name}: the TIFF holds no image; get the file again")
    frames = [page for page in pages if not int(getattr(page, "subfiletype", 0)) & REDUCED_OR_MASK]
    if promised > len(frames) == 1 and len(data) >= pages[0].dataoffsets[0] + promised * pages[0].nbytes:
        frames *= promised
    if len(frames) > 1:
        raise UnsupportedFrame(f"{name}: a TIFF of {len(frames)} frames; split it into one file a frame")
    if frames and frames[0] is not pages[0]:  # OpenCV decodes the first
        raise UnsupportedFrame(f"{name}: a TIFF whose image stands behind a thumbnail; save it without that")
    notes = [
        f"{len(pages) - 1} thumbnail or mask pages not read" if len(pages) > 1 else "",
        f"one of the {promised} frames that its description promises" if promised > len(frames) else "",
    ]
    return pages[0], "; ".join(filter(None, notes))


def _promised_frames(file: Any) -> int:
    """Frames by the description that ImageJ, OME and tifffile write: above 4 GB all of them stand behind one page."""
    if not (file.is_imagej or file.is_ome or file.is_shaped):
        return 0
    try:
        return int(file.series[0].size // max(file.pages[0].size, 1))
    except Exception:  # any text can stand there
        return 0


def _check_deflated(data: bytes, extents: list[tuple[int, int]], name: str) -> None:
    """Each strip's checksum, which libtiff does not look at."""
    for start, count in extents:
        stream, left = zlib.decompressobj(), data[start : start + count]
        try:
            while left and not stream.eof:
                stream.decompress(left, CHUNK)
                left = stream.unconsumed_tail
        except zlib.error as error:
            raise BrokenFrame(f"{name}: damaged TIFF ({error}); get the file again from its source") from error


def _refuse_what_is_not_read(page: Any, name: str) -> None:
    """Name, once, why these tags are not read."""
    bits, samples, photometric = page.bitspersample, page.samplesperpixel, page.photometric
    kind = {1: "unsigned", 2: "signed", 3: "float"}.get(int(page.sampleformat), "unknown")
    reasons = [
        (
            kind != "unsigned" or bits not in (1, 8, 16),
            f"{bits}-bit {kind} samples are not read; store counts or centikelvin (100 x kelvin, rounded) as unsigned "
            "16-bit",
        ),
        (
            page.compression not in COMPRESSIONS,
            f"compression {int(page.compression)} is not read; save it uncompressed or with LZW or Deflate",
        ),
        (photometric == MIN_IS_WHITE, "it counts downwards from white (WhiteIsZero); save it with BlackIsZero"),
        (
            SAMPLES.get(photometric) != samples,
            f"{samples} samples a pixel with photometric interpretation {int(photometric)} are not read; save it as "
            "grey or RGB without alpha",
        ),
        (
            samples > 1 and page.planarconfig != CONTIGUOUS,
            "its channels are stored one after the other; save it with interleaved channels",
        ),
        (photometric == PALETTE and bits != 8, f"a palette of {bits} bits is not read; save it as grey or RGB"),
    ]
    if why := next((reason for applies, reason in reasons if applies), ""):
        raise UnsupportedFrame(f"{name}: TIFF: {why}")


TIFF = CameraFormat(
    name="TIFF, BigTIFF",
    suffixes=(".tif", ".tiff"),
    recognises=lambda data: data.startswith(MAGICS),
    read=read_tiff,
    reads="bilevel, 8- and 16-bit unsigned grey, RGB, palette; either byte order; plain, LZW, Deflate, PackBits",
    refuses="float, signed and 32-bit samples, several frames, a frame behind its thumbnail, WhiteIsZero, alpha, "
    "planar RGB, JPEG and fax compression",
)
