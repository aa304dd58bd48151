"""From the bytes of a raw file to its pixels: the container is known by its first bytes, never by its name."""

from __future__ import annotations

from msip.radiometry import bmp, flir, jpeg, png, tiff
from msip.radiometry.dji import read_dji_segments
from msip.radiometry.flir import read_flir_segments
from msip.radiometry.formats import refusal
from msip.radiometry.frame import RawFrame

KEPT_EXTENSIONS = {"jpeg": ".jpg", "png": ".png", "bmp": ".bmp"}


def decode(data: bytes, *, name: str) -> RawFrame:
    """Decode one raw frame whole, exactly as stored; ``name`` only begins the messages.

    Args:
        data: the file's bytes.
        name: what to call it in errors, usually its path.

    Returns:
        The pixels with what is known of them; see ``RawFrame``.

    Raises:
        BrokenFrame: the bytes are damaged, cut off, or no image.
        UnsupportedFrame: a known format or variant that is not read, by name.
        TooLargeFrame: the header announces more than ``frame.MAX_PIXELS`` pixels; nothing was decoded.
    """
    if data.startswith(jpeg.MAGIC):
        return jpeg.read_jpeg(data, name, (read_flir_segments, read_dji_segments))
    if data.startswith(png.MAGIC):
        return png.read_png(data, name)
    if data.startswith(bmp.MAGIC):
        return bmp.read_bmp(data, name)
    if data.startswith(tiff.MAGICS):
        return tiff.read_tiff(data, name)
    if data.startswith(flir.MAGICS):
        return flir.read_fff(data, name)
    raise refusal(data, name)


def extension_of(container: str) -> str:
    """The stored file's suffix with its dot: ``.jpg``, ``.png`` and ``.bmp`` are kept, all else becomes ``.png``."""
    return KEPT_EXTENSIONS.get(container, ".png")
