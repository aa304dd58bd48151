"""A cell: one contestant, one task, one seed. Each is one JSON file, written whole, and never computed twice."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msip.errors import EvaluationError, RunError
from msip.files import sha256_file, write_bytes
from pad.adapters.files import ADAPTER_FILE
from pad.encoders.load import base_weights
from pad.encoders.stored import read_stored, weight_files
from pad.evaluation.sets.base import share
from pad.evaluation.tasks.base import Contestant, Data, Task
from pad.evaluation.tasks.evidence import Evidence
from pad.evaluation.tasks.registry import evidence_from_json
from pad.machine import device_name, memory_bytes, versions

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cell:
    """What one cell found.

    Attributes:
        key: what it was computed from; a cell of another key is another cell.
        evidence: by probe (``knn``, ``linear``), or under the empty name.
        cost: parameters trained, seconds, peak memory in bytes.
    """

    key: dict[str, Any]
    evidence: dict[str, Evidence]
    cost: dict[str, Any]

    def scores(self, weights: Any = None) -> dict[str, float]:
        """Every metric, in percent, for each test image once or as often as ``weights`` says."""
        return {
            f"{name} {metric}".strip(): value
            for name, evidence in self.evidence.items()
            for metric, value in evidence.scores(weights).items()
        }

    @property
    def seed(self) -> int:
        """Of the head, batches and crops."""
        return int(self.key["seed"])

    @property
    def images(self) -> int:
        """Test images."""
        return int(self.key["test_images"])


def asked_key(contestant: Contestant, task: Task, seed: int) -> dict[str, Any]:
    """What decides a cell's scores apart from the data, as JSON values."""
    called, digest = contestant.origin or (contestant.weights, weights_digest(contestant.weights))
    recipe = asdict(task.recipe(contestant))
    own = {name: value for name, value in task.options.model_dump().items() if name not in recipe}
    return {
        "version": task.version,
        "task": task.kind,
        "label_fraction": task.label_fraction,
        "mode": contestant.mode,
        "seed": seed,
        "recipe": recipe,
        **({"options": own} if own else {}),
        "weights": called,
        "weights_sha256": digest,
    }


def cell_key(contestant: Contestant, task: Task, data: Data, seed: int) -> dict[str, Any]:
    """What decides a cell's scores, as JSON values."""
    counts = {"train_images": len(data.train), "test_images": len(data.test), "classes": list(data.classes)}
    of_data = {"layout": data.layout, **counts, "data_sha256": data.sha256}
    return {**asked_key(contestant, task, seed), **of_data}


def weights_digest(weights: str) -> str | None:
    """Of the files that hold them, those under adapters alone, too; None for weights that are no files."""
    path = Path(weights)
    found = [sha256_file(file) for file in weight_files(path) if file.is_file()]
    base = _base_below(path) if found else None
    if base is not None:
        found.append(weights_digest(base) or base)
    return "+".join(found) or None


def _base_below(path: Path) -> str | None:
    """The weights below adapters that are stored alone; None for other weights, or where they name none."""
    if path.suffix != ".safetensors" and weight_files(path) != [path / ADAPTER_FILE]:
        return None
    stored = read_stored(path)
    return None if stored.state else base_weights(stored)


def read_cell(path: Path, key: dict[str, Any]) -> Cell | None:
    """The finished cell at ``path``, None where there is none. Raises ``EvaluationError`` if it is of another key."""
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text())
        before, evidence = stored["key"], {n: evidence_from_json(e) for n, e in stored["evidence"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError(f"{path} is no result of an evaluation ({error}); move it away.") from error
    named = key["weights_sha256"] is None  # timm's or random weights are known by their name alone
    odd = [name for name in key if before.get(name) != key[name] and (named or name != "weights")]
    if odd:
        raise EvaluationError(
            f"{path} was computed with another {_difference(odd[0], before.get(odd[0]), key[odd[0]])}; give another "
            "--out, or move it away to compute it anew."
        )
    return Cell(before, evidence, stored["cost"])


def _difference(name: str, before: Any, now: Any) -> str:
    """What differs, for people: of two tables the first entry that does, of hashes their beginning."""
    if isinstance(before, dict) and isinstance(now, dict):
        name = next(key for key in now if before.get(key) != now[key])
        before, now = before.get(name), now[name]
    kind, _, hashed = name.rpartition("_sha256")
    if not hashed and kind:
        return f"hash of {kind} ({str(before)[:12]}, now {str(now)[:12]})"
    return f"{name.replace('_', ' ')} ({_short(before)}, now {_short(now)})"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else text[:117] + "..."


def write_cell(path: Path, cell: Cell) -> None:
    """One line a part, so that scores can be read and evidence skipped."""
    parts = {
        "key": cell.key,
        "scores": cell.scores(),
        "details": {name: evidence.details() for name, evidence in cell.evidence.items()},
        "cost": cell.cost,
        "versions": versions(),
        "evidence": {name: evidence.to_json() for name, evidence in cell.evidence.items()},
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items())
    write_bytes(path, ("{\n" + lines + "\n}\n").encode())


def run_cell(
    contestant: Contestant,
    task: Task,
    data: Data,
    seed: int,
    path: Path,
    *,
    device: torch.device,
    draw: bool = False,
    threads: int = 2,
) -> Cell:
    """The cell at ``path``: read if it is there, else computed, written and, if asked for, drawn.

    Raises ``RunError`` if its loss stops being a number, or the device's memory does not hold it.
    """
    if contestant.mode not in task.modes:
        raise EvaluationError(f"`task={task.kind}` takes {', '.join(task.modes)}; the mode is {contestant.mode}.")
    key = cell_key(contestant, task, data, seed)
    before = read_cell(path, key)
    if before is not None:
        return before
    label = f"{contestant.name}, {task.name}, seed {seed}"
    begin = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.init()  # nothing may have touched the GPU yet: statistics of none cannot be reset
        torch.cuda.reset_peak_memory_stats(device)
    try:
        train: Any = share(data.train, task.label_fraction, seed)
        found = task.run(data, train, contestant, seed=seed, device=device, threads=threads, label=label)
    except torch.OutOfMemoryError as error:
        raise RunError(f"{label}: the device's memory is full; give a smaller batch or image size.") from error
    where = {"peak_memory_bytes": memory_bytes(device), "device": device_name(device)}
    cell = Cell(key, found.evidence, {**asdict(found.cost), "seconds": round(time.perf_counter() - begin, 2), **where})
    if found.picture is not None and draw:
        write_bytes(path.with_suffix(".jpg"), found.picture)
    write_cell(path, cell)
    _log.info(f"{label}: " + ", ".join(f"{name} {value:.2f}" for name, value in cell.scores().items()))
    return cell


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation of the sample, None of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
