"""From 16-bit counts to 8 bits: automatic gain control (AGC), by name, with the mapping written down.

``percentile``, ``full`` and ``window`` map a window ``lo..hi`` of counts linearly, in integers:

    out = floor((clip(v, lo, hi) - lo) * 255 / (hi - lo) + 1/2)

so the mapping never decreases, is the same on every machine, and reaches 0 and 255.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from msip.errors import CollapsedFrame, OptionError
from msip.extras import need

AgcMethod = Literal["percentile", "full", "clahe", "window"]

TAIL_PER_MILLE = 1
"""Counts left outside at each end by ``percentile`` and ``clahe``: 1 per mille, so 0.1 % and 99.9 %."""
SENTINELS = (0, 65535)
"""What dead and saturated pixels and padding read; they do not vote on the window."""
LEVELS = 65536
CLAHE_CLIP, CLAHE_TILES, CLAHE_MAX_BINS = 0.01, 8, 4096


def to_8bit(
    pixels: np.ndarray, method: AgcMethod, window: tuple[int, int] | None = None, *, nodata: int | None = None
) -> tuple[np.ndarray, str]:
    """Map counts to 8 bits.

    Args:
        pixels: uint16 counts ``(h, w)``.
        method: ``percentile`` (0.1 % to 99.9 % of the counts), ``full`` (smallest to largest), ``clahe``
            (contrast-limited adaptive histogram equalisation, Zuiderveld 1994, inside the percentile window), or
            ``window``.
        window: ``(lo, hi)`` in counts, for ``window`` alone: the only method under which equal counts stay equal
            from frame to frame.
        nodata: the count of pixels without a measurement (``RawFrame.nodata``): they do not vote and become 0, which no
            other pixel of the frame is.

    Returns:
        uint8 ``(h, w)``, and the description for the manifest, such as ``agc percentile 0.1..99.9 (7012..7544)``.

    Raises:
        CollapsedFrame: the result would be constant.
        OptionError: an unknown method, or a window that is missing, superfluous or empty.
    """
    if pixels.dtype != np.uint16 or pixels.ndim != 2 or pixels.size == 0:
        raise ValueError(f"to_8bit needs uint16 (h, w), got {pixels.dtype} {pixels.shape}")
    _check_request(method, window)
    measured = np.ones(pixels.shape, bool) if nodata is None else pixels != nodata
    histogram = np.bincount(pixels[measured], minlength=LEVELS)
    lo, hi = window if window else _full_range(histogram) if method == "full" else _percentile_range(histogram)
    mapped = np.zeros_like(pixels, np.uint8)
    if lo < hi:
        pixels = pixels if nodata is None else np.where(measured, pixels, np.uint16(lo))
        mapped = _clahe(pixels, lo, hi) if method == "clahe" else _linear(lo, hi)[pixels]
    if mapped[measured].min() == mapped[measured].max():
        raise CollapsedFrame(_why_collapsed(method, (lo, hi), _full_range(histogram)))
    return mapped if nodata is None else np.maximum(mapped, 1) * measured, _describe(method, lo, hi)


def _check_request(method: str, window: tuple[int, int] | None) -> None:
    if method not in get_args(AgcMethod):
        raise OptionError(f"the AGC {method!r} is unknown; choose one of {', '.join(get_args(AgcMethod))}")
    if method == "clahe":
        need("clahe")
    if (method == "window") != (window is not None):
        raise OptionError("an AGC window (lo, hi) in counts goes with the method `window`, and only with it")
    if window is not None and not 0 <= window[0] < window[1] < LEVELS:
        raise OptionError(
            f"the AGC window {window[0]}..{window[1]} is empty or outside 0..65535; give lo < hi in counts"
        )


def _full_range(histogram: np.ndarray) -> tuple[int, int]:
    present = np.flatnonzero(histogram)
    return int(present[0]), int(present[-1])


def _percentile_range(histogram: np.ndarray) -> tuple[int, int]:
    """Smallest counts at or below which 0.1 % and 99.9 % of the voting pixels lie (no interpolation)."""
    votes = histogram.copy()
    votes[list(SENTINELS)] = 0
    if np.count_nonzero(votes) < 2:
        votes = histogram  # nothing but sentinels and at most one other count: they are the image
    below = np.cumsum(votes)
    total = int(below[-1])
    tail = total * TAIL_PER_MILLE // 1000
    return int(np.searchsorted(below, tail, side="right")), int(np.searchsorted(below, total - tail, side="left"))


def _linear(lo: int, hi: int) -> np.ndarray:
    """Lookup table of 65,536 entries for the formula of the module."""
    inside = np.clip(np.arange(LEVELS, dtype=np.int64), lo, hi) - lo
    return ((2 * 255 * inside + (hi - lo)) // (2 * (hi - lo))).astype(np.uint8)


def _clahe(pixels: np.ndarray, lo: int, hi: int) -> np.ndarray:
    """CLAHE in 8 x 8 tiles with as many bins as there are counts (at most 4,096), so no contrast is lost before."""
    from skimage.exposure import equalize_adapthist

    scaled = (np.clip(pixels, lo, hi).astype(np.float64) - lo) / (hi - lo)
    tile = [max(side // CLAHE_TILES, 1) for side in pixels.shape]
    bins = min(max(hi - lo + 1, 256), CLAHE_MAX_BINS)
    equalised = equalize_adapthist(scaled, kernel_size=tile, clip_limit=CLAHE_CLIP, nbins=bins)
    return np.floor(255 * np.clip(equalised, 0, 1) + 0.5).astype(np.uint8)


def _why_collapsed(method: str, asked: tuple[int, int], found: tuple[int, int]) -> str:
    what = f"AGC {method} over counts {asked[0]}..{asked[1]} leaves a constant image of counts {found[0]}..{found[1]}"
    return f"{what}; choose `agc=full`, or a window inside the counts found" if found[0] < found[1] else what


def _describe(method: str, lo: int, hi: int) -> str:
    extra = {"percentile": " 0.1..99.9", "clahe": f" clip {CLAHE_CLIP} tiles {CLAHE_TILES}x{CLAHE_TILES}"}
    return f"agc {method}{extra[method]} ({lo}..{hi})" if method in extra else f"agc {method} {lo}..{hi}"
