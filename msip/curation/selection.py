"""Fewer images that still show everything: which ones a lean subset keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from msip.curation.fingerprint import Fingerprints
from msip.curation.matching import leaders
from msip.errors import OptionError

LEAST_SIMILARITY = 0.5
"""Images that are less alike are not near-duplicates: unrelated pairs reach 0.5 once in ten thousand."""
_MOST_SIMILARITY = 0.999
_STEPS = 7


@dataclass(frozen=True)
class Selection:
    """What is kept.

    Attributes:
        keep: bool (n,).
        similarity: no two kept images are more alike than this; with a fraction, but for ``filled`` of them.
        filled: images kept beyond the leaders so that the fraction is met: those least like what is kept.
    """

    keep: NDArray[np.bool_]
    similarity: float
    filled: int = 0


def most_similar(
    prints: Fingerprints, eligible: NDArray[np.bool_], most: float, *, flips: bool = False, threads: int | None
) -> Selection:
    """Keep, in row order, every eligible image that is less like all kept ones than ``most``."""
    rows = np.flatnonzero(eligible)
    leader = leaders(prints.take(rows), least=min(most, _MOST_SIMILARITY), flips=flips, threads=threads).row
    keep = np.zeros(len(eligible), bool)
    keep[rows[leader == np.arange(len(rows))]] = True
    return Selection(keep, most)


def fraction(
    prints: Fingerprints, eligible: NDArray[np.bool_], share: float, *, flips: bool = False, threads: int | None
) -> Selection:
    """Keep ``share`` of all rows, chosen from the eligible ones.

    The largest similarity at which no more leaders than wanted remain is found by halving; the rest is filled up with
    the images that are least like their leader.

    Raises:
        OptionError: fewer cannot be kept without dropping images that are no near-duplicates, or more are not eligible.
    """
    rows = np.flatnonzero(eligible)
    wanted = round(share * len(eligible))
    if wanted > len(rows):
        raise OptionError(
            f"`keep_fraction={share:g}` asks for {wanted:,} images, but {len(rows):,} of {len(eligible):,} are neither "
            f"broken, blank nor exact duplicates; give at most {np.floor(1e6 * len(rows) / len(eligible)) / 1e6:g}."
        )
    chosen = prints.take(rows)
    own = np.arange(len(rows))
    low, high = LEAST_SIMILARITY, _MOST_SIMILARITY
    best = leaders(chosen, least=low, flips=flips, threads=threads)
    count = int((best.row == own).sum())
    if count > wanted:
        raise OptionError(
            f"`keep_fraction={share:g}` asks for {wanted:,} images, but {count:,} of {len(eligible):,} are not "
            f"near-duplicates of one another at all; give at least {np.ceil(1e3 * count / len(eligible)) / 1e3:g}."
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        result = leaders(chosen, least=middle, flips=flips, threads=threads)
        if int((result.row == own).sum()) <= wanted:
            low, best = middle, result
        else:
            high = middle
    leader, similarity = best.row, best.similarity
    others = np.flatnonzero(leader != own)
    missing = wanted - int((leader == own).sum())
    filled = others[np.argsort(similarity[others], kind="stable")[:missing]]
    keep = np.zeros(len(eligible), bool)
    keep[rows[leader == own]] = True
    keep[rows[filled]] = True
    return Selection(keep, low, len(filled))
