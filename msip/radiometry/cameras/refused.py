"""Known formats that are not read, so that they can be refused by name, and things that are no image at all."""

from __future__ import annotations

import zlib

from msip.errors import BrokenFrame, UnsupportedFrame
from msip.radiometry.camera import CameraFormat

SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"GIF87a", "GIF"),
    (0, b"GIF89a", "GIF"),
    (8, b"WEBP", "WebP"),
    (8, b"AVI ", "AVI movie"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyphe", "HEIF"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
    (4, b"ftyp", "MP4 movie"),
    (0, b"\x1aE\xdf\xa3", "Matroska movie"),
    (0, b"\xed\xfe\0\0N\0o\0r\0p\0i\0x\0", "NorPix .seq movie"),
    (0, b"PK\x03\x04", "ZIP archive"),
    (0, b"Rar!", "RAR archive"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"MATLAB 5.0 MAT-file", "MATLAB"),
    (0, b"\x93NUMPY", "NumPy array"),
    (0, b"\xff\x49\x52\x42\0", "InfraTec .irb thermogram"),
    (0, b"\xca\xac", "InfiRay .irg thermogram"),
    (0, b"FPF Public Image Format", "FLIR .fpf thermogram"),
    (0, b"SIMPLE  =", "FITS"),
    (0, b"%PDF", "PDF"),
    (0, b"8BPS", "Photoshop"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"NITF", "NITF"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\0\0\1\0", "icon"),
    *((0, b"P%d%c" % (digit, space), "portable anymap (PNM)") for digit in range(1, 8) for space in b"\n\r \t"),
)
PICTURES = (".gif", ".webp", ".jp2", ".jxl", ".heic", ".avif", ".pgm", ".ppm")
RECORDINGS = (
    *(".cptv", ".seq", ".csq", ".ats", ".ptw", ".sfmov", ".ravi", ".avi", ".mp4", ".mov", ".mkv"),
    *(".irb", ".irg", ".fpf", ".is2", ".bmt", ".raw", ".npy", ".npz", ".mat", ".h5", ".hdf5"),
)
GZIP = b"\x1f\x8b"
TEXT = bytes(range(0x20, 0x7F)) + b"\t\n\r\f"
SAMPLE = 512


def known_format(data: bytes) -> str:
    """The name of a format that is not read, by its first bytes; empty for anything else."""
    if data.startswith(GZIP):
        return "CPTV thermal movie" if _unpacked_start(data).startswith(b"CPTV") else "gzip archive"
    return next((what for at, magic, what in SIGNATURES if data.startswith(magic, at)), "")


def refuse(data: bytes, name: str) -> None:
    """Raise ``UnsupportedFrame`` with the format's name and what to do."""
    known = known_format(data)
    advice = "extract it" if known.endswith("archive") else "save each frame as PNG (16-bit for counts)"
    raise UnsupportedFrame(f"{name}: {known} is not read; {advice} first")


def not_an_image(data: bytes, name: str) -> BrokenFrame:
    """The exception for bytes of no known format."""
    if not data:
        return BrokenFrame(f"{name}: the file is empty; get it again from its source")
    return BrokenFrame(f"{name}: {_what_it_is(data)}; expected a JPEG, PNG, BMP, TIFF, or FLIR FFF file")


def _unpacked_start(data: bytes) -> bytes:
    """The first bytes inside a gzip file, as far as they can be had; never unpacks more than a few."""
    try:
        return zlib.decompressobj(wbits=31).decompress(data[:4096], 16)
    except zlib.error:
        return b""


def _what_it_is(data: bytes) -> str:
    """A guess in words at what was put here instead of an image."""
    start = data[:SAMPLE]
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer instead of the image (run `git lfs pull`)"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page instead of the image (the download failed)"
    if not start.translate(None, TEXT):
        return "text instead of an image"
    return f"no image ({len(data)} bytes starting with {start[:4].hex(' ')})"


REFUSED = CameraFormat(
    name="GIF, WebP, HEIF, AVIF, JPEG 2000, JPEG XL, PNM, CPTV, NorPix and other movies, archives, arrays",
    suffixes=(*PICTURES, *RECORDINGS),
    recognises=lambda data: bool(known_format(data)),
    read=refuse,
    reads="",
    refuses="all",
)
