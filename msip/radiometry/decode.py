"""From the bytes of a raw file to its pixels: the container is known by its first bytes, never by its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msip.errors import BrokenFrame, FrameError
from msip.radiometry.agc import to_8bit
from msip.radiometry.camera import CameraFormat
from msip.radiometry.cameras import FORMATS, camera_formats
from msip.radiometry.cameras.refused import not_an_image
from msip.radiometry.checks import to_grey
from msip.radiometry.counts import repaired
from msip.radiometry.frame import RawFrame


def decode(data: bytes, *, name: str) -> RawFrame:
    """Decode one raw frame whole, as stored; ``name`` only begins the messages.

    16-bit counts of a container that does not say whose they are (PNG, TIFF) are put right where they went wrong on
    their way into the file; ``note`` says so. See ``msip.radiometry.counts``.

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
    for key, camera in camera_formats().items():
        if camera.recognises(data):
            frame = camera.read(data, name) if key in FORMATS else _read_foreign(camera, data, name)
            if frame is not None:
                return frame if frame.radiometric or frame.pixels.dtype != np.uint16 else repaired(frame)
    raise not_an_image(data, name)


def _read_foreign(camera: CameraFormat, data: bytes, name: str) -> RawFrame | None:
    """The frame of another package's reader, whose faults must not end a build."""
    try:
        frame = camera.read(data, name)
    except FrameError:
        raise
    except Exception as error:
        raise BrokenFrame(f"{name}: the reader of {camera.name} failed ({type(error).__name__}: {error})") from error
    if frame is not None and frame.pixels.dtype not in (np.uint8, np.uint16):
        raise BrokenFrame(f"{name}: the reader of {camera.name} gave {frame.pixels.dtype}, expected uint8 or uint16")
    return frame


def kept_suffix(container: str) -> str | None:
    """The suffix under which a file of this container is stored as it is; None where its pixels become a PNG."""
    return camera_formats()[container].kept


def read_grey8(path: Path, *, name: str | None = None) -> NDArray[np.uint8]:
    """Any image as uint8 (h, w): colour to luma, 16-bit counts through the percentile window as in a build.

    Raises ``FrameError`` (``name`` begins its message) and ``OSError``.
    """
    frame = decode(path.read_bytes(), name=name or str(path))
    grey = to_grey(frame.pixels)
    return np.asarray(grey if grey.dtype == np.uint8 else to_8bit(grey, "percentile", nodata=frame.nodata)[0], np.uint8)
