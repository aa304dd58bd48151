"""Comparisons: contestants x tasks x seeds, cells on disk, intervals, tables."""

from __future__ import annotations

from msip.old_paths import names_of

__getattr__ = names_of(__name__, ("pad.evaluation.comparison.run",))
