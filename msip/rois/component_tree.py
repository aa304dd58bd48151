"""The components of all thresholds of a picture, and which of their boxes last. Compiled."""

from __future__ import annotations

import numpy as np

from msip.jit import exact_jit

# Columns of a component (int32): the level where it appears; x0, y0, x1, y1 of its box, the last ones included; its
# pixels; the level where something larger takes it in.
_LEVEL, _X0, _Y0, _X1, _Y1, _PIXELS, _LOST = range(7)
# Columns of the state of union-find's roots: the first six of these, then the ends of the list of components in it that
# wait for a parent.
_FIRST, _LAST = 6, 7
_NOWHERE = np.uint32(0xFFFFFFFF)


@exact_jit
def component_tree(picture: np.ndarray, share: float, least: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The 4-connected components of every threshold in the brightest ``share`` of the pixels, children first.

    Args:
        picture: uint8 (h, w).
        share: of the pixels, 0 to 1; whole grey levels, so perhaps fewer.
        least, most: pixels of a component that counts.

    Returns:
        The components' columns, int32 (n, 7), and the number of each one's parent, -1 for none, int32 (n,).
    """
    height, width = picture.shape
    stride = np.uint32(width + 2)  # a border that is never reached saves four comparisons a pixel
    order = _brightest(picture, share)
    place = np.full((height + 2) * (width + 2), _NOWHERE, np.uint32)  # of a pixel in the order, once it is reached
    link = np.empty(len(order), np.uint32)  # union-find over places in the order
    roots = np.empty((len(order), 8), np.int32)
    rows = np.empty((len(order) + 1, 7), np.int32)
    parents, following = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
    count = np.uint32(0)
    for number in range(np.uint32(len(order))):
        node = np.uint32(number)
        pixel = order[node]
        y = pixel // stride
        x = pixel - y * stride
        level = np.int32(picture[np.uint32(y - np.uint32(1)), np.uint32(x - np.uint32(1))])
        place[pixel], link[node] = node, node
        _start(roots, node, level, x, y)
        root = node
        for beside in (pixel - stride, pixel - np.uint32(1), pixel + np.uint32(1), pixel + stride):
            other = place[np.uint32(beside)]
            if other == _NOWHERE:
                continue
            other = _root(link, other)
            if other == root:
                continue
            if roots[other, _LEVEL] > level:  # at the levels above it was a component of its own
                size = roots[other, _PIXELS]
                if least <= size <= most:
                    _close(roots, other, level, rows[count], count, parents, following)
                    count += np.uint32(1)
                elif size > most:
                    roots[other, _FIRST], roots[other, _LAST] = -1, -1
            root = _join(roots, root, other, level, link, following)
    return rows[:count], parents[:count]


@exact_jit
def _start(roots: np.ndarray, node: np.uint32, level: np.int32, x: int, y: int) -> None:
    roots[node, _LEVEL], roots[node, _PIXELS] = level, 1
    roots[node, _X0], roots[node, _Y0], roots[node, _X1], roots[node, _Y1] = x, y, x, y
    roots[node, _FIRST], roots[node, _LAST] = -1, -1


@exact_jit
def _close(
    roots: np.ndarray,
    node: np.uint32,
    level: int,
    row: np.ndarray,
    number: int,
    parents: np.ndarray,
    following: np.ndarray,
) -> None:
    """Write down a component that ends at ``level``; it becomes the parent of those that wait, and waits itself."""
    for column in range(_LOST):
        row[column] = roots[node, column]
    for column in (_X0, _Y0, _X1, _Y1):
        row[column] -= 1  # the border
    row[_LOST] = level
    child = roots[node, _FIRST]
    while child >= 0:
        parents[np.uint32(child)] = number
        child = following[np.uint32(child)]
    parents[number], following[number] = -1, -1
    roots[node, _FIRST], roots[node, _LAST] = number, number


@exact_jit
def _join(
    roots: np.ndarray, one: np.uint32, two: np.uint32, level: int, link: np.ndarray, following: np.ndarray
) -> np.uint32:
    """Unite two trees of pixels at ``level``; returns the root."""
    large, small = (one, two) if roots[one, _PIXELS] >= roots[two, _PIXELS] else (two, one)
    link[small] = large
    roots[large, _LEVEL] = level
    roots[large, _PIXELS] += roots[small, _PIXELS]
    for column in (_X0, _Y0):
        roots[large, column] = min(roots[large, column], roots[small, column])
    for column in (_X1, _Y1):
        roots[large, column] = max(roots[large, column], roots[small, column])
    if roots[large, _FIRST] < 0:
        roots[large, _FIRST], roots[large, _LAST] = roots[small, _FIRST], roots[small, _LAST]
    elif roots[small, _FIRST] >= 0:
        following[np.uint32(roots[large, _LAST])] = roots[small, _FIRST]
        roots[large, _LAST] = roots[small, _LAST]
    return large


@exact_jit
def _root(link: np.ndarray, node: np.uint32) -> np.uint32:
    while link[node] != node:
        link[node] = link[link[node]]
        node = link[node]
    return node


@exact_jit
def _brightest(picture: np.ndarray, share: float) -> np.ndarray:
    """Pixels, brightest first, as indices into the picture with a border of one; uint32."""
    height, width = picture.shape
    starts = np.zeros(257, np.int64)
    for y in range(height):
        for x in range(width):
            starts[np.uint32(256 - picture[y, x])] += 1
    for level in range(256):
        starts[level + 1] += starts[level]
    levels = 0  # how many of the brightest levels fit
    while levels < 256 and starts[levels + 1] <= share * picture.size:
        levels += 1
    order = np.empty(starts[levels], np.uint32)
    for y in range(height):
        for x in range(width):
            key = np.uint32(255 - picture[y, x])
            if key < levels:
                order[np.uint32(starts[key])] = (y + 1) * (width + 2) + x + 1
                starts[key] += 1
    return order


@exact_jit
def lasting_chains(components: np.ndarray, parents: np.ndarray, same: float, levels: int) -> np.ndarray:
    """Chains of nested components whose boxes overlap by ``same`` or more, for at least ``levels``: one row each.

    Columns, float64: x, y, width, height and pixels of the component in the middle of the chain; the levels it lasts.
    """
    count = len(components)
    heir = np.full(count, -1, np.int32)  # of a component's children the one with the most pixels
    first = np.empty(count, np.int32)  # of the chain
    sides = np.empty(count, np.int64)
    for number in range(count):
        row = components[number]
        sides[number] = np.int64(row[_X1] - row[_X0] + 1) * np.int64(row[_Y1] - row[_Y0] + 1)
        child = heir[number]
        first[number] = number
        if child >= 0 and sides[first[child]] >= same * sides[number]:  # nested: the overlap is the ratio of areas
            first[number] = first[child]
        parent = parents[number]
        if parent >= 0 and (heir[parent] < 0 or components[heir[parent], _PIXELS] < row[_PIXELS]):
            heir[parent] = number
    out = np.empty((count, 6))
    kept = 0
    for number in range(count):
        parent = parents[number]
        if parent >= 0 and heir[parent] == number and first[parent] == first[number]:
            continue  # the chain goes on
        top, bottom = components[first[number], _LEVEL], components[number, _LOST]
        if top - bottom < levels:
            continue
        middle = number
        while middle != first[number] and 2 * components[middle, _LEVEL] < top + bottom:
            middle = heir[middle]
        row = components[middle]
        out[kept, 0], out[kept, 1] = row[_X0], row[_Y0]
        out[kept, 2], out[kept, 3] = row[_X1] - row[_X0] + 1, row[_Y1] - row[_Y0] + 1
        out[kept, 4], out[kept, 5] = row[_PIXELS], top - bottom
        kept += 1
    return out[:kept]


@exact_jit
def suppress(rows: np.ndarray, overlap: float, most: int) -> np.ndarray:
    """Numbers of at most ``most`` rows (x, y, width, height, ...) that no kept row before overlaps by more."""
    kept = np.empty(min(len(rows), most), np.int64)
    count = 0
    for number in range(len(rows)):
        if count == most:
            break
        x, y, width, height = rows[number, 0], rows[number, 1], rows[number, 2], rows[number, 3]
        free = True
        for before in range(count):
            other = kept[before]
            across = min(x + width, rows[other, 0] + rows[other, 2]) - max(x, rows[other, 0])
            down = min(y + height, rows[other, 1] + rows[other, 3]) - max(y, rows[other, 1])
            if across <= 0.0 or down <= 0.0:
                continue
            common = across * down
            if common > overlap * (width * height + rows[other, 2] * rows[other, 3] - common):
                free = False
                break
        if free:
            kept[count] = number
            count += 1
    return kept[:count]
