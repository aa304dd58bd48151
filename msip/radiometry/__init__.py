"""Raw frames read right: any container and bit depth, damage noticed, 16-bit counts mapped to 8 bits knowingly."""

from __future__ import annotations

from msip.radiometry.agc import AgcMethod, to_8bit
from msip.radiometry.checks import colour_fraction, image_statistics, is_colour_mapped, is_constant, phash, to_grey
from msip.radiometry.decode import decode, kept_suffix, read_grey8
from msip.radiometry.frame import MAX_PIXELS, RawFrame

__all__ = [
    "MAX_PIXELS",
    "AgcMethod",
    "RawFrame",
    "colour_fraction",
    "decode",
    "image_statistics",
    "is_colour_mapped",
    "is_constant",
    "kept_suffix",
    "phash",
    "read_grey8",
    "to_8bit",
    "to_grey",
]
