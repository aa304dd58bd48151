"""``msip compare``: contestants x tasks x seeds from one YAML file; what is there is kept, what is missing is run.

OUT/
  runs/<run>/                               pre-trainings, see pad.pretrain
  cells/<contestant>/<task>/seed-<n>.json   see pad.evaluation.cells; seed-0.jpg: predictions drawn
  results.md, results.csv, results.png      over the cells that are there
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from msip.errors import EvaluationError, RunError
from msip.files import make_output_folder
from pad.checkpoints import newest_checkpoint
from pad.config import PretrainConfig, read_options
from pad.evaluation.cells import Cell, Contestant, Data, Task, TaskKind, run_cell
from pad.evaluation.encoder import RANDOM, Mode
from pad.evaluation.leaks import Leaks, find_leaks
from pad.pretrain import pretrain, tell
from pad.processes import Ranks, pick_device

RUN = "run:"
"""``run:NAME`` in place of weights: a pre-training of the same file."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContestantEntry(_Strict):
    """A contestant in the file: ``weights`` as on the command line, or ``run:NAME``."""

    weights: str
    mode: Mode = "full"
    lr: float | None = None


class TaskEntry(_Strict):
    """A task in the file; ``seeds`` where it has fewer than the others."""

    task: TaskKind
    data: Path
    image_size: int | None = None
    steps: int | None = None
    batch_size: int | None = None
    lr: float | None = None
    label_fraction: float = 1.0
    seeds: tuple[int, ...] | None = None


class Comparison(_Strict):
    """The file. ``pretrain``: options that all ``runs`` share; ``baseline``: whom the others are compared with."""

    seeds: tuple[int, ...] = (0, 1, 2)
    baseline: str
    pretrain: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {}
    contestants: dict[str, ContestantEntry]
    tasks: dict[str, TaskEntry]

    @classmethod
    def read(cls, file: Path) -> Comparison:
        """Raises ``EvaluationError`` for a file that is not one, or names what it does not have."""
        try:
            made = cls(**read_options(file))
        except RunError as error:
            raise EvaluationError(str(error)) from error
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise EvaluationError(f"{file}: {where or 'the file'}: {problem['msg'].lower()}; correct it.") from None
        if made.baseline not in made.contestants:
            raise EvaluationError(f"{file}: the baseline {made.baseline!r} is no contestant; choose one of them.")
        known: set[str] = set()
        for name, options in made.runs.items():
            made._check_run(file, str(options.get("init", "")), known, f"run {name}")
            known.add(name)
        for name, entry in made.contestants.items():
            made._check_run(file, entry.weights, known, f"contestant {name}")
        return made

    @staticmethod
    def _check_run(file: Path, weights: str, known: set[str], who: str) -> None:
        if weights.startswith(RUN) and weights.removeprefix(RUN) not in known:
            raise EvaluationError(f"{file}: {who} takes {weights}, and no such run stands before it under runs.")


Say = Callable[[str], None]
Results = dict[str, dict[str, list[Cell]]]
"""Task, contestant, cells by seed."""


class Comparing:
    """A comparison at work.

    Args:
        comparison: what is compared.
        root: what relative data paths are relative to.
        out: the results' folder.
        device: auto, cpu or cuda.
        say: one line of progress.
    """

    def __init__(self, comparison: Comparison, root: Path, out: Path, *, device: str = "auto", say: Say = tell) -> None:
        self.file, self.root, self.out, self.say = comparison, root, make_output_folder(out), say
        self.asked_device = device
        self.device = pick_device(device, Ranks())  # type: ignore[arg-type]
        self.leaks: dict[str, Leaks] = {}
        self.notes: dict[str, tuple[str, ...]] = {}

    def run(
        self, *, only: tuple[str, ...] = (), finished: Callable[[Results], object] = lambda results: None
    ) -> Results:
        """Run all that is missing, task by task; ``finished`` is called after each task with what there is.

        Args:
            only: tasks, by name; all if empty.
            finished: e.g. writes the report.

        Raises:
            MsipError: data, weights or options do not fit.
            RunError: a pre-training was stopped by a signal; running again continues it.
        """
        results: Results = {}
        for name, entry in self.file.tasks.items():
            if only and name not in only:
                continue
            data = Task(name, entry.task, self.root / entry.data).read()
            self._look(name, data)
            results[name] = {contestant: self._cells(contestant, name, data) for contestant in self.file.contestants}
            finished(results)
        return results

    def _look(self, name: str, data: Data) -> None:
        """Near-duplicates between train and test, before anything is trained."""
        named = [[(item.name, item.image) for item in items] for items in (data.train, data.test)]
        self.leaks[name], self.notes[name] = find_leaks(named[0], named[1]), data.notes
        found = self.leaks[name]
        self.say(f"{name}: {found.leaked} of {found.test_images} test images have a near-duplicate in training.")

    def _cells(self, contestant: str, name: str, data: Data) -> list[Cell]:
        task, entry = self.task(name), self.file.contestants[contestant]
        mode: Mode = "frozen" if task.kind == "probe" else entry.mode
        weights = self._weights(entry.weights)
        who = Contestant(contestant, weights, mode, entry.lr)
        seeds = self.file.tasks[name].seeds or self.file.seeds
        cells = []
        for seed in seeds:
            path = self.out / "cells" / contestant / name / f"seed-{seed}.json"
            cells.append(run_cell(who, task, data, seed, path, device=self.device, say=self.say))
        return cells

    def task(self, name: str) -> Task:
        """A task of the file."""
        entry = self.file.tasks[name]
        values = {k: getattr(entry, k) for k in ("image_size", "steps", "batch_size", "lr", "label_fraction")}
        return Task(name, entry.task, self.root / entry.data, **values)

    def _weights(self, weights: str) -> str:
        """A path or name that can be loaded; a run that is missing is pre-trained first."""
        if weights.startswith(RUN):
            return str(self._pretrained(weights.removeprefix(RUN)))
        if weights.startswith((RANDOM, "timm:")):
            return weights
        return str(self.root / weights)

    def _pretrained(self, name: str) -> Path:
        run = self.out / "runs" / name
        options = {**self.file.pretrain, **self.file.runs[name]}
        options["data"] = str(self.root / options["data"])
        if str(options.get("init", "")).startswith(RUN):
            options["init"] = str(_with_head(self._pretrained(options["init"].removeprefix(RUN))))
        result = pretrain(PretrainConfig(**options, out=run, resume="auto", device=self.asked_device), say=self.say)
        if result.status == "stopped":
            raise RunError(f"the pre-training {name} was stopped; run the same command again to continue it.")
        return run


def _with_head(run: Path) -> Path:
    """Where a run's encoder lies together with its decoder, so that the next pre-training starts with both."""
    checkpoint, _ = newest_checkpoint(run)
    return run if checkpoint is None else checkpoint.path
