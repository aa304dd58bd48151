"""What a build holds, in numbers: ``stats.json``, plots, a page, a data card, Croissant metadata."""

from __future__ import annotations

from msip.statistics.stats import StatsReport, stats

__all__ = ["StatsReport", "stats"]
