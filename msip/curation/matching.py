"""Which fingerprints are alike: every pair is looked at, in steps of rising cost.

The first word of the hash (the 64 lowest frequencies) tells nearly all pairs apart in about a nanosecond, the whole
hash most of the others, the cosine of the vectors nearly all of the rest, and that of the details decides. That is a
linear scan per image: no index to tune, memory of a few numbers an image, and about one pair in a thousand missed, of
those close to the threshold. Of the pairs, only the most similar image of each relation and their number are kept per
image; a standing camera has more pairs than any list should hold.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from msip.curation.fingerprint import LENGTH, Fingerprints, turned
from msip.jit import exact_jit
from msip.progress import Progress, silent

RELATIONS = ("same sequence", "same source", "other source")
_BLOCK = 256  # rows a task compares with all others
_TILE = 4096  # of the others: their first words stay in the processor's cache meanwhile


@dataclass(frozen=True)
class Matches:
    """The most similar other image, per image and relation (``RELATIONS``).

    Attributes:
        partner: int32 (n, 3) row of it, -1 where none reaches the threshold.
        similarity: float32 (n, 3), -1 to 1.
        variant: int8 (n, 3) index into ``fingerprint.VARIANTS``.
        count: int32 (n, 3) images that reach the threshold.
    """

    partner: NDArray[np.int32]
    similarity: NDArray[np.float32]
    variant: NDArray[np.int8]
    count: NDArray[np.int32]


@intrinsic
def _ones(typing_context: Any, value: Any) -> Any:
    """The number of set bits of a uint64 (in compiled code only)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


class Leaders(NamedTuple):
    """The image that stands for each row.

    Attributes:
        row: int32 (n,) the most similar leader, a leader's own row.
        similarity: float32 (n,).
        variant: int8 (n,) index into ``fingerprint.VARIANTS``.
    """

    row: NDArray[np.int32]
    similarity: NDArray[np.float32]
    variant: NDArray[np.int8]


class _Side(NamedTuple):
    """One side of a comparison, as the compiled loops take it."""

    vectors: NDArray[np.int8]
    details: NDArray[np.int8]
    codes: NDArray[np.uint64]
    norms: NDArray[np.float64]
    detail_norms: NDArray[np.float64]
    least_detail: NDArray[np.float64]
    sources: NDArray[np.int32]
    sequences: NDArray[np.int32]


class _Turned(NamedTuple):
    """Rows of a side from ``start`` on with each of ``VARIANTS`` undone: (variants, rows, ...)."""

    vectors: NDArray[np.int8]
    details: NDArray[np.int8]
    codes: NDArray[np.uint64]
    start: int


class _Limits(NamedTuple):
    """What a pair must reach: the cosine, and the Hamming distances of 64 and of 256 bits that are looked at."""

    least: float
    most_64: int
    most_256: int


def _limits(similarity: float) -> _Limits:
    """The largest Hamming distances, of the first 64 and of all 256 bits, at which a pair can be that similar.

    For random vectors of that cosine, the distance is about arccos(s) / pi of the bits. The margins let 99.9 % of real
    pairs pass (430 images under 17 transforms, all pairs of HIT-UAV); high frequencies of blurred or noisy frames are
    noise, hence the wide second one.
    """
    share = float(np.arccos(similarity)) / np.pi
    return _Limits(similarity, min(64, round(64 * share) + 10), min(256, round(256 * share) + 66))


@exact_jit
def _dot(first: NDArray[np.int8], second: NDArray[np.int8]) -> int:
    total = np.int32(0)
    for index in range(LENGTH):
        total += np.int32(first[index]) * np.int32(second[index])
    return total


@exact_jit
def _agree(side: _Side, row: int, detail: NDArray[np.int8], others: _Side, other: int, likeness: np.float32) -> bool:
    """Whether the details of a pair are alike; without detail only equals are."""
    norms = side.detail_norms[row] * others.detail_norms[other]
    least = max(side.least_detail[row], others.least_detail[other])
    return _dot(detail, others.details[other]) >= least * norms if norms > 0 else likeness == 1


@exact_jit
def _scan(
    queries: _Side,
    rows: _Turned,
    others: _Side,
    words: NDArray[np.uint64],
    within: bool,
    limits: _Limits,
    partner: NDArray[np.int32],
    similarity: NDArray[np.float32],
    variant: NDArray[np.int8],
    count: NDArray[np.int32],
) -> None:
    """Compare rows of the queries with all others; ``within``: those are the same."""
    for tile in range(0, len(words), _TILE):
        for row in range(rows.start, rows.start + rows.vectors.shape[1]):
            if queries.norms[row] == 0:
                continue
            for turn in range(rows.vectors.shape[0]):
                vector, code = rows.vectors[turn, row - rows.start], rows.codes[turn, row - rows.start]
                detail = rows.details[turn, row - rows.start]
                for other in range(tile, min(tile + _TILE, len(words))):
                    distance = _ones(code[0] ^ words[other])
                    if distance > limits.most_64:
                        continue
                    for word in range(1, 4):
                        distance += _ones(code[word] ^ others.codes[other, word])
                    if distance > limits.most_256 or others.norms[other] == 0 or (within and other == row):
                        continue
                    scalar = _dot(vector, others.vectors[other])
                    likeness = np.float32(scalar / (queries.norms[row] * others.norms[other]))
                    if likeness < limits.least or not _agree(queries, row, detail, others, other, likeness):
                        continue
                    relation = 2
                    if queries.sources[row] == others.sources[other]:
                        together = queries.sequences[row] == others.sequences[other] and queries.sequences[row] >= 0
                        relation = 0 if together else 1
                    count[row, relation] += 1
                    if likeness > similarity[row, relation]:
                        similarity[row, relation] = likeness
                        partner[row, relation] = other
                        variant[row, relation] = turn


@exact_jit
def _nearest_leader(
    side: _Side,
    rows: _Turned,
    first: int,
    last: int,
    chosen: NDArray[np.int32],
    limits: _Limits,
    leaders: Leaders,
) -> None:
    """For rows ``first`` to ``last``: the most similar of ``chosen``, if it is similar enough."""
    for row in range(first, last):
        if side.norms[row] == 0:
            continue
        for turn in range(rows.vectors.shape[0]):
            vector, code = rows.vectors[turn, row - rows.start], rows.codes[turn, row - rows.start]
            detail = rows.details[turn, row - rows.start]
            for other in chosen:
                distance = _ones(code[0] ^ side.codes[other, 0])
                if distance > limits.most_64:
                    continue
                for word in range(1, 4):
                    distance += _ones(code[word] ^ side.codes[other, word])
                if distance > limits.most_256:
                    continue
                likeness = np.float32(_dot(vector, side.vectors[other]) / (side.norms[row] * side.norms[other]))
                # NaN, of a leader without structure, is not better.
                better = likeness >= limits.least and likeness > leaders.similarity[row]
                if better and _agree(side, row, detail, side, other, likeness):
                    leaders.row[row] = other
                    leaders.similarity[row] = likeness
                    leaders.variant[row] = turn


@exact_jit
def _choose_in_block(
    side: _Side, rows: _Turned, last: int, chosen: NDArray[np.int32], count: int, limits: _Limits, leaders: Leaders
) -> int:
    """One row after the other: without a leader it becomes one, and the rows behind it are compared with it."""
    for row in range(rows.start, last):
        if leaders.row[row] >= 0:
            continue
        leaders.row[row] = row
        leaders.similarity[row] = 1
        chosen[count] = row
        count += 1
        _nearest_leader(side, rows, row + 1, last, chosen[count - 1 : count], limits, leaders)
    return count


def _side(
    prints: Fingerprints, sources: NDArray[np.int32] | None = None, sequences: NDArray[np.int32] | None = None
) -> _Side:
    none = np.full(len(prints), -1, np.int32)
    return _Side(
        prints.vectors,
        prints.details,
        prints.codes,
        prints.norms,
        prints.detail_norms,
        prints.least_detail,
        np.arange(len(prints), dtype=np.int32) if sources is None else sources,
        none if sequences is None else sequences,
    )


def _turned(side: _Side, start: int, end: int, flips: bool) -> _Turned:
    vectors, details = (np.ascontiguousarray(turned(part[start:end], flips)) for part in (side.vectors, side.details))
    return _Turned(vectors, details, np.packbits(vectors > 0, axis=2).view(np.uint64), start)


def best_matches(
    queries: Fingerprints,
    others: Fingerprints | None = None,
    *,
    least: float,
    flips: bool = False,
    sources: NDArray[np.int32] | None = None,
    sequences: NDArray[np.int32] | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> Matches:
    """The most similar of ``others`` for each of ``queries``; without ``others``, of the other queries.

    Args:
        queries, others: n and m fingerprints.
        least: the similarity from which a pair counts, above 0.
        flips: also look for mirrored, turned and inverted copies (``fingerprint.VARIANTS``), in 16 times the time.
        sources, sequences: (n,) a number for each, a sequence below 0 for none; only without ``others``. Where they are
            not given, all matches are in the column "other source".
        threads: default all cores.
        progress: of the stage ``compare``, in queries.
    """
    within = others is None
    count = len(queries)
    own = _side(queries, sources, sequences)
    rest = own if others is None else _side(others, np.full(len(others), -1, np.int32))
    words = np.ascontiguousarray(rest.codes[:, 0])
    limits = _limits(least)
    matches = Matches(
        np.full((count, 3), -1, np.int32),
        np.full((count, 3), -1, np.float32),
        np.zeros((count, 3), np.int8),
        np.zeros((count, 3), np.int32),
    )
    result = (matches.partner, matches.similarity, matches.variant, matches.count)

    def block(start: int) -> int:
        rows = _turned(own, start, min(start + _BLOCK, count), flips)
        _scan(own, rows, rest, words, within, limits, *result)
        return rows.vectors.shape[1]

    for done in _in_threads(block, range(0, count, _BLOCK), threads):
        progress("compare", done, count)
    return matches


def _in_threads(task: Callable[[int], int], starts: range, threads: int | None) -> Iterator[int]:
    """The compiled loops release the interpreter's lock, so threads do, and nothing is copied between processes."""
    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        yield from pool.map(task, starts)


def leaders(
    prints: Fingerprints,
    *,
    least: float,
    flips: bool = False,
    threads: int | None = None,
    progress: Progress = silent,
) -> Leaders:
    """Choose, in row order, the images that stand for all: greedy leader selection.

    A row that no earlier leader reaches by ``least`` becomes a leader itself. So no two leaders are that similar, every
    row is that similar to its leader, and the choice depends on the order of the rows alone. The other arguments are
    those of ``best_matches``.
    """
    count, number = len(prints), 0
    side, limits = _side(prints), _limits(least)
    found = Leaders(np.full(count, -1, np.int32), np.full(count, -1, np.float32), np.zeros(count, np.int8))
    chosen = np.empty(count, np.int32)
    step = -(-_TILE // (threads or os.cpu_count() or 1))
    for start in range(0, count, _TILE):
        end = min(start + _TILE, count)
        rows = _turned(side, start, end, flips)

        def part(first: int, end: int = end, number: int = number, rows: _Turned = rows) -> int:
            _nearest_leader(side, rows, first, min(first + step, end), chosen[:number], limits, found)
            return 0

        list(_in_threads(part, range(start, end, step), threads))
        number = _choose_in_block(side, rows, end, chosen, number, limits, found)
        progress("group", end - start, count)
    return found
