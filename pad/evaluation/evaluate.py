"""The commands ``msip evaluate`` and ``msip compare`` as functions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msip.errors import EvaluationError
from pad.evaluation.comparison.file import EACH, Comparison, of_seed
from pad.evaluation.comparison.run import Comparing
from pad.evaluation.comparison.tables import Report, run_and_report
from pad.evaluation.tasks.registry import task_class


def evaluate(
    weights: str,
    task: str,
    data: str | Path,
    *,
    mode: Sequence[str] = (),
    seeds: int = 3,
    label_fraction: float = 1.0,
    out: str | Path = "evaluation",
    device: str = "auto",
    **options: Any,
) -> Report:
    """Evaluate weights on a labelled set, over seeds: a comparison of modes, kept in a folder of its own.

    What is there is not computed again; modes that an earlier call finished there are in the report, too.

    Args:
        weights: what ``load_encoder`` reads, or ``random:NAME``; ``{seed}`` in it stands for each seed.
        task: a name of ``pad.evaluation.tasks.registry.tasks``: segmentation, detection, probe.
        data: the set's folder; its layout is recognised.
        mode: what trains beside the head (full, adapter, frozen, lora); differences are to the first one. The task's
            first possible one if none is given.
        seeds: of the head, batches and crops: 0, 1, ...
        label_fraction: share of the training images, drawn by each seed.
        out: the results lie in ``out``/<weights>-<hash>/<task>-<data>-<hash>, the hashes of where weights and data lie.
        device: auto, cpu or cuda.
        options: the task's own, such as ``image_size`` or ``steps``.

    Raises:
        MsipError: the data, the weights or the options do not fit.
    """
    possible, data = task_class(task).modes, Path(data)
    chosen = tuple(mode) or possible[:1]
    if odd := [name for name in chosen if name not in possible]:
        raise EvaluationError(f"`task={task}` takes `mode` {', '.join(possible)}, not {odd[0]}; choose one of them.")
    values = {
        "seeds": tuple(range(seeds)),
        "baseline": chosen[0],
        "contestants": {name: {"weights": weights, "mode": name} for name in possible},
        "tasks": {data.resolve().name: {"task": task, "data": data, "label_fraction": label_fraction, **options}},
    }
    folder = Path(out) / _folder(weights) / f"{task}-{_folder(str(data))}"
    return run_and_report(Comparing(Comparison.of(values), Path(), folder, device=device), contestants=chosen)


def compare(
    file: str | Path,
    *,
    out: str | Path | None = None,
    root: str | Path | None = None,
    runs: str | Path | None = None,
    task: Sequence[str] = (),
    contestant: Sequence[str] = (),
    seed: Sequence[int] = (),
    device: str = "auto",
) -> Report:
    """Compare contestants on tasks over seeds; what is missing is run, pre-training included, what is there is kept.

    Args:
        file: YAML, see ``pad.evaluation.comparison.file``.
        out: folder of the results; beside the file, under its name without the ending, if None.
        root: what relative data paths are relative to; the file's folder if None.
        runs: where pre-trainings go; ``out``/runs if None.
        task, contestant, seed: run only these; all if empty.
        device: auto, cpu or cuda.

    Raises:
        MsipError: the file, its data, weights or options do not fit, or a pre-training was stopped.
    """
    file = Path(file)
    folder = file.with_suffix("") if out is None else Path(out)
    place = file.parent if root is None else Path(root)
    work = Comparing(Comparison.read(file), place, folder, runs=None if runs is None else Path(runs), device=device)
    return run_and_report(work, only=tuple(task), contestants=tuple(contestant), seeds=tuple(seed))


def _folder(source: str) -> str:
    """Return a folder's name for a path, however it is written, or for a name of timm."""
    path = Path(source)
    known = path.resolve() if Path(of_seed(source, 0)).exists() else path
    name = known.name.replace(":", "-").replace(EACH, "seed")
    return f"{name}-{hashlib.sha256(str(known).encode()).hexdigest()[:8]}"
