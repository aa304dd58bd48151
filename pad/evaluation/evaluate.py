"""One contestant on one task: its cells, and their mean and standard deviation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msip.files import make_output_folder
from pad.evaluation.cells import Cell, Contestant, Task, mean_and_std, run_cell
from pad.pretrain import tell
from pad.processes import Ranks, pick_device


def evaluate(
    contestant: Contestant, task: Task, seeds: Iterable[int], out: Path, *, device: str = "auto"
) -> dict[str, Any]:
    """Run what is missing of a contestant's seeds; returns notes, scores by metric and the table for people.

    The cells lie in ``out``/<contestant>-<hash of its weights' name>/<task>/seed-<n>.json.

    Raises:
        MsipError: the data, the weights or the options do not fit.
    """
    chosen = pick_device(device, Ranks())  # type: ignore[arg-type]
    data = task.read()
    short = hashlib.sha256(contestant.weights.encode()).hexdigest()[:8]
    folder = make_output_folder(
        out / f"{Path(contestant.weights).name.replace(':', '-')}-{contestant.name}-{short}" / task.name
    )
    for note in data.notes:
        tell(f"{task.name}: {note}.")
    cells = [
        run_cell(contestant, task, data, seed, folder / f"seed-{seed}.json", device=chosen, say=tell) for seed in seeds
    ]
    return {"folder": str(folder), "notes": list(data.notes), "scores": _scores(cells), "table": _table(cells)}


def _scores(cells: list[Cell]) -> dict[str, list[float]]:
    each = [cell.scores() for cell in cells]
    return {metric: [scores[metric] for scores in each] for metric in each[0]}


def _table(cells: list[Cell]) -> list[list[str]]:
    rows = []
    for metric, values in _scores(cells).items():
        mean, std = mean_and_std(values)
        rows.append(
            [metric, f"{mean:.2f}", "-" if std is None else f"{std:.2f}", *(f"{value:.2f}" for value in values)]
        )
    return rows
