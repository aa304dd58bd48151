"""A cell: one contestant, one task, one seed. Each is one JSON file, written whole, and never computed twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch

from msip.errors import EvaluationError, RunError
from msip.files import sha256_file, write_bytes
from pad.adapters.files import ADAPTER_FILE
from pad.config.options import option
from pad.config.pretraining import Precision
from pad.encoders.load import base_weights
from pad.encoders.stored import read_stored, weight_files
from pad.evaluation.sets.base import DetectionData, ProbeData, SegmentationData, share
from pad.evaluation.sets.detection import read_detection
from pad.evaluation.sets.probe import LABELS, read_probe
from pad.evaluation.sets.segmentation import has_masks, read_segmentation
from pad.evaluation.tasks.detection import run_detection
from pad.evaluation.tasks.drawing import draw_detections, draw_masks
from pad.evaluation.tasks.encoder import Mode
from pad.evaluation.tasks.evidence import Evidence, evidence_from_json
from pad.evaluation.tasks.fitting import DETECTION, SEGMENTATION, Recipe
from pad.evaluation.tasks.probe import probe_images, probe_patches
from pad.evaluation.tasks.segmentation import run_segmentation
from pad.machine import device_name, memory_bytes, versions

TaskKind = Literal["segmentation", "detection", "probe"]
VERSIONS: dict[TaskKind, int] = {"segmentation": 1, "detection": 2, "probe": 1}
"""Raised when the same cell would get other scores."""
PROBE_SIZE = 224
OF_RECIPE = ("image_size", "steps", "batch_size", "lr", "precision", "decoder_channels")
"""What a task may say otherwise than its recipe."""
Data: TypeAlias = "SegmentationData | DetectionData | ProbeData"


@dataclass(frozen=True)
class Contestant:
    """Whose turn it is.

    Attributes:
        weights: what ``load_encoder`` reads, or ``random:NAME``.
        mode: what trains beside the head.
        lr: its own learning rate, the task's if None.
        origin: what its weights are called in results, and what decides them: given where the files alone would not
            say the same on another machine, as for a pre-training; the files' hash otherwise.
    """

    name: str
    weights: str
    mode: Mode = "full"
    lr: float | None = None
    origin: tuple[str, str] | None = None


@dataclass(frozen=True)
class Task:
    """A data set and how it is trained on; what is None is the recipe's."""

    name: str
    kind: TaskKind
    data: Path
    image_size: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    label_fraction: float = 1.0
    precision: Precision | None = None
    decoder_channels: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(TaskKind):
            raise EvaluationError(f"the task is {self.kind!r}; choose one of {', '.join(get_args(TaskKind))}.")
        unused = [name for name in OF_RECIPE if name != "image_size" and getattr(self, name) is not None]
        if unused and self.kind == "probe":
            raise EvaluationError(f"a probe trains no decoder and takes no steps; leave {option(unused[0])} out.")

    def recipe(self, contestant: Contestant) -> Recipe:
        """How a contestant is trained on it."""
        base = DETECTION if self.kind == "detection" else SEGMENTATION
        if self.kind == "probe":
            base = replace(base, image_size=PROBE_SIZE)
        given = {name: getattr(self, name) for name in OF_RECIPE}
        given["lr"] = contestant.lr or self.lr
        return replace(base, **{name: value for name, value in given.items() if value is not None})

    def read(self) -> Data:
        """Its images, decoded. A probe reads classes where there are some, else masks. Raises ``EvaluationError``."""
        if self.kind == "segmentation":
            return read_segmentation(self.data)
        if self.kind == "detection":
            return read_detection(self.data)
        of_classes = (self.data / LABELS).is_file() or not has_masks(self.data)
        return read_probe(self.data) if of_classes else read_segmentation(self.data)


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
    return {
        "version": VERSIONS[task.kind],
        "task": task.kind,
        "label_fraction": task.label_fraction,
        "mode": contestant.mode,
        "seed": seed,
        "recipe": asdict(task.recipe(contestant)),
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
    say: Callable[[str], None] = lambda text: None,
) -> Cell:
    """The cell at ``path``: read if it is there, else computed, written and, if asked for, drawn.

    Raises ``RunError`` if its loss stops being a number, or the device's memory does not hold it.
    """
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
        evidence, cost, drawn = _compute(contestant, task, data, seed, device, threads, label)
    except torch.OutOfMemoryError as error:
        raise RunError(f"{label}: the device's memory is full; give a smaller batch or image size.") from error
    where = {"peak_memory_bytes": memory_bytes(device), "device": device_name(device)}
    cell = Cell(key, evidence, {**cost, "seconds": round(time.perf_counter() - begin, 2), **where})
    if drawn is not None and draw:
        write_bytes(path.with_suffix(".jpg"), drawn)
    write_cell(path, cell)
    say(f"{label}: " + ", ".join(f"{name} {value:.2f}" for name, value in cell.scores().items()))
    return cell


Computed = tuple[dict[str, Evidence], dict[str, Any], bytes | None]


def _compute(
    contestant: Contestant, task: Task, data: Data, seed: int, device: torch.device, threads: int, label: str
) -> Computed:
    recipe = task.recipe(contestant)
    train: Any = share(data.train, task.label_fraction, seed)
    common: dict[str, Any] = {"seed": seed, "device": device}
    if task.kind == "probe":
        if contestant.mode != "frozen":
            raise EvaluationError(f"a probe takes frozen features; the mode is {contestant.mode}, give --mode frozen.")
        probe: Any = probe_images if data.test and hasattr(data.test[0], "label") else probe_patches
        found, spent = probe(data, train, contestant.weights, image_size=recipe.image_size, **common)
        return found, asdict(spent), None
    arguments = (data, train, contestant.weights, contestant.mode, recipe)
    run: Any = run_segmentation if task.kind == "segmentation" else run_detection
    evidence, cost, predictions = run(*arguments, **common, threads=threads, label=label)
    draw: Any = draw_masks if task.kind == "segmentation" else draw_detections
    picture = draw(data.test, predictions, data.classes)
    return {"": evidence}, asdict(cost), picture


def mean_and_std(values: list[float]) -> tuple[float, float | None]:
    """Mean, and the standard deviation of the sample, None of a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None
