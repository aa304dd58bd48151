"""Is the difference real? Means over seeds, and paired bootstrap intervals over seeds and test images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pad.evaluation.cells import Cell

RESAMPLES = 500
LEVEL = 95
Resampled: TypeAlias = "dict[str, NDArray[np.float64]]"


@dataclass(frozen=True)
class Difference:
    """Of two contestants, in percentage points: of their means over seeds, and where 95 % of the resamples lie.

    ``seeds``: how many they have in common. The interval of a single one is of the test images alone.
    """

    value: float
    low: float
    high: float
    seeds: int

    @property
    def real(self) -> bool:
        """Whether the interval leaves 0 out, other seeds considered: a single one says nothing about them."""
        return self.seeds > 1 and (self.low > 0 or self.high < 0)


def resample(cells: list[Cell], *, seed: int = 0, count: int = RESAMPLES) -> Resampled:
    """Mean scores of resamples, metric to (count,): of each one, seeds and test images are drawn with replacement.

    The draws depend on the numbers of seeds and images alone, so contestants with the same ones are resampled alike:
    that is what makes their differences paired.
    """
    rng = np.random.default_rng(seed)
    images = cells[0].images
    rows: list[dict[str, float]] = []
    for _ in range(count):
        chosen = np.bincount(rng.integers(len(cells), size=len(cells)), minlength=len(cells))
        weights = np.bincount(rng.integers(images, size=images), minlength=images)
        scores = {n: cells[n].scores(weights) for n in np.flatnonzero(chosen)}
        rows.append(
            {name: sum(int(chosen[n]) * s[name] for n, s in scores.items()) / len(cells) for name in cells[0].scores()}
        )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def same_seeds(mine: list[Cell], its: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells of both whose seed the other has, too, in the same order."""
    a, b = ({cell.seed: cell for cell in cells} for cells in (mine, its))
    common = [seed for seed in a if seed in b]
    return [a[seed] for seed in common], [b[seed] for seed in common]


def mean_scores(cells: list[Cell]) -> dict[str, float]:
    """Mean of each metric over seeds."""
    each = [cell.scores() for cell in cells]
    return {name: float(np.mean([scores[name] for scores in each])) for name in each[0]}


def difference(mine: list[Cell], its: list[Cell], drawn: tuple[Resampled, Resampled], metric: str) -> Difference:
    """``mine`` minus ``its`` by a metric; ``drawn``: what ``resample`` gave for each, over the same seeds."""
    low, high = interval(drawn[0][metric] - drawn[1][metric])
    return Difference(mean_scores(mine)[metric] - mean_scores(its)[metric], low, high, len(mine))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Where the middle 95 % of resampled values lie."""
    low, high = np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)
