"""One set of weights on one task, in one or several modes: a comparison of these modes, kept in a folder of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from msip.errors import EvaluationError
from pad.evaluation.comparison.cells import OF_RECIPE, Task
from pad.evaluation.comparison.file import EACH, Comparison, of_seed
from pad.evaluation.comparison.run import Comparing
from pad.evaluation.comparison.tables import Line, run_and_report
from pad.evaluation.tasks.encoder import MODES, Mode


def evaluate(
    weights: str, task: Task, modes: tuple[Mode, ...], seeds: int, out: Path, *, device: str = "auto"
) -> tuple[Comparing, list[Line]]:
    """Run what is missing of the modes' seeds 0, 1, ...; the differences are to the first of ``modes``.

    The results lie in ``out``/<weights>-<hash>/<task>-<data>-<hash>, the hashes of where weights and data lie; see
    ``pad.evaluation.comparison``. Modes that an earlier call finished there are in the report, too. ``{seed}`` in
    ``weights`` stands for each seed: a spread over pre-trainings.

    Raises:
        MsipError: the data, the weights or the options do not fit.
    """
    possible: tuple[Mode, ...] = ("frozen",) if task.kind == "probe" else MODES
    odd = [mode for mode in modes if mode not in possible]
    if odd:
        raise EvaluationError(f"a probe takes frozen features; the mode is {odd[0]}, give --mode frozen.")
    entry = {k: getattr(task, k) for k in ("data", *OF_RECIPE, "label_fraction")}
    values = {
        "seeds": tuple(range(seeds)),
        "baseline": modes[0],
        "contestants": {mode: {"weights": weights, "mode": mode} for mode in possible},
        "tasks": {task.name: {"task": task.kind, **entry}},
    }
    folder = out / _folder(weights) / f"{task.kind}-{_folder(str(task.data))}"
    work = Comparing(Comparison.of(values), Path(), folder, device=device)
    return work, run_and_report(work, contestants=modes)


def _folder(source: str) -> str:
    """A folder's name for a path, however it is written, or for a name of timm."""
    path = Path(source)
    known = path.resolve() if Path(of_seed(source, 0)).exists() else path
    name = known.name.replace(":", "-").replace(EACH, "seed")
    return f"{name}-{hashlib.sha256(str(known).encode()).hexdigest()[:8]}"
