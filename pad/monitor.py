"""What a run shows of itself: metrics.jsonl, trackers, reconstruction panels, loss.png, a progress bar."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from msip.errors import RunError
from msip.files import write_bytes, write_errors
from pad.data import PretrainDataset, denormalise, epoch_order, to_device
from pad.trackers import TensorBoard, Tracker, WeightsAndBiases

METRICS = "metrics.jsonl"
PANEL_SAMPLES = 8
GAP_PX = 4


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
        self._trackers: list[Tracker] = [TensorBoard(run, step=step)]
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

    def say(self, message: str) -> None:
        """A line for the user that does not break the progress bar."""
        tqdm.write(message, file=sys.stderr)

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


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """uint8 (h, w) as PNG."""
    return bytes(cv2.imencode(".png", picture)[1])


class Panels:
    """The same samples under the same masks through the run: input | masked | reconstruction, one row a sample.

    ``seconds_per_image``: what reading one of them took, in this process.
    """

    def __init__(self, dataset: PretrainDataset, in_chans: int) -> None:
        """Raises ``RunError`` if none of the samples can be read."""
        rows = epoch_order(len(dataset), dataset.seed, 0)[:PANEL_SAMPLES]
        samples, seconds = [], []
        for row in rows:
            begin = time.perf_counter()
            sample = dataset[0, int(row)]
            seconds.append(time.perf_counter() - begin)
            samples += [sample] if sample["used"] >= 0 else []
        self.seconds_per_image = float(np.median(seconds))  # the first ones open and compile what reading needs
        if not samples:
            raise RunError(
                f"none of {len(rows)} images tried under {dataset.storage.root} can be read; run `msip verify` on it."
            )
        self._batch = torch.utils.data.default_collate(samples)
        self._in_chans = in_chans

    def images(self, device: torch.device) -> Tensor:
        """The samples, normalised, (n, c, h, w); the first view where there are several."""
        batch = to_device(self._batch, device, self._in_chans)
        return batch["images"] if "images" in batch else batch["global_views"][:, 0]

    @torch.no_grad()
    def draw(self, method: Any, device: torch.device) -> NDArray[np.uint8] | None:
        """The panel as uint8 (h, w), or ``None`` for a method that reconstructs nothing."""
        training = method.training
        method.eval()
        try:
            if not method.paints:
                return None
            inputs = method.arguments(to_device(self._batch, device, self._in_chans))
            columns = method.panel(inputs["images"], method(**inputs))
        finally:
            method.train(training)
        return None if columns is None else arrange(columns)


def arrange(columns: tuple[Tensor, ...]) -> NDArray[np.uint8]:
    """Tensors (n, c, h, w) in normalised image space, side by side; n rows. Returns uint8 (rows, columns)."""
    grey = [denormalise(column) for column in columns]
    padded = [np.pad(column, ((0, 0), (0, GAP_PX), (0, GAP_PX)), constant_values=255) for column in grey]
    rows = np.concatenate(padded, axis=2)  # (n, h + gap, columns * (w + gap))
    picture: NDArray[np.uint8] = rows.reshape(-1, rows.shape[-1])[:-GAP_PX, :-GAP_PX]
    return np.ascontiguousarray(picture)


def plot_loss(run: Path) -> None:
    """Draw RUN/loss.png from RUN/metrics.jsonl."""
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


def memory_bytes(device: torch.device) -> int:
    """Peak memory: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Clock:
    """Wall time of training, and the part of it spent waiting for data; saving and drawing do not count.

    On a GPU the wait is an upper bound: the device may still be busy with the steps before.
    """

    def __init__(self) -> None:
        self.window_steps = 0
        self._wait = 0.0
        self._now = self._begin = self._first = time.perf_counter()
        self._steps = 0

    def start(self) -> None:
        """Training begins now."""
        self._begin = self._first = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, data are waited for."""
        begin = time.perf_counter()
        yield
        self._wait += time.perf_counter() - begin

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count."""
        begin = time.perf_counter()
        yield
        lost = time.perf_counter() - begin
        self._begin += lost
        self._first += lost
        self._now += lost

    def step(self) -> None:
        """One optimizer step done; the first one pays for start-up and is left out of the mean."""
        self._steps += 1
        self.window_steps += 1
        self._now = time.perf_counter()
        if self._steps == 1:
            self._first = self._now

    def window(self) -> tuple[float, float]:
        """(seconds, seconds waited for data) since the last log."""
        return max(time.perf_counter() - self._begin, 1e-9), self._wait

    def next_window(self) -> None:
        """Begin the next window."""
        self._begin, self._wait, self.window_steps = time.perf_counter(), 0.0, 0

    def speed(self, images: int) -> float:
        """Images per second, for ``images`` a step."""
        if self._steps < 2:
            return 0.0
        return (self._steps - 1) * images / max(self._now - self._first, 1e-9)
