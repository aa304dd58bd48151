"""Sorting edge words by (exact cost, direction, pixel) in linear time.

A radix sort orders the 33-bit keys; runs of equal keys are then ordered by the exact costs, recomputed. Long runs
(flat areas of a JPEG, ramps) take further radix passes over the remaining cost bits, so no image costs quadratic time.
"""

from __future__ import annotations

import numpy as np

from msip.jit import exact_jit, float_bits
from msip.rois.edges import INDEX_BITS, word_cost

_DIGIT_BITS = 11
_DIGITS = 1 << _DIGIT_BITS
_DIGIT_MASK = np.uint64(_DIGITS - 1)
_SHIFTS = (np.uint64(31), np.uint64(42), np.uint64(53))
_FINE_BITS = 8
_FINE_MASK = np.uint64((1 << _FINE_BITS) - 1)
_FINE_TOP = 56
_SHORT_RUN = 24
_KEY_MASK = np.uint64(~((1 << 31) - 1) & (1 << 64) - 1)
_LOW_COST_MASK = np.uint64((1 << 25) - 1)


@exact_jit
def _digit_offsets(words: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where each digit's words begin, for all three passes. (3, 2048) uint32."""
    offsets = np.zeros((3, _DIGITS), np.uint32)
    for part in range(counts.size):
        for i in range(starts[part], starts[part] + counts[part]):
            word = words[i]
            offsets[0, (word >> _SHIFTS[0]) & _DIGIT_MASK] += np.uint32(1)
            offsets[1, (word >> _SHIFTS[1]) & _DIGIT_MASK] += np.uint32(1)
            offsets[2, (word >> _SHIFTS[2]) & _DIGIT_MASK] += np.uint32(1)
    for digit_pass in range(3):
        total = np.uint32(0)
        for digit in range(_DIGITS):
            count = offsets[digit_pass, digit]
            offsets[digit_pass, digit] = total
            total += count
    return offsets


@exact_jit
def _scatter(source: np.ndarray, start: int, count: int, shift: np.uint64, offsets: np.ndarray, to: np.ndarray) -> None:
    """One stable pass of the radix sort."""
    for i in range(start, start + count):
        word = source[i]
        digit = (word >> shift) & _DIGIT_MASK
        at = offsets[digit]
        to[at] = word
        offsets[digit] = at + np.uint32(1)


@exact_jit
def comes_before(a: np.uint64, b: np.uint64, smoothed: np.ndarray, width: np.uint64) -> bool | np.bool_:
    """Order of two words by (exact cost, direction, pixel)."""
    if (a >> INDEX_BITS) != (b >> INDEX_BITS):
        return a < b
    cost_a, cost_b = word_cost(smoothed, a, width), word_cost(smoothed, b, width)
    return cost_a < cost_b or (cost_a == cost_b and a < b)


@exact_jit
def push(heap: np.ndarray, count: int, word: np.uint64, smoothed: np.ndarray, width: np.uint64) -> None:
    """Add a word to a binary heap of ``count`` words; returns the heap, which may have moved."""
    at = count
    while at > 0:
        above = (at - 1) >> 1
        if not comes_before(word, heap[above], smoothed, width):
            break
        heap[at] = heap[above]
        at = above
    heap[at] = word


@exact_jit
def pop(heap: np.ndarray, count: int, smoothed: np.ndarray, width: np.uint64) -> np.uint64:
    """Take the first word of a heap of ``count`` words, leaving ``count - 1``."""
    first, word = heap[0], heap[count - 1]
    at = 0
    while True:
        below = 2 * at + 1
        if below >= count - 1:
            break
        if below + 1 < count - 1 and comes_before(heap[below + 1], heap[below], smoothed, width):
            below += 1
        if not comes_before(heap[below], word, smoothed, width):
            break
        heap[at] = heap[below]
        at = below
    heap[at] = word
    return first


@exact_jit
def _insertion_sort(words: np.ndarray) -> None:
    for i in range(1, words.size):
        word = words[i]
        j = i
        while j > 0 and words[j - 1] > word:
            words[j] = words[j - 1]
            j -= 1
        words[j] = word


@exact_jit
def _radix_sort(words: np.ndarray, scratch: np.ndarray) -> None:
    """Sort whole words below 2**56; for long runs of equal keys."""
    offsets = np.empty(1 << _FINE_BITS, np.int64)
    for low in range(0, _FINE_TOP, _FINE_BITS):
        shift = np.uint64(low)
        offsets[:] = 0
        for i in range(words.size):
            offsets[(words[i] >> shift) & _FINE_MASK] += 1
        if offsets[(words[0] >> shift) & _FINE_MASK] == words.size:
            continue
        total = 0
        for digit in range(offsets.size):
            count = offsets[digit]
            offsets[digit] = total
            total += count
        for i in range(words.size):
            digit = (words[i] >> shift) & _FINE_MASK
            scratch[offsets[digit]] = words[i]
            offsets[digit] += 1
        words[:] = scratch[: words.size]


@exact_jit
def _order_smallest(words: np.ndarray, smoothed: np.ndarray, width: np.uint64, scratch: np.ndarray) -> None:
    """Order the run of key 0: exact zeros, and costs too small for the key (in practice there are none)."""
    zeros, others = 0, 0
    for i in range(words.size):
        word = words[i]
        if word_cost(smoothed, word, width) == 0.0:
            words[zeros] = word
            zeros += 1
        else:
            push(scratch, others, word, smoothed, width)
            others += 1
    for i in range(zeros, words.size):
        words[i] = pop(scratch, others, smoothed, width)
        others -= 1


@exact_jit
def _order_run(words: np.ndarray, smoothed: np.ndarray, width: np.uint64, scratch: np.ndarray) -> None:
    """Order a run of equal keys by the cost bits the key lacks, then direction and pixel: together one 56-bit word."""
    key = words[0] & _KEY_MASK
    before = np.uint64(0)
    ordered = True
    for i in range(words.size):
        word = ((float_bits(word_cost(smoothed, words[i], width)) & _LOW_COST_MASK) << INDEX_BITS) | (
            words[i] & ~_KEY_MASK
        )
        ordered &= word >= before
        words[i] = before = word
    if not ordered:
        if words.size <= _SHORT_RUN:
            _insertion_sort(words)
        else:
            _radix_sort(words, scratch)
    for i in range(words.size):
        words[i] = key | (words[i] & ~_KEY_MASK)


@exact_jit
def _order_ties(words: np.ndarray, count: int, smoothed: np.ndarray, width: np.uint64, scratch: np.ndarray) -> None:
    """Order every run of equal keys."""
    start = 0
    while start < count:
        key = words[start] >> INDEX_BITS
        end = start + 1
        while end < count and (words[end] >> INDEX_BITS) == key:
            end += 1
        if end - start > 1:
            if key == np.uint64(0):
                _order_smallest(words[start:end], smoothed, width, scratch)
            else:
                _order_run(words[start:end], smoothed, width, scratch)
        start = end


@exact_jit
def sort_words(
    words: np.ndarray, starts: np.ndarray, counts: np.ndarray, smoothed: np.ndarray, width: np.uint64, out: np.ndarray
) -> int:
    """Sort the words of several lists, given in (direction, pixel) order, into ``out``; returns how many.

    words: the lists, overwritten; out (>= sum of counts,) uint64, on return ordered by (exact cost, direction, pixel).
    """
    offsets = _digit_offsets(words, starts, counts)
    total = 0
    for part in range(counts.size):
        _scatter(words, starts[part], counts[part], _SHIFTS[0], offsets[0], out)
        total += counts[part]
    _scatter(out, 0, total, _SHIFTS[1], offsets[1], words)
    _scatter(words, 0, total, _SHIFTS[2], offsets[2], out)
    _order_ties(out, total, smoothed, width, words)
    return total
