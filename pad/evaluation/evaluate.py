"""One set of weights on one task, in one or several modes: a comparison of these modes, kept in a folder of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msip.errors import EvaluationError
from pad.evaluation.cells import OF_RECIPE, Task
from pad.evaluation.comparison import Comparing, Comparison, ContestantEntry, TaskEntry
from pad.evaluation.encoder import MODES, Mode
from pad.evaluation.report import Line, run_and_report
from pad.pretrain import tell


def evaluate(
    weights: str, task: Task, modes: tuple[Mode, ...], seeds: int, out: Path, *, device: str = "auto"
) -> tuple[Comparing, list[Line]]:
    """Run what is missing of the modes' seeds 0, 1, ...; the differences are to the first of ``modes``.

    The results lie in ``out``/<weights>-<hash of their name>/<task>, see ``pad.evaluation.comparison``; modes that an
    earlier call finished there are in the report, too.

    Raises:
        MsipError: the data, the weights or the options do not fit.
    """
    possible: tuple[Mode, ...] = ("frozen",) if task.kind == "probe" else MODES
    odd = [mode for mode in modes if mode not in possible]
    if odd:
        raise EvaluationError(f"a probe takes frozen features; the mode is {odd[0]}, give --mode frozen.")
    short = hashlib.sha256(weights.encode()).hexdigest()[:8]
    entry = {k: getattr(task, k) for k in ("data", *OF_RECIPE, "label_fraction")}
    file = Comparison(
        seeds=tuple(range(seeds)),
        baseline=modes[0],
        contestants={mode: ContestantEntry(weights=weights, mode=mode) for mode in possible},
        tasks={task.name: TaskEntry(task=task.kind, **entry)},
    )
    folder = out / f"{Path(weights).name.replace(':', '-')}-{short}" / task.name
    work = Comparing(file, Path(), folder, device=device, say=tell)
    return work, run_and_report(work, contestants=modes)
