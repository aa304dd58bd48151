"""Intervals of a mean over seeds, and how often equal contestants look different."""

import numpy as np
import pytest
from scipy import stats

from pad.evaluation.comparison.cells import Cell
from pad.evaluation.comparison.intervals import difference, interval, resample
from pad.evaluation.tasks.evidence import Hits


def test_the_interval_of_seeds_is_students_and_grows_with_that_of_the_images():
    values = [1.0, 2.0, 6.0]
    expected = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem(values))
    still = np.full(500, 3.0)
    assert interval(values, still) == pytest.approx(expected)
    moving = still + np.linspace(-2, 2, 500)
    arm = np.hypot(expected[1] - 3, np.percentile(moving, 97.5) - 3)
    assert interval(values, moving) == pytest.approx((3 - arm, 3 + arm))
    assert interval([3.0], moving) == pytest.approx(np.percentile(moving, [2.5, 97.5]))
    assert interval([3.0], np.array([np.nan, 2.0, 4.0])) == pytest.approx((2.05, 3.95))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_contestants_are_seldom_called_different(seeds):
    """Two contestants of the same worth, each seed with luck of its own: one in twenty may look real."""
    rng = np.random.default_rng(seeds)
    images, trials, real = 200, 150, 0
    for _ in range(trials):
        hard = rng.normal(size=images)
        contestants = [
            [right_cell(hard + rng.normal(0, 0.5, images) + rng.normal(0, 0.2), seed) for seed in range(seeds)]
            for _ in range(2)
        ]
        drawn = tuple(resample(cells, count=80) for cells in contestants)
        real += difference(*contestants, drawn, "accuracy").real
    assert real <= 0.09 * trials


def right_cell(margins, seed):
    hits = Hits(("a", "b"), np.zeros(len(margins), np.int64), margins > 0)
    return Cell({"seed": seed, "test_images": len(margins)}, {"": hits}, {})
