"""The downstream tasks by name; other packages add theirs by entry points."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from msip.errors import EvaluationError
from msip.plugins import with_plugins
from pad.evaluation.tasks.base import Task
from pad.evaluation.tasks.detection import Detection
from pad.evaluation.tasks.evidence import Evidence
from pad.evaluation.tasks.probe import Probe
from pad.evaluation.tasks.segmentation import Segmentation

TASKS: dict[str, type[Task]] = {"segmentation": Segmentation, "detection": Detection, "probe": Probe}
"""The project's own tasks by the name of ``--task``."""
ENTRY_POINTS = "pad.tasks"


@cache
def tasks() -> dict[str, type[Task]]:
    """Return ``TASKS`` and those of installed packages, by name. Raises ``MsipError`` for a broken entry point."""
    return with_plugins(ENTRY_POINTS, TASKS, Task)


def task_class(kind: str) -> type[Task]:
    """Return the task of a name. Raises ``EvaluationError`` for one that is none."""
    if kind not in tasks():
        raise EvaluationError(f"the task is {kind!r}; choose one of {', '.join(tasks())}.")
    return tasks()[kind]


def make_task(kind: str, name: str, data: Path, *, label_fraction: float = 1.0, **options: Any) -> Task:
    """Make the task ``kind`` on the set in ``data``. Raises ``EvaluationError``."""
    return task_class(kind).of(name, data, label_fraction=label_fraction, **options)


def evidence_from_json(value: dict[str, Any]) -> Evidence:
    """Return what ``Evidence.to_json`` wrote. Raises ``KeyError`` for a kind of evidence that no task has."""
    kinds = {found.kind: found for task in tasks().values() for found in task.evidence}
    return kinds[value["kind"]].from_json(value)
