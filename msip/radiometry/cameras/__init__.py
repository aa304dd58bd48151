"""The camera formats, one file each; ``decode``, the listing of folders and the documentation follow from this list."""

from __future__ import annotations

from functools import cache

from msip.plugins import with_plugins
from msip.radiometry.camera import CameraFormat
from msip.radiometry.cameras.bmp import BMP
from msip.radiometry.cameras.dji import DJI
from msip.radiometry.cameras.flir import FFF, FLIR
from msip.radiometry.cameras.jpeg import JPEG
from msip.radiometry.cameras.png import PNG
from msip.radiometry.cameras.refused import REFUSED
from msip.radiometry.cameras.tiff import TIFF

FORMATS: dict[str, CameraFormat] = {
    "flir": FLIR,
    "dji": DJI,
    "jpeg": JPEG,
    "png": PNG,
    "tiff": TIFF,
    "bmp": BMP,
    "fff": FFF,
    "refused": REFUSED,
}
"""By ``RawFrame.container``, in the order in which they are asked: a maker's own data before the plain container."""
ENTRY_POINTS = "msip.cameras"
HEAD = 64
"""Bytes that tell a format in the listing of a folder."""


@cache
def camera_formats() -> dict[str, CameraFormat]:
    """``FORMATS``, and before them those of installed packages. Raises ``MsipError`` for a broken entry point."""
    return with_plugins(ENTRY_POINTS, FORMATS, CameraFormat)


@cache
def suffixes(*, refused: bool = False) -> frozenset[str]:
    """Suffixes of the formats that are read; with ``refused`` also of those that are refused, by name, as frames."""
    return frozenset(
        suffix for camera in camera_formats().values() if camera.reads or refused for suffix in camera.suffixes
    )


def starts_a_frame(head: bytes) -> bool:
    """Whether the first ``HEAD`` bytes of a file are those of a format that is read, whatever its name."""
    return any(camera.reads and camera.recognises(head) for camera in camera_formats().values())


def markdown_table() -> str:
    """The documentation's table of formats; ``python -m msip.radiometry.cameras`` prints it."""
    rows = [["format", "files", "read", "refused by name"], ["---"] * 4]
    rows += [[c.name, " ".join(c.suffixes), c.reads or "-", c.refuses or "-"] for c in FORMATS.values()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
