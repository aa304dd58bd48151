"""Hierarchical grouping of segments as selectivesearch 0.4 does it, its order of ties included.

The reference keeps similarities in an insertion-ordered dict and sorts it for every merge. Here the pairs are numbered
in order of insertion and wait in a heap keyed by (similarity, number): the largest similarity wins and, among equal
ones, the latest pair. Every region has a list of its pairs in order of insertion, so a merge touches only its own.
"""

from __future__ import annotations

import numpy as np

from msip.jit import exact_jit
from msip.rois.features import HISTOGRAM_BINS, VALUE_BINS


@exact_jit
def _similarity(
    a: int, b: int | np.int64, boxes: np.ndarray, sizes: np.ndarray, histograms: np.ndarray, pixels: int
) -> float:
    """Colour + texture + size + fill, each summed from left to right as the reference does."""
    left, right = histograms[a], histograms[b]
    colour = 2.0  # the bins of hue and saturation
    for i in range(VALUE_BINS):
        colour += min(left[i], right[i])
    texture = 0.0
    for i in range(VALUE_BINS, HISTOGRAM_BINS):
        texture += min(left[i], right[i])
    size = sizes[a] + sizes[b]
    box_a, box_b = boxes[a], boxes[b]
    union = (max(box_a[2], box_b[2]) - min(box_a[0], box_b[0])) * (max(box_a[3], box_b[3]) - min(box_a[1], box_b[1]))
    by_size = 1.0 - np.float64(size) / np.float64(pixels)
    fill = 1.0 - np.float64(union - size) / np.float64(pixels)
    return ((colour + texture) + by_size) + fill


@exact_jit
def _merge(a: int, b: int, new: int, boxes: np.ndarray, sizes: np.ndarray, histograms: np.ndarray) -> None:
    """Region ``new`` from ``a`` and ``b``: union box, summed size, size-weighted histograms."""
    for side in range(2):
        boxes[new, side] = min(boxes[a, side], boxes[b, side])
        boxes[new, 2 + side] = max(boxes[a, 2 + side], boxes[b, 2 + side])
    sizes[new] = sizes[a] + sizes[b]
    size_a, size_b, size = np.float64(sizes[a]), np.float64(sizes[b]), np.float64(sizes[new])
    for i in range(HISTOGRAM_BINS):
        histograms[new, i] = (histograms[a, i] * size_a + histograms[b, i] * size_b) / size


@exact_jit
def _corner_inside(box_a: np.ndarray, box_b: np.ndarray) -> bool:
    """Whether a corner of box b lies strictly inside box a: the reference's idea of a neighbour."""
    inside_x = box_a[0] < box_b[0] < box_a[2] or box_a[0] < box_b[2] < box_a[2]
    inside_y = box_a[1] < box_b[1] < box_a[3] or box_a[1] < box_b[3] < box_a[3]
    return inside_x and inside_y


@exact_jit
def _first_pairs(boxes: np.ndarray, count: int, first: np.ndarray, second: np.ndarray) -> int:
    """List the neighbouring pairs of segments (i < j); returns how many there are, also beyond the room given.

    Labels ascend with min_y (raster order of first appearance), so the boxes that can reach into box i are consecutive.
    """
    pairs = 0
    for i in range(count):
        for j in range(i + 1, count):
            if boxes[j, 1] >= boxes[i, 3]:
                break
            if _corner_inside(boxes[i], boxes[j]):
                if pairs < first.size:
                    first[pairs] = i
                    second[pairs] = j
                pairs += 1
    return pairs


@exact_jit
def _sift_up(heap: np.ndarray, at: int, similarity: np.ndarray) -> None:
    pair = heap[at]
    value = similarity[pair]
    while at > 0:
        above = (at - 1) >> 1
        other = heap[above]
        if similarity[other] > value or (similarity[other] == value and other > pair):
            break
        heap[at] = other
        at = above
    heap[at] = pair


@exact_jit
def _take_best(heap: np.ndarray, count: int, similarity: np.ndarray) -> int:
    """Remove the pair of the largest (similarity, number) from a heap of ``count``."""
    best, pair = heap[0], heap[count - 1]
    value = similarity[pair]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= count - 1:
            break
        left, right = heap[below], heap[below + 1]
        if below + 1 < count - 1 and (
            similarity[right] > similarity[left] or (similarity[right] == similarity[left] and right > left)
        ):
            below += 1
        other = heap[below]
        if value > similarity[other] or (value == similarity[other] and pair > other):
            break
        heap[at] = other
        at = below
    heap[at] = pair
    return best


@exact_jit
def _compact(ends: np.ndarray, similarity: np.ndarray, count: int, more: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Drop the dead pairs (first end -1), keeping the order, with room for as many again and for ``more``."""
    alive = 0
    for pair in range(count):
        alive += ends[pair, 0] >= 0
    room = max(1024, 2 * alive + more)
    new_ends, new_similarity = np.empty((room, 2), np.int64), np.empty(room)
    to = 0
    for pair in range(count):
        if ends[pair, 0] >= 0:
            new_ends[to] = ends[pair]
            new_similarity[to] = similarity[pair]
            to += 1
    return new_ends, new_similarity, alive


@exact_jit
def _link(pair: int, ends: np.ndarray, following: np.ndarray, head: np.ndarray, tail: np.ndarray) -> None:
    """Append a pair to the lists of both its regions. List nodes are 2 * pair + side."""
    for side in range(2):
        region, node = ends[pair, side], 2 * pair + side
        following[node] = -1
        if tail[region] < 0:
            head[region] = node
        else:
            following[tail[region]] = node
        tail[region] = node


@exact_jit
def _index_pairs(
    ends: np.ndarray, similarity: np.ndarray, count: int, head: np.ndarray, tail: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lists of all regions and the heap, for ``count`` live pairs."""
    following, heap = np.empty(2 * similarity.size, np.int64), np.empty(similarity.size, np.int64)
    head[:] = -1
    tail[:] = -1
    for pair in range(count):
        _link(pair, ends, following, head, tail)
        heap[pair] = pair
        _sift_up(heap, pair, similarity)
    return following, heap


@exact_jit
def _collect(region: int, ends: np.ndarray, following: np.ndarray, head: np.ndarray, out: np.ndarray) -> int:
    """The live pairs of a region, in order of insertion; they die."""
    found = 0
    node = head[region]
    while node >= 0:
        pair = node >> 1
        if ends[pair, 0] >= 0:
            out[found, 0] = pair
            out[found, 1] = ends[pair, 1 - (node & 1)]
            found += 1
            ends[pair, 0] = -1
        node = following[node]
    return found


@exact_jit
def _by_insertion(left: np.ndarray, right: np.ndarray, out: np.ndarray) -> None:
    """Merge two lists of (pair, region), each ascending by pair, into the regions in that order."""
    i, j = 0, 0
    for at in range(out.size):
        if j >= len(right) or (i < len(left) and left[i, 0] < right[j, 0]):
            out[at] = left[i, 1]
            i += 1
        else:
            out[at] = right[j, 1]
            j += 1


@exact_jit
def group(count: int, boxes: np.ndarray, sizes: np.ndarray, histograms: np.ndarray, pixels: int) -> tuple[int, int]:
    """Merge the most similar neighbours until none are left.

    Returns the number of regions, at most 2 * count - 1, and how many similarities were computed.

    boxes (2 * count, 4) int64 as min_x, min_y, max_x, max_y; sizes (2 * count,) int64; histograms (2 * count, 31)
    float64. The first ``count`` rows are the segments, merged regions follow in order of their making.
    """
    none = np.empty(0, np.int64)
    pairs = _first_pairs(boxes, count, none, none)
    room = max(1024, 2 * pairs)
    ends, similarity = np.empty((room, 2), np.int64), np.empty(room)
    _first_pairs(boxes, count, ends[:pairs, 0], ends[:pairs, 1])
    for pair in range(pairs):
        similarity[pair] = _similarity(ends[pair, 0], ends[pair, 1], boxes, sizes, histograms, pixels)
    head, tail = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
    latest = np.full(2 * count, -1)
    following, heap = _index_pairs(ends, similarity, pairs, head, tail)
    waiting, new, computed = pairs, count, pairs
    dying_a, dying_b = np.empty((2 * count, 2), np.int64), np.empty((2 * count, 2), np.int64)
    while waiting > 0:
        best = _take_best(heap, waiting, similarity)
        waiting -= 1
        a, b = ends[best]
        if a < 0:
            continue
        _merge(a, b, new, boxes, sizes, histograms)
        ends[best, 0] = -1
        found_a = _collect(a, ends, following, head, dying_a)
        found_b = _collect(b, ends, following, head, dying_b)
        others = np.empty(found_a + found_b, np.int64)
        _by_insertion(dying_a[:found_a], dying_b[:found_b], others)
        if pairs + others.size > similarity.size:
            ends, similarity, pairs = _compact(ends, similarity, pairs, others.size)
            following, heap = _index_pairs(ends, similarity, pairs, head, tail)
            waiting = pairs
        for other in others:
            if latest[other] == new:  # a neighbour of both: the pair keeps its first place
                continue
            latest[other] = new
            ends[pairs] = new, other
            similarity[pairs] = _similarity(new, other, boxes, sizes, histograms, pixels)
            _link(pairs, ends, following, head, tail)
            heap[waiting] = pairs
            _sift_up(heap, waiting, similarity)
            waiting += 1
            pairs += 1
            computed += 1
        new += 1
    return new, computed
