"""Is the difference real? Means over seeds, and intervals of what other seeds and other test images would have given.

A bootstrap over three seeds draws from three numbers, and misses the truth far more often than it says. So the two
sources of chance are kept apart: test images are resampled (paired: the same images for both contestants), seeds get
Student's t on the seeds' own values. The two intervals are put together by their squared arms, as for the sum of two
independent estimates (MOVER: Zou and Donner, Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pad.evaluation.comparison.cells import Cell

RESAMPLES = 500
LEVEL = 95
Resampled: TypeAlias = "dict[str, NDArray[np.float64]]"


@dataclass(frozen=True)
class Difference:
    """Of two contestants, in percentage points: of their means over seeds, and its 95 % interval.

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
    """Mean scores over the cells for resamples of the test images, metric to (count,).

    The draws depend on the number of images alone, so contestants of the same test images are resampled alike: that
    is what makes their differences paired.
    """
    rng = np.random.default_rng(seed)
    images = cells[0].images
    drawn: dict[str, list[float]] = {name: [] for name in cells[0].scores()}
    for _ in range(count):
        weights = np.bincount(rng.integers(images, size=images), minlength=images)
        scores = [cell.scores(weights) for cell in cells]
        for name, values in drawn.items():
            values.append(float(np.mean([each[name] for each in scores])))
    return {name: np.array(values) for name, values in drawn.items()}


def interval(values: Sequence[float], resampled: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of a mean over seeds.

    Args:
        values: of each seed, over the test images as they are.
        resampled: their mean for resamples of the test images.
    """
    from scipy.stats import t as student_t

    mean = float(np.mean(values))
    finite = resampled[np.isfinite(resampled)]  # a resample may hold no pixel that counts
    low, high = np.percentile(finite, [(100 - LEVEL) / 2, (100 + LEVEL) / 2]) if len(finite) else (mean, mean)
    count = len(values)
    of_seeds = 0.0
    if count > 1:
        of_seeds = float(student_t.ppf((1 + LEVEL / 100) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    below, above = np.hypot([max(0.0, mean - low), max(0.0, high - mean)], of_seeds).tolist()
    return mean - below, mean + above


def same_seeds(mine: list[Cell], its: list[Cell]) -> tuple[list[Cell], list[Cell]]:
    """The cells of both whose seed the other has, too, in the same order."""
    a, b = ({cell.seed: cell for cell in cells} for cells in (mine, its))
    common = [seed for seed in a if seed in b]
    return [a[seed] for seed in common], [b[seed] for seed in common]


def difference(mine: list[Cell], its: list[Cell], drawn: tuple[Resampled, Resampled], metric: str) -> Difference:
    """``mine`` minus ``its`` by a metric, seed by seed; ``drawn``: what ``resample`` gave for each, the same seeds."""
    gaps = [a.scores()[metric] - b.scores()[metric] for a, b in zip(mine, its, strict=True)]
    low, high = interval(gaps, drawn[0][metric] - drawn[1][metric])
    return Difference(float(np.mean(gaps)), low, high, len(gaps))
