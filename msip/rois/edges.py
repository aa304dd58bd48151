"""Edges of the 8-connected pixel graph as sortable 64-bit words, and which of them can be left out.

A word is ``key | direction | pixel``: 33 bits of the cost (6 of the exponent, clipped, and 27 of the mantissa),
2 bits of direction and 29 bits of the flat index of the edge's pixel. Words therefore sort by (cost truncated,
direction, pixel); where the truncated costs of two edges agree, the exact ones are recomputed from the smoothed
image. Directions are numbered in the order in which scikit-image concatenates them.

**The triangle filter.** Every triangle of neighbouring pixels has one right, one down and one diagonal edge. In the
Felzenszwalb-Huttenlocher process, take the last edge (a, b) of a triangle a, b, c. If its ends still lie in different
components when its turn comes, then so do a and c, or c and b, whose edge came before and was rejected. So an edge
that closes a triangle is a no-op unless another edge of that triangle was rejected before: it need not be sorted, and
is brought back only when such a rejection happens (:mod:`msip.rois.components`). About 60% of all edges go. In the
second pass (joining what is too small) closing edges are always no-ops: one of the two other edges joined nothing,
because all components concerned were large enough already.
"""

from __future__ import annotations

import numpy as np

from msip.jit import exact_jit, float_bits

RIGHT, DOWN, DOWN_RIGHT, UP_RIGHT = 0, 1, 2, 3
PIXEL_BITS = np.uint64(29)
INDEX_BITS = np.uint64(31)
MAX_PIXELS = 1 << 29
PIXEL_MASK = np.uint64(MAX_PIXELS - 1)
_DIRECTION_MASK = np.uint64(3)
_DROPPED_MANTISSA_BITS = np.uint64(52 - 27)
_KEY_BASE = np.uint64((1023 - 62) << 27)  # costs below 2**-62 share key 0
_ONE = np.uint64(1)
NONE_RIGHT = np.uint8(0b1101)  # what the pixels of the last column lack
NONE_BELOW = np.uint8(0b1110)  # what the pixels of the last row lack


@exact_jit
def make_word(cost: float, direction: np.uint64, pixel: np.uint64) -> np.uint64:
    """Pack one edge; costs are non-negative and below 2."""
    key = float_bits(cost) >> _DROPPED_MANTISSA_BITS
    key = key - _KEY_BASE if key > _KEY_BASE else np.uint64(0)
    return (key << INDEX_BITS) | (direction << PIXEL_BITS) | pixel


@exact_jit
def edge_ends(word: np.uint64, width: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The two pixels of an edge."""
    pixel = word & PIXEL_MASK
    direction = (word >> PIXEL_BITS) & _DIRECTION_MASK
    # Arithmetic instead of branches, which the processor could not predict.
    is_up_right = direction & (direction >> _ONE)
    goes_down = (direction | (direction >> _ONE)) & _ONE
    goes_right = ~direction & _ONE
    return pixel + is_up_right, pixel + goes_down * width + goes_right


@exact_jit
def pixel_distance(smoothed: np.ndarray, a: np.uint64, b: np.uint64) -> float:
    """Cost of the edge between pixels a and b: Euclidean over the channels. smoothed (1 or 3, n).

    One channel stands for three equal ones, summed in the same order.
    """
    d0 = smoothed[0, a] - smoothed[0, b]
    s0 = d0 * d0
    if smoothed.shape[0] == 1:
        return np.sqrt((s0 + s0) + s0)
    d1 = smoothed[1, a] - smoothed[1, b]
    d2 = smoothed[2, a] - smoothed[2, b]
    return np.sqrt((s0 + d1 * d1) + d2 * d2)


@exact_jit
def word_cost(smoothed: np.ndarray, word: np.uint64, width: np.uint64) -> float:
    """The exact cost of a packed edge."""
    a, b = edge_ends(word, width)
    return pixel_distance(smoothed, a, b)


@exact_jit
def row_costs(smoothed: np.ndarray, a: int, b: int, count: int, out: np.ndarray) -> None:
    """Costs between the pixels a, a + 1, ... and b, b + 1, ...; out (>= count,)."""
    if smoothed.shape[0] == 1:
        left = smoothed[0, a : a + count]
        right = smoothed[0, b : b + count]
        for x in range(count):
            difference = left[x] - right[x]
            square = difference * difference
            out[x] = np.sqrt((square + square) + square)
        return
    l0, r0 = smoothed[0, a : a + count], smoothed[0, b : b + count]
    l1, r1 = smoothed[1, a : a + count], smoothed[1, b : b + count]
    l2, r2 = smoothed[2, a : a + count], smoothed[2, b : b + count]
    for x in range(count):
        d0, d1, d2 = l0[x] - r0[x], l1[x] - r1[x], l2[x] - r2[x]
        out[x] = np.sqrt((d0 * d0 + d1 * d1) + d2 * d2)


@exact_jit
def all_costs(smoothed: np.ndarray, height: int, width: int) -> np.ndarray:
    """Every cost, directions one after the other, each in raster order (as scikit-image lists them). float64."""
    out = np.empty(4 * height * width - 3 * (height + width) + 2)
    at = 0
    for direction in range(4):
        dx = 0 if direction == DOWN else 1
        rows = height if direction == RIGHT else height - 1
        count = width - dx
        for y in range(rows):
            first = y * width
            a = first + 1 if direction == UP_RIGHT else first
            b = first + (1, width, width + 1, width)[direction]
            row_costs(smoothed, a, b, count, out[at : at + count])
            at += count
    return out


@exact_jit
def _mark_closing(
    right: np.ndarray,
    right_below: np.ndarray,
    down: np.ndarray,
    down_right: np.ndarray,
    up_right: np.ndarray,
    out: np.ndarray,
) -> None:
    """For each 2x2 block of one row of blocks, which of its six edges close a triangle.

    Bits of out (width - 1,) uint8: 0 right, 1 down, 2 down-right, 3 up-right, 4 the right edge below, 5 the down edge
    at the block's right side. Equal costs are ordered right, down, diagonal, as everywhere.
    """
    for x in range(out.size):
        r0, r1, d0, d1, dr, ur = right[x], right_below[x], down[x], down[x + 1], down_right[x], up_right[x]
        dr_r0, dr_d1, dr_r1, dr_d0 = dr >= r0, dr >= d1, dr >= r1, dr >= d0
        ur_r0, ur_d1, ur_r1, ur_d0 = ur >= r0, ur >= d1, ur >= r1, ur >= d0
        d1_r0, d0_r1, d0_r0, d1_r1 = d1 >= r0, d0 >= r1, d0 >= r0, d1 >= r1
        closes_dr = (dr_r0 & dr_d1) | (dr_r1 & dr_d0)
        closes_ur = (ur_r0 & ur_d0) | (ur_r1 & ur_d1)
        closes_d0 = (d0_r1 & (not dr_d0)) | (d0_r0 & (not ur_d0))
        closes_d1 = (d1_r0 & (not dr_d1)) | (d1_r1 & (not ur_d1))
        closes_r0 = ((not d1_r0) & (not dr_r0)) | ((not d0_r0) & (not ur_r0))
        closes_r1 = ((not d0_r1) & (not dr_r1)) | ((not d1_r1) & (not ur_r1))
        out[x] = (
            np.uint8(closes_r0)
            | (np.uint8(closes_d0) << np.uint8(1))
            | (np.uint8(closes_dr) << np.uint8(2))
            | (np.uint8(closes_ur) << np.uint8(3))
            | (np.uint8(closes_r1) << np.uint8(4))
            | (np.uint8(closes_d1) << np.uint8(5))
        )


@exact_jit
def mark_open_rows(
    smoothed: np.ndarray,
    y: int,
    height: int,
    width: int,
    costs: np.ndarray,
    right_below: np.ndarray,
    closing: np.ndarray,
    out: np.ndarray,
) -> None:
    """Costs of the edges of pixel row ``y``, and which of them are open: bit ``d`` of out (w,) uint8.

    Rows are taken from the top; ``right_below`` (w,) and ``closing`` (2, w + 1), zeros at first, carry over from row to
    row: the costs of the right edges one row on, and the marks of this and the last row of blocks, shifted by one.
    costs: (4, w) float64, one row per direction.
    """
    first, below = y * width, (y + 1) * width
    marks, marks_above = closing[y & 1], closing[1 - (y & 1)]
    if y == 0:
        row_costs(smoothed, 0, 1, width - 1, right_below)
    costs[0] = right_below
    if y + 1 < height:
        row_costs(smoothed, first, below, width, costs[1])
        row_costs(smoothed, first, below + 1, width - 1, costs[2])
        row_costs(smoothed, first + 1, below, width - 1, costs[3])
        row_costs(smoothed, below, below + 1, width - 1, right_below)
        _mark_closing(costs[0], right_below, costs[1], costs[2], costs[3], marks[1:width])
        marks[width] = NONE_RIGHT
    else:
        marks[1:] = NONE_BELOW
        marks[width] |= NONE_RIGHT
    for x in range(width):
        here, left, above = marks[x + 1], marks[x], marks_above[x + 1]
        closed = here | ((above >> np.uint8(4)) & np.uint8(1)) | ((left >> np.uint8(4)) & np.uint8(2))
        out[x] = ~closed & np.uint8(0b1111)
