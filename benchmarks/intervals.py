"""How often `msip evaluate` calls contestants of the same worth different, beside a bootstrap over seeds and images.

    python benchmarks/intervals.py

Simulated classification: 300 test images, each seed of each contestant with luck of its own. An interval of 95 %
should leave 0 out once in twenty.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pad.evaluation.comparison.cells import Cell
from pad.evaluation.comparison.intervals import difference, resample
from pad.evaluation.tasks.evidence import Hits

IMAGES, TRIALS, RESAMPLES = 300, 400, 150


def cell(margins: NDArray[np.float64], seed: int) -> Cell:
    """A result that tells the images right whose margin is positive."""
    hits = Hits(("a", "b"), np.zeros(IMAGES, np.int64), margins > 0)
    return Cell({"seed": seed, "test_images": IMAGES}, {"": hits}, {})


def plain_bootstrap(mine: list[Cell], its: list[Cell], rng: np.random.Generator) -> bool:
    """Whether the middle 95 % leave 0 out when seeds and images are drawn together, the same for both."""
    gaps = np.array([a.evidence[""].right * 1.0 - b.evidence[""].right for a, b in zip(mine, its, strict=True)])
    seeds = rng.integers(len(mine), size=(RESAMPLES, len(mine)))
    images = rng.integers(IMAGES, size=(RESAMPLES, IMAGES))
    means = [gaps[s][:, i].mean() for s, i in zip(seeds, images, strict=True)]
    low, high = np.percentile(means, [2.5, 97.5])
    return bool(low > 0 or high < 0)


def main() -> None:
    """Print a table: swing of the seeds, seeds, and the share called different by either."""
    print("swing of a seed | seeds | bootstrap over seeds and images | this project")
    for swing in (0.0, 0.1, 0.2):
        for seeds in (2, 3, 5):
            rng = np.random.default_rng(seeds)
            called, spread = np.zeros(2), []
            for _ in range(TRIALS):
                hard = rng.normal(size=IMAGES)
                pair = [
                    [cell(hard + rng.normal(0, 0.5, IMAGES) + rng.normal(0, swing), n) for n in range(seeds)]
                    for _ in range(2)
                ]
                drawn = resample(pair[0], count=RESAMPLES), resample(pair[1], count=RESAMPLES)
                ours = difference(pair[0], pair[1], drawn, "accuracy").real
                called += plain_bootstrap(*pair, rng), ours
                spread.append(np.std([c.scores()["accuracy"] for c in pair[0]], ddof=1))
            shares = " | ".join(f"{100 * share / TRIALS:.0f} %" for share in called)
            print(f"{np.mean(spread):.1f} points | {seeds} | {shares}", flush=True)


if __name__ == "__main__":
    main()
