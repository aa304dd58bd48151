"""What a comparison found, for people and for machines: results.md, results.csv, results.png."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from msip.files import write_bytes
from msip.formatting import human_bytes
from pad.evaluation.comparison.cells import Cell, mean_and_std
from pad.evaluation.comparison.file import EACH
from pad.evaluation.comparison.intervals import (
    LEVEL,
    RESAMPLES,
    Difference,
    Resampled,
    difference,
    interval,
    resample,
    same_seeds,
)
from pad.evaluation.comparison.run import Comparing, Results

MARKDOWN, CSV, PLOT = "results.md", "results.csv", "results.png"
SHOWN = ("task", "contestant", "metric", "mean", "std", "low", "high", "seeds")
Kept: TypeAlias = "dict[tuple[str, str, tuple[int, ...]], Resampled]"
"""By task, contestant and seeds."""


@dataclass(frozen=True)
class Line:
    """One contestant by one metric of one task; ``low`` and ``high``: 95 % interval of its mean."""

    task: str
    contestant: str
    metric: str
    mean: float
    std: float | None
    low: float
    high: float
    seeds: int
    gap: Difference | None
    cost: dict[str, Any]
    key: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For machines: numbers, None for what there is not."""
        gap = None if self.gap is None else {**asdict(self.gap), "real": self.gap.real}
        return {**{name: getattr(self, name) for name in SHOWN}, "gap": gap, **self.cost, **_run_of(self.key)}


def lines_of(results: Results, baseline: str, kept: Kept | None = None) -> list[Line]:
    """Every contestant of every task, with its difference to the baseline; ``kept``: resamples of earlier calls."""
    kept = {} if kept is None else kept
    lines: list[Line] = []
    for task, contestants in results.items():
        for name, cells in contestants.items():
            drawn = _drawn(kept, task, name, cells)
            mine, its = same_seeds(cells, contestants.get(baseline, []))
            paired = bool(mine) and name != baseline
            pair = (_drawn(kept, task, name, mine), _drawn(kept, task, baseline, its)) if paired else None
            for metric in cells[0].scores():
                values = [cell.scores()[metric] for cell in cells]
                gap = None if pair is None else difference(mine, its, pair, metric)
                low, high = np.clip(interval(values, drawn[metric]), 0, 100).tolist()  # every metric is a share
                mean, std = mean_and_std(values)
                line = Line(task, name, metric, mean, std, low, high, len(cells), gap, _cost(cells), cells[0].key)
                lines.append(line)
    return lines


def _drawn(kept: Kept, task: str, name: str, cells: list[Cell]) -> Resampled:
    """Resamples of a contestant's cells, made once for the same seeds."""
    key = task, name, tuple(cell.seed for cell in cells)
    if key not in kept:
        kept[key] = resample(cells)
    return kept[key]


def _cost(cells: list[Cell]) -> dict[str, Any]:
    costs = [cell.cost for cell in cells]
    return {
        "trained_parameters": costs[0]["trained_parameters"],
        "trained_encoder_parameters": costs[0]["trained_encoder_parameters"],
        "seconds": sum(cost["seconds"] for cost in costs) / len(costs),
        "peak_memory_bytes": max(cost["peak_memory_bytes"] for cost in costs),
        "device": costs[0]["device"],
    }


@dataclass(frozen=True)
class Report:
    """What a comparison found.

    Attributes:
        folder: of the results: ``results.md``, ``results.csv``, ``results.png``, cells.
        baseline: the contestant that the others are compared with.
        lines: a contestant by a metric of a task each.
        notes: by task, what the reader of its set decided.
    """

    folder: Path
    baseline: str
    lines: list[Line]
    notes: dict[str, tuple[str, ...]]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return header and rows for people."""
        return table(self.lines, self.baseline)


def run_and_report(
    work: Comparing, *, only: tuple[str, ...] = (), contestants: tuple[str, ...] = (), seeds: tuple[int, ...] = ()
) -> Report:
    """Run a comparison, with the three files written after each task; return what is in them at the end."""
    lines: list[Line] = []
    kept: Kept = {}

    def report(found: Results) -> None:
        lines[:] = write_report(work, found, kept)

    work.run(only=only, contestants=contestants, seeds=seeds, finished=report)
    return Report(work.out, work.file.baseline, lines, work.notes)


def write_report(work: Comparing, results: Results, kept: Kept | None = None) -> list[Line]:
    """Write the three files into the comparison's folder; returns what is in them."""
    lines = lines_of(results, work.file.baseline, kept)
    write_bytes(work.out / CSV, _frame(lines).to_csv(index=False).encode())
    text = _markdown(work, lines)
    if any(line.gap for line in lines):
        write_bytes(work.out / PLOT, plot(lines, work.file.baseline))
        text += f"\n![differences]({PLOT})\n"
    write_bytes(work.out / MARKDOWN, text.encode())
    return lines


def _frame(lines: list[Line]) -> pd.DataFrame:
    rows = []
    for line in lines:
        gap = {} if line.gap is None else {"gap": line.gap.value, "gap_low": line.gap.low, "gap_high": line.gap.high}
        row = {name: getattr(line, name) for name in SHOWN}
        run = _run_of(line.key)
        rows.append({**row, "gap": None, "gap_low": None, "gap_high": None, **gap, **run, **line.cost})
    return pd.DataFrame(rows)


def _markdown(work: Comparing, lines: list[Line]) -> str:
    text = ["# Results", ""]
    text += [
        f"Mean ± standard deviation over seeds, in percent; in brackets the difference to `{work.file.baseline}` with "
        f"its {LEVEL} % interval (paired bootstrap of {RESAMPLES} resamples over test images and Student's t over "
        "seeds, put together); bold where the interval leaves 0 out. With a single seed it is of the test images "
        "alone, and nothing is bold.",
        "",
        *_pretrained_anew(work, {line.contestant for line in lines}),
        *(f"**{text}**\n" for text in work.warnings),
        "## Near-duplicates between train and test",
        "",
        "| task | test images | with a near-duplicate in training | share |",
        "|---|---:|---:|---:|",
    ]
    for task, leaks in work.leaks.items():
        text.append(f"| {task} | {leaks.test_images} | {leaks.leaked} | {leaks.share:.1f} % |")
    for task in dict.fromkeys(line.task for line in lines):
        own = [line for line in lines if line.task == task]
        metrics = list(dict.fromkeys(line.metric for line in own))
        said = [_sentence(own[0].key), *work.notes[task]]
        text += ["", f"## {task}", "", *(f"- {note}" for note in said), ""]
        text += ["| contestant | seeds | " + " | ".join(metrics) + " | trained (encoder) | s a seed | peak memory |"]
        text += ["|---|---:|" + "---|" * len(metrics) + "---:|---:|---:|"]
        for name in dict.fromkeys(line.contestant for line in own):
            row = {line.metric: line for line in own if line.contestant == name}
            text.append(_row(name, [row[metric] for metric in metrics]))
    return "\n".join(text) + "\n"


def _pretrained_anew(work: Comparing, shown: set[str]) -> list[str]:
    """Whose spread over seeds is one of pre-trainings, too."""
    names = [name for name, entry in work.file.contestants.items() if name in shown and EACH in entry.weights]
    if not names:
        return []
    many = ", ".join(f"`{name}`" for name in names)
    return [f"Each seed has a pre-training of its own for {many}; one stands behind all seeds of the others.", ""]


def _run_of(key: dict[str, Any]) -> dict[str, Any]:
    """How a cell was computed, as far as a reader of its score wants to know."""
    recipe = key["recipe"]
    found = {"train_images": key["train_images"], "label_fraction": key["label_fraction"]}
    found |= {name: recipe[name] for name in ("image_size", "epochs", "steps", "batch_size", "lr")}
    if key["task"] == "probe":
        found |= dict.fromkeys(("epochs", "steps", "batch_size", "lr"))
    return found


def _sentence(key: dict[str, Any]) -> str:
    run = _run_of(key)
    images = f"{run['train_images']:,} training and {key['test_images']:,} test images"
    if run["label_fraction"] < 1:
        images += f", of the training images {100 * run['label_fraction']:g} %"
    trained = ""
    if run["batch_size"]:
        length = f"{run['steps']:,} steps" if run["steps"] else f"{run['epochs']} epochs"
        trained = f", {length} in batches of {run['batch_size']}, learning rate {run['lr']:g}"
    return f"{key['task']} at {run['image_size']} px{trained}; {images}"


def _row(name: str, lines: list[Line]) -> str:
    cost = lines[0].cost
    trained = f"{cost['trained_parameters']:,} ({cost['trained_encoder_parameters']:,})"
    cells = [name, str(lines[0].seeds), *(_score(line) for line in lines), trained]
    cells += [f"{cost['seconds']:.0f}", human_bytes(cost["peak_memory_bytes"])]
    return f"| {' | '.join(cells)} |"


def _score(line: Line) -> str:
    spread = "" if line.std is None else f" ± {line.std:.2f}"
    if line.gap is None:
        return f"{line.mean:.2f}{spread}"
    gap = f"{line.gap.value:+.2f}, {line.gap.low:+.2f} to {line.gap.high:+.2f}"
    return f"{line.mean:.2f}{spread} ({f'**{gap}**' if line.gap.real else gap})"


def plot(lines: list[Line], baseline: str) -> bytes:
    """PNG: each contestant's difference to the baseline with its interval, a panel a metric."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = [line for line in lines if line.gap is not None]
    panels = list(dict.fromkeys((line.task, line.metric) for line in lines))
    names = list(dict.fromkeys(line.contestant for line in lines))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    size = (4.2 * columns + 1, (0.32 * max(2, len(names)) + 1) * rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (task, metric) in zip(axes.flat, panels, strict=False):
        axis.axvline(0, color="0.6", linewidth=1)
        axis.set_title(f"{task}: {metric}", fontsize=9)
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.tick_params(axis="x", labelsize=8)
        for line in lines:
            if line.gap is not None and (line.task, line.metric) == (task, metric):
                at, gap = names.index(line.contestant), line.gap
                colour = "tab:blue" if gap.seeds > 1 else "0.6"
                axis.plot([gap.low, gap.high], [at, at], color=colour, linewidth=2)
                axis.plot(gap.value, at, "o", color=colour, markersize=4)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    figure.supxlabel(f"percentage points above {baseline}, {LEVEL} % interval; grey: a single seed", fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def table(lines: list[Line], baseline: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows for the command line."""
    header = [
        "task",
        "contestant",
        "metric",
        "seeds",
        "mean",
        "std",
        f"{LEVEL} % interval",
        f"to {baseline}",
        "its interval",
    ]
    rows = [
        [line.task, line.contestant, line.metric, str(line.seeds), f"{line.mean:.2f}", *_spread(line)] for line in lines
    ]
    return header, rows


def _spread(line: Line) -> list[str]:
    std = "-" if line.std is None else f"{line.std:.2f}"
    own = f"{line.low:.2f} to {line.high:.2f}"
    if line.gap is None:
        return [std, own, "-", "-"]
    return [std, own, f"{line.gap.value:+.2f}", f"{line.gap.low:+.2f} to {line.gap.high:+.2f}"]
