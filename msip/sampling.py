"""Some of many, evenly spread."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def evenly_spread(total: int, most: int | None) -> NDArray[np.int64]:
    """Indices from 0, ascending: all of ``total``, or ``most`` of them from the first to the last."""
    if most is None or most >= total:
        return np.arange(total)
    return np.unique(np.linspace(0, total - 1, most).astype(np.int64))
