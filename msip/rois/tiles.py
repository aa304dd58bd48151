"""The first pass within tiles of the image, as far as the rest of the image cannot interfere.

The order of two edges matters only if they touch a common component. So a tile can join its own pixels before anything
else happens, as long as no earlier edge touches the components concerned: a component is *blocked* from the cost of
its cheapest edge that leaves the tile, and from the first edge on that the tile cannot settle (one that leads to a
blocked component, or would be rejected). Edges between tiles and those left unsettled go to the pass over the whole
image. About six of seven joins happen here, on data that stay in the fast caches, and a third of the edges is left.

Edges of cost zero come first and always join, in whatever order, so they are never blocked. An edge left out by the
triangle filter can only come back at a component at which a listed edge was rejected before: blocked by then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from msip.jit import exact_jit
from msip.rois.components import Forest, find, join
from msip.rois.edges import NONE_BELOW, NONE_RIGHT, PIXEL_MASK, edge_ends, make_word, mark_open_rows, pixel_distance
from msip.rois.ordering import sort_words

TILE_WIDTH = 128
TILE_HEIGHT = 64
TILE_PIXELS = TILE_WIDTH * TILE_HEIGHT
_ONE = np.uint8(1)


class Tile(NamedTuple):
    """What one tile works on: its words in order, its smoothed pixels, its forest, and when it is blocked."""

    words: np.ndarray  # (4 * TILE_PIXELS,) uint64
    smoothed: np.ndarray  # (1 or 3, TILE_PIXELS) float64
    forest: Forest
    limit: np.ndarray  # (TILE_PIXELS,) float32
    number: np.ndarray  # (TILE_PIXELS,) uint32: of a root, in the forest of the whole image


def new_tile(channels: int) -> Tile:
    """Buffers for one tile."""
    forest = Forest(
        np.empty(TILE_PIXELS, np.uint32), np.empty(TILE_PIXELS, np.uint32), np.empty(TILE_PIXELS, np.float32)
    )
    return Tile(
        np.empty(4 * TILE_PIXELS, np.uint64),
        np.empty((channels, TILE_PIXELS)),
        forest,
        np.empty(TILE_PIXELS, np.float32),
        np.empty(TILE_PIXELS, np.uint32),
    )


@exact_jit
def _list_inner(
    costs: np.ndarray, marks: np.ndarray, x0: int, x1: int, local: int, is_last: bool, words: np.ndarray, at: np.ndarray
) -> None:
    """Append one row's edges inside the tile of columns x0 to x1 to its four lists; pixels are counted in the tile."""
    at0, at1, at2, at3 = at[0], at[1], at[2], at[3]
    right, down, down_right, up_right = costs[0], costs[1], costs[2], costs[3]
    inner = x1 - 1
    for x in range(x0, inner):  # always write, but only step on if the edge is open: no branch to mispredict
        words[at0] = make_word(right[x], np.uint64(0), np.uint64(local + x - x0))
        at0 += np.uint64(marks[x] & _ONE)
    at[0] = at0
    if is_last:
        return
    for x in range(x0, inner):
        pixel = np.uint64(local + x - x0)
        words[at1] = make_word(down[x], np.uint64(1), pixel)
        words[at2] = make_word(down_right[x], np.uint64(2), pixel)
        words[at3] = make_word(up_right[x], np.uint64(3), pixel)
        at1 += np.uint64((marks[x] >> _ONE) & _ONE)
        at2 += np.uint64((marks[x] >> np.uint8(2)) & _ONE)
        at3 += np.uint64((marks[x] >> np.uint8(3)) & _ONE)
    words[at1] = make_word(down[inner], np.uint64(1), np.uint64(local + inner - x0))
    at1 += np.uint64((marks[inner] >> _ONE) & _ONE)
    at[1], at[2], at[3] = at1, at2, at3


@exact_jit
def _list_crossing(
    costs: np.ndarray,
    marks: np.uint8,
    x: int,
    first: int,
    width: np.uint64,
    limit: np.ndarray,
    pending: np.ndarray,
    count: int,
) -> int:
    """Leave a pixel's edges that cross to other tiles to the whole image, and block both ends from their cost on."""
    for direction in range(4):
        if (marks >> np.uint8(direction)) & _ONE:
            cost = costs[direction, x]
            word = make_word(cost, np.uint64(direction), np.uint64(first + x))
            pending[count] = word
            count += 1
            bound = np.float32(cost) * np.float32(1 - 1e-6)  # rounded, but not above the cost
            p, q = edge_ends(word, width)
            limit[p] = min(limit[p], bound)
            limit[q] = min(limit[q], bound)
    return count


@exact_jit
def _list_row(
    y: int,
    is_last: bool,
    local: int,
    costs: np.ndarray,
    marks: np.ndarray,
    lists: np.ndarray,
    at: np.ndarray,
    limit: np.ndarray,
    pending: np.ndarray,
    count: int,
) -> int:
    """Distribute one row's open edges to its tiles and to the pending ones; returns the new count of these."""
    width = marks.size
    columns = np.uint64(width)
    for tile in range(at.shape[0]):
        x0 = tile * TILE_WIDTH
        x1 = min(x0 + TILE_WIDTH, width)
        _list_inner(costs, marks, x0, x1, local, is_last, lists, at[tile])
        crossing = marks[x1 - 1] if is_last else marks[x1 - 1] & NONE_RIGHT
        count = _list_crossing(costs, crossing, x1 - 1, y * width, columns, limit, pending, count)
        if is_last:
            for x in range(x0, x1 - 1):
                count = _list_crossing(costs, marks[x] & NONE_BELOW, x, y * width, columns, limit, pending, count)
    return count


@exact_jit
def _load(
    tile: Tile, rows: int, columns: int, first: int, width: int, smoothed: np.ndarray, limit: np.ndarray, k: float
) -> None:
    """Copy a tile's pixels from the image, each its own component."""
    for y in range(rows):
        to, start = y * TILE_WIDTH, first + y * width
        for channel in range(smoothed.shape[0]):
            tile.smoothed[channel, to : to + columns] = smoothed[channel, start : start + columns]
        tile.limit[to : to + columns] = limit[start : start + columns]
    for i in range(rows * TILE_WIDTH):
        tile.forest.parent[i] = np.uint32(i)
        tile.forest.size[i] = np.uint32(1)
        tile.forest.threshold[i] = np.float32(k)


@exact_jit
def _settle(tile: Tile, total: int, k: float, first: int, width: np.uint64, pending: np.ndarray, count: int) -> int:
    """Join within one tile; edges it cannot settle become pending. Returns the new count of these."""
    parent, size, threshold = tile.forest
    limit, smoothed = tile.limit, tile.smoothed
    columns = np.uint64(TILE_WIDTH)
    blocked = np.float32(-1.0)
    for i in range(total):
        word = tile.words[i]
        p, q = edge_ends(word, columns)
        a, b = find(parent, p), find(parent, q)
        if a == b:
            continue
        cost = pixel_distance(smoothed, p, q)
        bound = min(limit[a], limit[b])
        inner = min(threshold[a], threshold[b])
        if cost < min(bound, inner) or cost == 0.0:
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
def _store(
    tile: Tile, rows: int, columns: int, first: int, width: int, component: np.ndarray, forest: Forest, nodes: int
) -> int:
    """Number a tile's components in the forest of the whole image; returns the new count of nodes."""
    for y in range(rows):
        for x in range(columns):
            local = np.uint64(y * TILE_WIDTH + x)
            if np.uint64(tile.forest.parent[local]) == local:
                node = np.uint64(nodes)
                tile.number[local] = np.uint32(node)
                forest.parent[node] = np.uint32(node)
                forest.size[node] = tile.forest.size[local]
                forest.threshold[node] = tile.forest.threshold[local]
                nodes += 1
    for y in range(rows):
        for x in range(columns):
            root = find(tile.forest.parent, np.uint64(y * TILE_WIDTH + x))
            component[first + y * width + x] = tile.number[root]
    return nodes


@exact_jit
def settle_tiles(
    smoothed: np.ndarray,
    height: int,
    width: int,
    k: float,
    tile: Tile,
    component: np.ndarray,
    forest: Forest,
    limit: np.ndarray,
    open_edges: np.ndarray,
    pending: np.ndarray,
) -> tuple[int, int]:
    """List the open edges and join within tiles; returns how many nodes the forest has and how many edges are pending.

    smoothed (1 or 3, n); component (n,) uint32: each pixel's node in ``forest``; limit (n,) float32: scratch;
    open_edges (n,) uint8: bit ``d`` is set where the edge of direction ``d`` closes no triangle or does not exist,
    bit ``4 + d`` is left for those that come back;
    pending: the words of the edges that are left, in no order.
    """
    n_tiles = (width + TILE_WIDTH - 1) // TILE_WIDTH
    costs, right_below = np.zeros((4, width)), np.zeros(width)
    closing = np.zeros((2, width + 1), np.uint8)
    lists = np.empty(n_tiles * 4 * TILE_PIXELS, np.uint64)
    starts = np.arange(0, n_tiles * 4 * TILE_PIXELS, TILE_PIXELS).reshape(n_tiles, 4)
    limit[:] = np.inf
    nodes, count = 0, 0
    for y0 in range(0, height, TILE_HEIGHT):
        rows = min(TILE_HEIGHT, height - y0)
        at = starts.astype(np.uint64)
        for y in range(y0, y0 + rows):
            marks = open_edges[y * width : (y + 1) * width]
            mark_open_rows(smoothed, y, height, width, costs, right_below, closing, marks)
            count = _list_row(
                y, y == y0 + rows - 1, (y - y0) * TILE_WIDTH, costs, marks, lists, at, limit, pending, count
            )
        for i in range(n_tiles):
            columns = min(TILE_WIDTH, width - i * TILE_WIDTH)
            first = y0 * width + i * TILE_WIDTH
            _load(tile, rows, columns, first, width, smoothed, limit, k)
            counts = at[i].astype(np.int64) - starts[i]
            total = sort_words(lists, starts[i], counts, tile.smoothed, np.uint64(TILE_WIDTH), tile.words)
            count = _settle(tile, total, k, first, np.uint64(width), pending, count)
            nodes = _store(tile, rows, columns, first, width, component, forest, nodes)
    open_edges[width - 1 :: width] |= NONE_RIGHT
    open_edges[(height - 1) * width :] |= NONE_BELOW
    return nodes, count
