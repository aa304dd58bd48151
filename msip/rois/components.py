"""The Felzenszwalb-Huttenlocher process: joining components along edges in order of their cost.

P. F. Felzenszwalb and D. P. Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 59(2), 2004; as
scikit-image 0.26 computes it (``felzenszwalb``): two passes over the same order, the second for components that are
too small. Which edges can be skipped, and why that changes nothing, is told in :mod:`msip.rois.edges`.

A rejected edge *freezes* at least one of its components: its threshold is at most the cost now and all later costs are
higher, so it never grows again in the first pass. Whatever edge leads to a frozen component is known to be rejected.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from msip.jit import exact_jit
from msip.rois.edges import PIXEL_BITS, PIXEL_MASK, edge_ends, make_word, pixel_distance
from msip.rois.ordering import comes_before, pop, push


class Forest(NamedTuple):
    """Disjoint sets: nodes point at parents, roots at themselves; the other values are those of the roots."""

    parent: np.ndarray  # (n,) uint32
    size: np.ndarray  # (n,) uint32: pixels
    threshold: np.ndarray  # (n,) float32: internal cost + k / size; -1 once frozen


@exact_jit
def find(parent: np.ndarray, node: np.uint64) -> np.uint64:
    """Root of a node; every node on the way is pointed at its grandparent."""
    above = np.uint64(parent[node])
    top = np.uint64(parent[above])
    while above != top:
        parent[node] = np.uint32(top)
        node = above
        above = top
        top = np.uint64(parent[above])
    return above


@exact_jit
def join(parent: np.ndarray, size: np.ndarray, a: np.uint64, b: np.uint64) -> np.uint64:
    """Put the smaller component under the larger; returns the new root."""
    size_a, size_b = size[a], size[b]
    large = a if size_a >= size_b else b
    parent[a ^ b ^ large] = np.uint32(large)
    size[large] = size_a + size_b
    return large


@exact_jit
def every_pixel_alone(component: np.ndarray, forest: Forest, k: float) -> None:
    """One node per pixel."""
    for i in range(component.size):
        component[i] = np.uint32(i)
        forest.parent[i] = np.uint32(i)
        forest.size[i] = np.uint32(1)
        forest.threshold[i] = np.float32(k)


# For an edge of each direction: the other edges of its triangles, coded as 16 * row + 4 * column + direction, where row
# and column are 0 (the same), 1 (one further) or 2 (one back). A diagonal edge has four, a right edge four in the 2x2
# block below it and four in the one above, a down edge four in the block to the right and four to the left.
_TRIANGLE_SIDES = np.array(
    [
        [5, 2, 1, 3, 33, 34, 37, 35],
        [16, 2, 0, 3, 8, 10, 24, 11],
        [0, 5, 16, 1, 0, 0, 0, 0],
        [0, 1, 16, 5, 0, 0, 0, 0],
    ],
    dtype=np.uint64,
)


@exact_jit
def _triangle_side(word: np.uint64, side: int, width: np.uint64) -> np.uint64:
    """Direction and pixel, as in a word, of another edge in a triangle of an edge; the pixel may lie outside."""
    code = _TRIANGLE_SIDES[(word >> PIXEL_BITS) & np.uint64(3), side]
    row, column = code >> np.uint64(4), (code >> np.uint64(2)) & np.uint64(3)
    one, two = np.uint64(1), np.uint64(2)
    pixel = (word & PIXEL_MASK) + np.uint64(row == one) * width + np.uint64(column == one)
    pixel -= np.uint64(row == two) * width + np.uint64(column == two)
    return ((code & np.uint64(3)) << PIXEL_BITS) | (pixel & PIXEL_MASK)


@exact_jit
def _reopen_triangles(
    word: np.uint64,
    component: np.ndarray,
    forest: Forest,
    smoothed: np.ndarray,
    width: np.uint64,
    open_edges: np.ndarray,
    heap: np.ndarray,
    waiting: int,
    stack: np.ndarray,
) -> int:
    """Bring back the edges left out because of triangles with a rejected edge; returns the new count of the heap.

    Those at a frozen component are as good as rejected, so that their triangles follow at once; only the others must
    wait in the heap for their turn. Should the stack be full, waiting is right for all.
    """
    pixels = np.uint64(component.size)
    stack[0] = word
    depth = 1
    while depth > 0:
        depth -= 1
        word = stack[depth]
        sides = 8 if ((word >> PIXEL_BITS) & np.uint64(3)) < np.uint64(2) else 4
        for side in range(sides):
            other = _triangle_side(word, side, width)
            pixel = other & PIXEL_MASK
            if pixel >= pixels:
                continue
            bit = np.uint8(1) << np.uint8(other >> PIXEL_BITS)
            back = bit << np.uint8(4)
            if open_edges[pixel] & (bit | back):  # listed or not existing, or brought back before
                continue
            open_edges[pixel] |= back
            p, q = edge_ends(other, width)
            a, b = find(forest.parent, np.uint64(component[p])), find(forest.parent, np.uint64(component[q]))
            if a == b:
                continue
            if min(forest.threshold[a], forest.threshold[b]) < 0.0 and depth < stack.size:
                stack[depth] = other
                depth += 1
            else:
                other = make_word(pixel_distance(smoothed, p, q), other >> PIXEL_BITS, pixel)
                push(heap, waiting, other, smoothed, width)
                waiting += 1
    return waiting


@exact_jit
def grow(
    words: np.ndarray,
    smoothed: np.ndarray,
    width: np.uint64,
    k: float,
    component: np.ndarray,
    forest: Forest,
    open_edges: np.ndarray,
    heap: np.ndarray,
) -> np.ndarray:
    """First pass: join two components if the edge is cheaper than both thresholds (float32, as in scikit-image).

    words: the edges in order; heap: room for those that come back. Returns counts: joins, rejections, brought back.
    """
    parent, size, threshold = forest
    stack = np.empty(4096, np.uint64)
    frozen = np.float32(-1.0)
    i, waiting, joins, rejections, reopened = 0, 0, 0, 0, 0
    while i < words.size or waiting > 0:
        if waiting > 0 and (i >= words.size or comes_before(heap[0], words[i], smoothed, width)):
            word = pop(heap, waiting, smoothed, width)
            waiting -= 1
            reopened += 1
        else:
            word = words[i]
            i += 1
        p, q = edge_ends(word, width)
        a, b = find(parent, np.uint64(component[p])), find(parent, np.uint64(component[q]))
        if a == b:
            continue
        cost = pixel_distance(smoothed, p, q)
        if cost < min(threshold[a], threshold[b]):
            a = join(parent, size, a, b)
            threshold[a] = np.float32(cost + k / np.float64(size[a]))
            joins += 1
        else:
            threshold[a] = frozen if cost >= threshold[a] else threshold[a]
            threshold[b] = frozen if cost >= threshold[b] else threshold[b]
            waiting = _reopen_triangles(word, component, forest, smoothed, width, open_edges, heap, waiting, stack)
            rejections += 1
    return np.array((joins, rejections, reopened))


@exact_jit
def flatten(component: np.ndarray, forest: Forest) -> None:
    """Let every pixel name its root."""
    for i in range(component.size):
        component[i] = np.uint32(find(forest.parent, np.uint64(component[i])))


@exact_jit
def list_small_edges(
    component: np.ndarray,
    size: np.ndarray,
    min_size: int,
    smoothed: np.ndarray,
    height: int,
    width: int,
    open_edges: np.ndarray,
    words: np.ndarray,
) -> int:
    """Write the words of the open edges at components below ``min_size``; returns how many. component must be flat.

    Between two large components nothing is joined in the second pass, nor along edges that came back in the first, so
    these edges are all it needs.
    """
    columns = np.uint64(width)
    count = 0
    for y in range(height):
        below = width if y + 1 < height else 0
        for x in range(width):
            pixel = np.uint64(y * width + x)
            beside = np.uint64(x + 1 < width)
            under = pixel + np.uint64(below)
            root = component[pixel]
            if root == component[pixel + beside] and root == component[under] and root == component[under + beside]:
                continue
            for direction in range(4):
                if not (open_edges[pixel] >> np.uint8(direction)) & np.uint8(1):
                    continue
                if (direction != 1 and x == width - 1) or (direction != 0 and y == height - 1):
                    continue
                p, q = edge_ends((np.uint64(direction) << PIXEL_BITS) | pixel, columns)
                a, b = component[p], component[q]
                if a != b and (size[a] < min_size or size[b] < min_size):
                    words[count] = make_word(pixel_distance(smoothed, p, q), np.uint64(direction), pixel)
                    count += 1
    return count


@exact_jit
def absorb_small(words: np.ndarray, width: np.uint64, min_size: int, component: np.ndarray, forest: Forest) -> None:
    """Second pass: along the edges in order, join components of which one is below ``min_size``."""
    for i in range(words.size):
        p, q = edge_ends(words[i], width)
        a, b = find(forest.parent, np.uint64(component[p])), find(forest.parent, np.uint64(component[q]))
        if a != b and (forest.size[a] < min_size or forest.size[b] < min_size):
            join(forest.parent, forest.size, a, b)


@exact_jit
def number_components(component: np.ndarray, parent: np.ndarray, numbers: np.ndarray, labels: np.ndarray) -> int:
    """Label components 0, 1, ... in raster order of first appearance; returns how many. numbers: scratch (n,) int32."""
    numbers[:] = -1
    count = 0
    for i in range(component.size):
        root = find(parent, np.uint64(component[i]))
        if numbers[root] < 0:
            numbers[root] = count
            count += 1
        labels[i] = numbers[root]
    return count


@exact_jit
def _edge_at(edge: int, height: int, width: int) -> np.uint64:
    """Direction and pixel, as in a word, of an edge by its number in ``all_costs``."""
    direction, columns = 0, width - 1
    rights, downs = height * (width - 1), (height - 1) * width
    if edge >= rights + downs:
        diagonals = (height - 1) * (width - 1)
        direction = 2 + (edge - rights - downs) // diagonals
        edge = (edge - rights - downs) % diagonals
    elif edge >= rights:
        direction, columns = 1, width
        edge -= rights
    return (np.uint64(direction) << PIXEL_BITS) | np.uint64((edge // columns) * width + edge % columns)


@exact_jit
def join_in_given_order(
    order: np.ndarray, costs: np.ndarray, height: int, width: int, k: float, min_size: int, forest: Forest
) -> None:
    """Both passes over all edges in any order given by the caller (indices into ``all_costs``), nothing left out."""
    parent, size, threshold = forest
    for second_pass in range(2):
        for i in range(order.size):
            p, q = edge_ends(_edge_at(order[i], height, width), np.uint64(width))
            a, b = find(parent, p), find(parent, q)
            if a == b:
                continue
            if second_pass:
                if size[a] < min_size or size[b] < min_size:
                    join(parent, size, a, b)
            elif costs[order[i]] < min(threshold[a], threshold[b]):
                a = join(parent, size, a, b)
                threshold[a] = np.float32(costs[order[i]] + k / np.float64(size[a]))
