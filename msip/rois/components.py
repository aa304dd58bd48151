"""The Felzenszwalb-Huttenlocher process: joining pixels along edges in order of their cost.

P. F. Felzenszwalb and D. P. Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 59(2), 2004; as
scikit-image 0.26 computes it (``felzenszwalb``): two passes over the same order, the second for components that are
too small. Which edges can be skipped, and why that changes nothing, is told in :mod:`msip.rois.edges`.
"""

from __future__ import annotations

import numpy as np

from msip.rois._jit import exact_jit
from msip.rois.edges import (
    INDEX_BITS,
    PIXEL_BITS,
    PIXEL_MASK,
    edge_ends,
    make_word,
    pixel_distance,
    word_key,
)
from msip.rois.ordering import comes_before, pop, push


@exact_jit
def find(parent: np.ndarray, node: np.uint64) -> np.uint64:
    """Root of a node, halving the path. parent (n,) uint32."""
    above = np.uint64(parent[node])
    while above != node:
        top = np.uint64(parent[above])
        parent[node] = np.uint32(top)
        node = top
        above = np.uint64(parent[node])
    return node


@exact_jit
def join(parent: np.ndarray, size: np.ndarray, a: np.uint64, b: np.uint64) -> np.uint64:
    """Put the smaller component under the larger; returns the new root."""
    total = size[a] + size[b]
    if size[a] < size[b]:
        a, b = b, a
    parent[b] = np.uint32(a)
    size[a] = total
    return a


@exact_jit
def reset(parent: np.ndarray, size: np.ndarray, threshold: np.ndarray, k: float) -> None:
    """Every pixel its own component. parent, size (n,) uint32, threshold (n,) float32: ``internal cost + k / size``."""
    for i in range(parent.size):
        parent[i] = np.uint32(i)
        size[i] = np.uint32(1)
        threshold[i] = np.float32(k)


# For an edge of each direction: the other edges of its triangles, coded as 16 * row + 4 * column + direction, where row
# and column are 0 (the same), 1 (one further) or 2 (one back).
_TRIANGLE_SIDES = np.array(
    [
        [5, 2, 1, 3, 33, 34, 37, 35],
        [16, 2, 0, 3, 8, 10, 24, 11],
        [0, 5, 16, 1, 0, 0, 0, 0],
        [0, 1, 16, 5, 0, 0, 0, 0],
    ],
    dtype=np.int64,
)


@exact_jit
def _side(word: np.uint64, side: int, width: np.uint64) -> np.uint64:
    """Direction and pixel (as in a word) of one of the other edges in the triangles of an edge.

    Sides 0 to 3 for a diagonal edge, 0 to 7 for a right edge (blocks below and above it) or a down edge (blocks right
    and left of it). The pixel may lie outside the image; the caller checks.
    """
    pixel = word & PIXEL_MASK
    direction = (word >> PIXEL_BITS) & np.uint64(3)
    code = _TRIANGLE_SIDES[direction, side]
    row, column = code >> 4, (code >> 2) & 3
    at = pixel + (width if row == 1 else np.uint64(0)) + np.uint64(column == 1)
    at -= (width if row == 2 else np.uint64(0)) + np.uint64(column == 2)
    return (np.uint64(code & 3) << PIXEL_BITS) | (at & PIXEL_MASK)


@exact_jit
def _reopen_triangles(
    word: np.uint64,
    heap: np.ndarray,
    state: np.ndarray,
    parent: np.ndarray,
    threshold: np.ndarray,
    smoothed: np.ndarray,
    width: np.uint64,
    open_edges: np.ndarray,
    stack: np.ndarray,
    cell: np.ndarray,
) -> None:
    """Bring back the edges that were left out because of triangles with this, now rejected, edge."""
    pixels = np.uint64(parent.size)
    stack[0] = word
    depth = 1
    waiting = state[0]
    while depth > 0:
        depth -= 1
        word = stack[depth]
        sides = 8 if ((word >> PIXEL_BITS) & np.uint64(3)) < np.uint64(2) else 4
        for side in range(sides):
            other = _side(word, side, width)
            at = other & PIXEL_MASK
            if at >= pixels:
                continue
            bit = np.uint8(1) << np.uint8(other >> PIXEL_BITS)
            if open_edges[at] & bit:
                continue
            open_edges[at] |= bit
            p, q = edge_ends(other, width)
            a, b = find(parent, p), find(parent, q)
            if a == b:
                continue
            if threshold[a] < 0 or threshold[b] < 0:
                if depth < stack.size:
                    stack[depth] = other
                    depth += 1
                    state[2] += 1
                    continue
            cell[0] = pixel_distance(smoothed, p, q)
            other |= word_key(cell.view(np.uint64)[0]) << INDEX_BITS
            push(heap, waiting, other, smoothed, width)
            waiting += 1
    state[0] = waiting


@exact_jit
def grow(
    words: np.ndarray,
    total: int,
    smoothed: np.ndarray,
    width: np.uint64,
    k: float,
    parent: np.ndarray,
    size: np.ndarray,
    threshold: np.ndarray,
    open_edges: np.ndarray,
    heap: np.ndarray,
) -> np.ndarray:
    """First pass: join two components if the edge is cheaper than both thresholds (float32, as in scikit-image).

    words[:total]: the open edges in order. Returns counts (edges handled, joins, rejections, edges reopened).
    """
    i = 0
    state = np.zeros(3, np.int64)
    stack = np.empty(4096, np.uint64)
    cell = np.empty(1)
    joins, rejections, reopened = 0, 0, 0
    while i < total or state[0] > 0:
        if state[0] > 0 and (i >= total or comes_before(heap[0], words[i], smoothed, width)):
            word = pop(heap, state[0], smoothed, width)
            state[0] -= 1
            reopened += 1
        else:
            word = words[i]
            i += 1
        p, q = edge_ends(word, width)
        a, b = find(parent, p), find(parent, q)
        if a == b:
            continue
        ta, tb = threshold[a], threshold[b]
        cost = pixel_distance(smoothed, p, q)
        if cost < min(ta, tb):
            a = join(parent, size, a, b)
            threshold[a] = np.float32(cost + k / np.float64(size[a]))
            joins += 1
        else:
            if cost >= ta:
                threshold[a] = np.float32(-1)
            if cost >= tb:
                threshold[b] = np.float32(-1)
            _reopen_triangles(word, heap, state, parent, threshold, smoothed, width, open_edges, stack, cell)
            rejections += 1
    return np.array((reopened, joins, rejections, state[2]))


@exact_jit
def flatten(parent: np.ndarray) -> None:
    """Point every pixel at its root."""
    for i in range(parent.size):
        parent[i] = np.uint32(find(parent, np.uint64(i)))


@exact_jit
def list_small_edges(
    parent: np.ndarray,
    size: np.ndarray,
    min_size: int,
    smoothed: np.ndarray,
    height: int,
    width: int,
    open_edges: np.ndarray,
    words: np.ndarray,
) -> int:
    """Write the words of the edges at components below ``min_size``; returns how many.

    parent must be flat. Between two large components nothing is joined in the second pass, and closing edges are
    no-ops there, so these edges are all it needs.
    """
    cell = np.empty(1)
    bits = cell.view(np.uint64)
    columns = np.uint64(width)
    count = 0
    for y in range(height):
        below = width if y + 1 < height else 0
        for x in range(width):
            pixel = np.uint64(y * width + x)
            next_column = np.uint64(x + 1 < width)
            root = parent[pixel]
            under = pixel + np.uint64(below)
            if root == parent[pixel + next_column] and root == parent[under] and root == parent[under + next_column]:
                continue
            for direction in range(4):
                if not (open_edges[pixel] >> np.uint8(direction)) & np.uint8(1):
                    continue
                if (direction != 1 and x == width - 1) or (direction != 0 and y == height - 1):
                    continue
                p, q = edge_ends((np.uint64(direction) << PIXEL_BITS) | pixel, columns)
                a, b = parent[p], parent[q]
                if a != b and (size[a] < min_size or size[b] < min_size):
                    cell[0] = pixel_distance(smoothed, p, q)
                    words[count] = make_word(bits[0], np.uint64(direction), pixel)
                    count += 1
    return count


@exact_jit
def absorb_small(
    words: np.ndarray, total: int, width: np.uint64, min_size: int, parent: np.ndarray, size: np.ndarray
) -> None:
    """Second pass: along the edges in order, join components of which one is below ``min_size``."""
    for i in range(total):
        p, q = edge_ends(words[i], width)
        a, b = find(parent, p), find(parent, q)
        if a != b and (size[a] < min_size or size[b] < min_size):
            join(parent, size, a, b)


@exact_jit
def number_components(parent: np.ndarray, numbers: np.ndarray, labels: np.ndarray) -> int:
    """Label components 0, 1, ... in raster order of first appearance; returns how many. numbers: scratch (n,) int32."""
    numbers[:] = -1
    count = 0
    for i in range(parent.size):
        root = find(parent, np.uint64(i))
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[i] = numbers[root]
    return count


@exact_jit
def join_in_given_order(
    order: np.ndarray,
    costs: np.ndarray,
    height: int,
    width: int,
    k: float,
    min_size: int,
    parent: np.ndarray,
    size: np.ndarray,
    threshold: np.ndarray,
) -> None:
    """Both passes over all edges in any order given by the caller (indices into ``all_costs``), nothing left out."""
    right_end = height * (width - 1)
    down_end = right_end + (height - 1) * width
    down_right_end = down_end + (height - 1) * (width - 1)
    columns = np.uint64(width)
    for second in range(2):
        for i in range(order.size):
            edge = order[i]
            if edge < right_end:
                direction, y, x = 0, edge // (width - 1), edge % (width - 1)
            elif edge < down_end:
                direction, y, x = 1, (edge - right_end) // width, (edge - right_end) % width
            elif edge < down_right_end:
                direction, y, x = 2, (edge - down_end) // (width - 1), (edge - down_end) % (width - 1)
            else:
                direction, y, x = 3, (edge - down_right_end) // (width - 1), (edge - down_right_end) % (width - 1)
            p, q = edge_ends((np.uint64(direction) << np.uint64(29)) | np.uint64(y * width + x), columns)
            a, b = find(parent, p), find(parent, q)
            if a == b:
                continue
            if second:
                if size[a] < min_size or size[b] < min_size:
                    join(parent, size, a, b)
            elif costs[edge] < min(threshold[a], threshold[b]):
                a = join(parent, size, a, b)
                threshold[a] = np.float32(costs[edge] + k / np.float64(size[a]))
