"""What is looked at while a method trains: reconstruction panels and the health of its features, on fixed samples."""

from __future__ import annotations

import logging
from typing import Any

import torch

from pad.monitoring.health import COLLAPSED, measure
from pad.monitoring.monitor import Monitor, read_metrics
from pad.monitoring.panels import Panels

_log = logging.getLogger(__name__)


class Watch:
    """Draws and measures about ten times a run; where weights are shared out, every process takes part.

    Args:
        panels: the fixed samples.
        monitor: where pictures go; None in all processes but the first.
        device: of the method.
        every: steps between two looks; steps: of the run.
    """

    def __init__(
        self, panels: Panels, monitor: Monitor | None, device: torch.device, *, every: int, steps: int
    ) -> None:
        self.panels, self.monitor, self.device, self.every, self.steps = panels, monitor, device, every, steps
        self._first: float | None = None

    def due(self, step: int, before: int = -1) -> bool:
        """Whether to look after ``step``, the last line of metrics being of step ``before``, or at that very step."""
        passed = step % self.every == 0 if before < 0 else before == 0 or step // self.every > before // self.every
        return passed or step == self.steps

    def draw(self, method: Any, step: int) -> None:
        """One panel, for a method that reconstructs."""
        picture = self.panels.draw(method, self.device)
        if picture is not None and self.monitor:
            self.monitor.panel(step, picture)

    def health(self, method: Any) -> dict[str, float | None]:
        """RankMe and spread of the features; a collapse is said, and values that are not finite."""
        health = measure(method, self.panels.images(self.device))
        if self.monitor:
            self._warn(self.monitor, health, "lower `blr` or raise `ema`" if hasattr(method, "ema") else "lower `blr`")
        return health

    def _warn(self, monitor: Monitor, health: dict[str, float | None], advice: str) -> None:
        rank, spread = health["rankme"], health["feature_std"]
        if rank is None or spread is None:
            _log.warning(f"the encoder's features are not finite; {advice}.")
            return
        if self._first is None:  # perhaps measured before this process continued the run
            before = (line["feature_std"] for line in read_metrics(monitor.run) if line.get("feature_std") is not None)
            self._first = next(before, spread)
        if spread < COLLAPSED * self._first:
            _log.warning(
                f"features collapse: their spread fell from {self._first:.3g} to {spread:.3g}, "
                f"RankMe {rank:.1f}; {advice}."
            )
