"""The first pass within tiles of the image, as far as the rest of the image cannot interfere.

The order of two edges matters only if they touch a common component. So a tile can join its own pixels before anything
else happens, as long as no earlier edge touches the components concerned: a component is *blocked* from the cost of
its cheapest edge that leaves the tile, and from the first edge on that the tile cannot settle (one that leads to a
blocked component, or would be rejected). Blocked edges and those between tiles go to the pass over the whole image.
About six of seven joins happen here, on data that stays in the fast caches, and a third of the edges is left over.

Edges of cost zero come first and always join, in whatever order, so they are never blocked. An edge left out by the
triangle filter can only come back at a component at which an edge of the list was rejected before: it is blocked by then.
"""

from __future__ import annotations

import numpy as np

from msip.rois._jit import exact_jit
from msip.rois.components import find, join
from msip.rois.edges import (
    PIXEL_MASK,
    edge_ends,
    make_word,
    mark_closing,
    pixel_distance,
    row_costs,
)
from msip.rois.ordering import sort_words

TILE_WIDTH = 128
TILE_HEIGHT = 64
TILE_PIXELS = TILE_WIDTH * TILE_HEIGHT
_ALL = np.uint8(0b1111)
_NONE_RIGHT = np.uint8(0b1101)  # the last column has only down edges
_NONE_BELOW = np.uint8(0b1110)  # the last row has only right edges
_ONE = np.uint8(1)


@exact_jit
def _open_row(closing: np.ndarray, closing_above: np.ndarray, out: np.ndarray) -> None:
    """Bits of the edges of one row of pixels that close no triangle. closing (w + 1,): one block to the left first."""
    for x in range(out.size):
        here, left, above = closing[x + 1], closing[x], closing_above[x + 1]
        closed = here | ((above >> np.uint8(4)) & _ONE) | ((left >> np.uint8(4)) & np.uint8(2))
        out[x] = ~closed & _ALL


@exact_jit
def _append_inner(
    bits: np.ndarray, open_row: np.ndarray, x0: int, x1: int, local: int, last: bool, words: np.ndarray, at: np.ndarray
) -> None:
    """Append the words of one row of a tile, columns x0 to x1, to the tile's four lists; pixels counted in the tile."""
    at0, at1, at2, at3 = at[0], at[1], at[2], at[3]
    right, down, down_right, up_right = bits[0], bits[1], bits[2], bits[3]
    if last:
        for x in range(x0, x1 - 1):
            words[at0] = make_word(right[x], np.uint64(0), np.uint64(local + x - x0))
            at0 += np.uint64(open_row[x] & _ONE)
    else:
        for x in range(x0, x1 - 1):
            marks = open_row[x]
            pixel = np.uint64(local + x - x0)
            words[at0] = make_word(right[x], np.uint64(0), pixel)
            words[at1] = make_word(down[x], np.uint64(1), pixel)
            words[at2] = make_word(down_right[x], np.uint64(2), pixel)
            words[at3] = make_word(up_right[x], np.uint64(3), pixel)
            at0 += np.uint64(marks & _ONE)
            at1 += np.uint64((marks >> _ONE) & _ONE)
            at2 += np.uint64((marks >> np.uint8(2)) & _ONE)
            at3 += np.uint64(marks >> np.uint8(3))
        words[at1] = make_word(down[x1 - 1], np.uint64(1), np.uint64(local + x1 - 1 - x0))
        at1 += np.uint64((open_row[x1 - 1] >> _ONE) & _ONE)
    at[0], at[1], at[2], at[3] = at0, at1, at2, at3


@exact_jit
def _append_crossing(
    bits: np.ndarray,
    costs: np.ndarray,
    marks: np.uint8,
    x: int,
    first: int,
    width: np.uint64,
    limit: np.ndarray,
    pending: np.ndarray,
    count: int,
) -> int:
    """Send a pixel's edges that leave its tile to the pass over the whole image, and block both ends from their cost on."""
    for direction in range(4):
        if (marks >> np.uint8(direction)) & _ONE:
            word = make_word(bits[direction, x], np.uint64(direction), np.uint64(first + x))
            pending[count] = word
            count += 1
            bound = np.float32(costs[direction, x]) * np.float32(1 - 1e-6)  # not above the cost
            p, q = edge_ends(word, width)
            limit[p] = min(limit[p], bound)
            limit[q] = min(limit[q], bound)
    return count


@exact_jit
def _settle(tile, total, smoothed, k, parent, size, threshold, limit, first, width, pending, count):
    """Join within one tile; returns the new count of pending words."""
    columns = np.uint64(TILE_WIDTH)
    blocked = np.float32(-1.0)
    for i in range(total):
        word = tile[i]
        p, q = edge_ends(word, columns)
        a, b = find(parent, p), find(parent, q)
        if a == b:
            continue
        cost = pixel_distance(smoothed, p, q)
        if cost == 0.0 or cost < min(min(threshold[a], threshold[b]), min(limit[a], limit[b])):
            bound = min(limit[a], limit[b])
            a = join(parent, size, a, b)
            threshold[a] = np.float32(cost + k / np.float64(size[a]))
            limit[a] = bound
        else:
            limit[a] = blocked
            limit[b] = blocked
            local = word & PIXEL_MASK
            pixel = np.uint64(first) + (local // columns) * width + local % columns
            pending[count] = (word & ~PIXEL_MASK) | pixel
            count += 1
    return count


@exact_jit
def settle_tiles(smoothed, height, width, k, parent, size, threshold, limit, open_edges, pending):
    n_columns = (width + TILE_WIDTH - 1) // TILE_WIDTH
    costs = np.zeros((4, width))
    below_right = np.zeros(width)
    bits = costs.view(np.uint64)
    closing = np.zeros((2, width + 1), np.uint8)
    lists = np.empty(n_columns * 4 * TILE_PIXELS, np.uint64)
    at = np.empty((n_columns, 4), np.uint64)
    starts = np.empty(4, np.int64)
    counts = np.empty(4, np.int64)
    tile_words = np.empty(4 * TILE_PIXELS, np.uint64)
    tile_smoothed = np.empty((smoothed.shape[0], TILE_PIXELS))
    tile_parent = np.empty(TILE_PIXELS, np.uint32)
    tile_size = np.empty(TILE_PIXELS, np.uint32)
    tile_threshold = np.empty(TILE_PIXELS, np.float32)
    tile_limit = np.empty(TILE_PIXELS, np.float32)
    limit[:] = np.inf
    columns = np.uint64(width)
    count = 0
    row_costs(smoothed, 0, 1, width - 1, below_right)
    for y0 in range(0, height, TILE_HEIGHT):
        y1 = min(y0 + TILE_HEIGHT, height)
        for column in range(n_columns):
            for direction in range(4):
                at[column, direction] = (column * 4 + direction) * TILE_PIXELS
        for y in range(y0, y1):
            first, below, now = y * width, (y + 1) * width, y & 1
            marks = closing[now]
            costs[0] = below_right
            if y + 1 < height:
                row_costs(smoothed, first, below, width, costs[1])
                row_costs(smoothed, first, below + 1, width - 1, costs[2])
                row_costs(smoothed, first + 1, below, width - 1, costs[3])
                row_costs(smoothed, below, below + 1, width - 1, below_right)
                mark_closing(costs[0], below_right, costs[1], costs[2], costs[3], marks[1:width])
                marks[width] = _NONE_RIGHT
            else:
                marks[1:] = _NONE_BELOW
                marks[width] |= _NONE_RIGHT
            open_row = open_edges[first:below]
            _open_row(marks, closing[1 - now], open_row)
            last = y == y1 - 1
            for column in range(n_columns):
                x0 = column * TILE_WIDTH
                x1 = min(x0 + TILE_WIDTH, width)
                _append_inner(bits, open_row, x0, x1, (y - y0) * TILE_WIDTH, last, lists, at[column])
                if last:
                    for x in range(x0, x1 - 1):
                        count = _append_crossing(
                            bits, costs, open_row[x] & _NONE_BELOW, x, first, columns, limit, pending, count
                        )
                    count = _append_crossing(
                        bits, costs, open_row[x1 - 1], x1 - 1, first, columns, limit, pending, count
                    )
                else:
                    count = _append_crossing(
                        bits, costs, open_row[x1 - 1] & _NONE_RIGHT, x1 - 1, first, columns, limit, pending, count
                    )
        # not existing edges count as open from here on: they never come back
        for column in range(n_columns):
            x0 = column * TILE_WIDTH
            x1 = min(x0 + TILE_WIDTH, width)
            first = y0 * width + x0
            for direction in range(4):
                starts[direction] = (column * 4 + direction) * TILE_PIXELS
                counts[direction] = np.int64(at[column, direction]) - starts[direction]
            for y in range(y1 - y0):
                for c in range(smoothed.shape[0]):
                    tile_smoothed[c, y * TILE_WIDTH : y * TILE_WIDTH + x1 - x0] = smoothed[
                        c, first + y * width : first + y * width + x1 - x0
                    ]
                tile_limit[y * TILE_WIDTH : y * TILE_WIDTH + x1 - x0] = limit[
                    first + y * width : first + y * width + x1 - x0
                ]
            for i in range((y1 - y0) * TILE_WIDTH):
                tile_parent[i] = np.uint32(i)
                tile_size[i] = np.uint32(1)
                tile_threshold[i] = np.float32(k)
            total = sort_words(lists, starts, counts, tile_smoothed, np.uint64(TILE_WIDTH), tile_words)
            count = _settle(
                tile_words,
                total,
                tile_smoothed,
                k,
                tile_parent,
                tile_size,
                tile_threshold,
                tile_limit,
                first,
                columns,
                pending,
                count,
            )
            for y in range(y1 - y0):
                for x in range(x1 - x0):
                    local = np.uint64(y * TILE_WIDTH + x)
                    to = np.uint64(first + y * width + x)
                    root = find(tile_parent, local)
                    parent[to] = np.uint32(
                        np.uint64(first) + (root // np.uint64(TILE_WIDTH)) * columns + root % np.uint64(TILE_WIDTH)
                    )
                    size[to] = tile_size[local]
                    threshold[to] = tile_threshold[local]
    for y in range(height):
        open_edges[y * width + width - 1] |= _NONE_RIGHT
    for x in range((height - 1) * width, height * width):
        open_edges[x] |= _NONE_BELOW
    return count
