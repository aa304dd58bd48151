"""What a run shows of itself: metrics.jsonl, trackers, reconstruction panels, loss.png, a progress bar."""

from __future__ import annotations

import json
import logging
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from msip.extras import how_to_get, missing, need
from msip.files import write_bytes, write_errors
from msip.pictures import encode_png
from pad.monitoring.trackers import TensorBoard, Tracker, WeightsAndBiases

METRICS = "metrics.jsonl"

_log = logging.getLogger(__name__)


class Monitor:
    """Writes one line of metrics at a time; a resumed run continues as if it had never stopped.

    Args:
        run: the run's folder.
        step: optimizer steps done; lines and events of later steps, left by a killed run, are dropped.
        steps: of the whole run.
        wandb: project of Weights & Biases to log to as well.
        config: the run's options, for it.
    """

    def __init__(
        self, run: Path, *, step: int, steps: int, wandb: str | None = None, config: dict[str, Any] | None = None
    ) -> None:
        self.run = run
        with write_errors(run / METRICS):
            _truncate(run / METRICS, step)
            self._file = (run / METRICS).open("a", encoding="utf-8")
        self._trackers: list[Tracker] = []
        if missing("tensorboard"):
            _log.warning("no curves for TensorBoard, which is not installed: %s.", how_to_get("tensorboard"))
        else:
            self._trackers.append(TensorBoard(run, step=step))
        if wandb is not None:
            self._trackers.append(WeightsAndBiases(run, project=wandb, config=config or {}))
        interval = 0.1 if sys.stderr.isatty() else 10.0
        self._bar = tqdm(
            total=steps, initial=step, unit="step", desc=run.name, mininterval=interval, dynamic_ncols=True
        )

    def advance(self) -> None:
        """One optimizer step done."""
        self._bar.update()

    def write(self, metrics: dict[str, Any]) -> None:
        """One line of metrics; needs ``step``, ``loss``, ``images_per_s`` and ``data_wait``."""
        with write_errors(self.run / METRICS):
            self._file.write(json.dumps(metrics) + "\n")
            self._file.flush()
        step = metrics["step"]
        scalars = {tag: scalar for name, value in metrics.items() for tag, scalar in _scalars(name, value)}
        for tracker in self._trackers:
            tracker.scalars(step, scalars)
        wait, speed = 100 * metrics["data_wait"], metrics["images_per_s"]
        used = f", MFU {100 * metrics['mfu']:.0f} %" if "mfu" in metrics else ""
        self._bar.set_postfix_str(
            f"loss {metrics['loss']:.4f}, {speed:.1f} img/s, data wait {wait:.0f} %{used}", refresh=False
        )

    def panel(self, step: int, picture: NDArray[np.uint8]) -> None:
        """Keep one reconstruction panel, uint8 (h, w)."""
        write_bytes(self.run / "panels" / f"step-{step:08d}.png", encode_png(picture), sync=False)
        for tracker in self._trackers:
            tracker.image(step, picture)

    def close(self) -> None:
        """Close files and bar."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()
        self._bar.close()


def _scalars(name: str, value: Any) -> list[tuple[str, float]]:
    if isinstance(value, list):
        return [(f"{name}/{index}", float(item)) for index, item in enumerate(value)]
    return [(name, float(value))] if isinstance(value, (int, float)) and name != "step" else []


def _truncate(path: Path, step: int) -> None:
    """Drop lines of steps after ``step`` and a line cut by a kill."""
    if path.exists():
        kept = [json.dumps(metrics) + "\n" for metrics in read_metrics(path.parent) if metrics["step"] <= step]
        write_bytes(path, "".join(kept).encode())


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of RUN/metrics.jsonl; a line cut by a kill is left out."""
    lines: list[dict[str, Any]] = []
    path = run / METRICS
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def plot_loss(run: Path) -> None:
    """Draw RUN/loss.png from RUN/metrics.jsonl. Raises ``MissingExtra`` without the extra ``plots``."""
    need("plots")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    metrics = read_metrics(run)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in metrics], [line["loss"] for line in metrics])
    axes.set(xlabel="optimizer step", ylabel="loss", title=run.name)
    axes.grid(alpha=0.3)
    FigureCanvasAgg(figure)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    write_bytes(run / "loss.png", buffer.getvalue(), sync=False)
