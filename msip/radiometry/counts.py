"""What goes wrong with 16-bit counts on their way into a file, told from the values and put right, with a note.

Only for containers that do not say whose counts they hold (PNG, TIFF). The thresholds come from measurements on 117
real frames, whose margins are named beside them; ``tests/msip/test_counts.py`` checks those at hand.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from msip.radiometry.frame import RawFrame, roughness

Counts = NDArray[np.uint16]

SWAPPED = 0.25
"""Roughness with swapped bytes, relative to as stored, from which on they are swapped. Real frames: at least 73 in any
64 x 64 tile, 5 stretched to 0..65535; swapped ones: at most 1/122."""
EDGE_ROWS, EDGE_OUTSIDE, EDGE_ZEROS, SEAM = 4, 0.5, 0.4, 20.0
"""Telemetry: at most four rows, half of the words outside the picture's range; and either many zeros in them, or a step
to the picture 20 times that between its rows (real frames: at most 4; telemetry: at least 113)."""
LEAST_WORDS = 10
MIDDLE = (16385, 49152)
ROLLED = 1.05
"""Roughness as unsigned relative to as signed, from which on values below zero were rolled over. Frames of real
degrees: at least 1.063; lawful counts on both sides of 32768: at most 0.998."""
SATURATED = 65535
NODATA = (55537, 55536, 32768)
"""-9999, -10000 and -32768 in 16 bits: what mapping software writes where there is no measurement."""
NODATA_SHARE, NODATA_GAP = 0.0005, 1024


def repaired(frame: RawFrame) -> RawFrame:
    """The frame with its bytes in order, without telemetry rows, with values below zero in order and no data marked.

    Values below zero that were rolled over are shifted up by 32,768, so that their order is that of the temperatures.
    """
    pixels, notes = frame.pixels, [frame.note]
    first = pixels if pixels.ndim == 2 else pixels[..., 0]
    if _bytes_swapped(first):
        pixels = pixels.byteswap()
        notes.append("16-bit values stored low byte first, put in order")
    if pixels.ndim == 3:
        return replace(frame, pixels=pixels, note=_joined(notes))
    top, bottom = _telemetry_rows(pixels)
    if top or bottom:
        pixels = np.ascontiguousarray(pixels[top : len(pixels) - bottom])
        notes.append(f"{top + bottom} rows of telemetry cut off")
    nodata = frame.nodata if frame.nodata is not None else _nodata(pixels)
    if _rolled_over(pixels if nodata is None else pixels[pixels != nodata].reshape(1, -1)):
        pixels = pixels ^ np.uint16(0x8000)
        nodata = None if nodata is None else nodata ^ 0x8000
        notes.append("values below zero rolled over in 16 bits, counts shifted by 32768")
    if nodata is not None and (missing := np.count_nonzero(pixels == nodata)):
        notes.append(f"{missing} pixels without data")
    return replace(frame, pixels=pixels, note=_joined(notes), nodata=nodata if nodata is not None and missing else None)


def _joined(notes: list[str]) -> str:
    return "; ".join(filter(None, notes))


def _bytes_swapped(counts: Counts) -> bool:
    """Whether neighbours differ far less with swapped bytes; never where all low bytes are 0 (8 bits times 256)."""
    return bool((counts & 0xFF).any()) and _both_ways(counts.byteswap()) < SWAPPED * _both_ways(counts)


def _both_ways(values: NDArray) -> float:
    return roughness(values) + roughness(values.T)


def _telemetry_rows(counts: Counts) -> tuple[int, int]:
    """Rows at the top and at the bottom that are the core's state rather than picture (Lepton, Boson, Tau)."""
    inner = counts[EDGE_ROWS:-EDGE_ROWS]
    picture = inner[(inner > 0) & (inner < SATURATED)]
    if len(counts) < 8 * EDGE_ROWS or picture.size < inner.size / 2:
        return 0, 0
    steps = np.abs(np.diff(inner.astype(np.int32), axis=0)).mean(axis=1)
    inside = int(picture.min()), int(picture.max()), float(np.median(steps)), float((inner == 0).mean())
    return _edge(counts[: EDGE_ROWS + 1], *inside), _edge(counts[: -EDGE_ROWS - 2 : -1], *inside)


def _edge(rows: Counts, least: int, most: int, step: float, zeros_inside: float) -> int:
    """Telemetry rows among ``rows``, which run from the edge inwards."""
    foreign = ((rows < least) | (rows > most)).mean(axis=1) >= EDGE_OUTSIDE
    count = int(np.argmin(foreign)) if not foreign.all() else 0
    words = rows[:count][rows[:count] > 0]
    if len(words) < LEAST_WORDS:
        return 0
    many_zeros = zeros_inside < 0.01 and words.size <= (1 - EDGE_ZEROS) * rows[:count].size
    seam = np.abs(rows[count - 1].astype(np.int32) - rows[count]).mean() >= SEAM * max(step, 1.0)
    return count if many_zeros or (seam and len(np.unique(words)) >= LEAST_WORDS) else 0


def _nodata(counts: Counts) -> int | None:
    """The value of ``NODATA`` that many pixels have and that lies apart from all others."""
    for value in NODATA:
        near = counts[(counts > value - NODATA_GAP) & (counts < value + NODATA_GAP)]
        if near.size > NODATA_SHARE * counts.size and near.min() == near.max() == value and near.size < counts.size:
            return value
    return None


def _rolled_over(counts: Counts) -> bool:
    """Whether values below zero stand at the upper end: none in the middle, and smoother as signed numbers.

    Single bad pixels are not that: the values at the upper end are several, and either neighbours of each other or
    close to the lower end, as degrees around zero are.
    """
    high = (counts >= MIDDLE[1]) & (counts != SATURATED)
    if not high.any() or bool(((counts >= MIDDLE[0]) & (counts < MIDDLE[1])).any()):
        return False
    below, signed = counts[high].view(np.int16), counts.view(np.int16)
    gap, span = int(signed[signed >= 0].min(initial=32767)) - int(below.max()), int(np.ptp(signed.astype(np.int32)))
    beside = np.count_nonzero(high[:, 1:] & high[:, :-1]) + np.count_nonzero(high[1:] & high[:-1])
    apart = below.min() == below.max() or (gap > span / 4 and 2 * beside < below.size)
    return not apart and _both_ways(counts) > ROLLED * _both_ways(signed)
