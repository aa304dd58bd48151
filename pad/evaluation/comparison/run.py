"""``msip compare``: contestants x tasks x seeds from one YAML file; what is there is kept, what is missing is run.

OUT/
  runs/<run>/                               pre-trainings (elsewhere with --runs); origin.txt: of
                                            their options, and those of the runs before them
  cells/<contestant>/<task>/seed-<n>.json   see .cells; beside the first seed's: predictions drawn
  tasks/<task>.json                         near-duplicates between its train and test, what its reader decided
  results.md, results.csv, results.png      over the cells that are there
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from msip.errors import EvaluationError, RunError
from msip.files import make_output_folder, write_bytes, write_json
from pad.config.pretraining import RESULT, PretrainConfig
from pad.data.index import open_data
from pad.encoders.create import check_name
from pad.encoders.stored import run_state
from pad.evaluation.comparison.cells import Cell, asked_key, read_cell, run_cell
from pad.evaluation.comparison.file import RUN, Comparison, of_seed
from pad.evaluation.comparison.leaks import Leaks, find_leaks
from pad.evaluation.tasks.base import Contestant, Data, Task
from pad.evaluation.tasks.encoder import RANDOM, check_weights
from pad.evaluation.tasks.registry import make_task, task_class
from pad.machine import pick_device
from pad.training.pretrain import complete, pretrain
from pad.weights.checkpoints import newest_checkpoint

_log = logging.getLogger(__name__)

ORIGIN = "origin.txt"
Results = dict[str, dict[str, list[Cell]]]
"""Task, contestant, cells by seed."""


class Comparing:
    """A comparison at work.

    Args:
        comparison: what is compared.
        root: what relative paths are relative to: of data, weights, and files that a pre-training starts from.
        out: the results' folder.
        runs: where pre-trainings go; ``out``/runs if None.
        device: auto, cpu or cuda.
    """

    def __init__(
        self,
        comparison: Comparison,
        root: Path,
        out: Path,
        *,
        runs: Path | None = None,
        device: str = "auto",
    ) -> None:
        self.file, self.root, self.out = comparison, root, out
        self.runs = runs or out / "runs"
        self._pretrainings = comparison.pretrainings()
        self._pretrained: set[str] = set()
        self._failed: list[str] = []
        self.warnings: dict[str, None] = {}
        self.asked_device = device
        self.device = pick_device(device)
        self.leaks: dict[str, Leaks] = {}
        self.notes: dict[str, tuple[str, ...]] = {}

    def run(
        self,
        *,
        only: tuple[str, ...] = (),
        contestants: tuple[str, ...] = (),
        seeds: tuple[int, ...] = (),
        finished: Callable[[Results], object] = lambda results: None,
    ) -> Results:
        """Run what is missing, task by task; ``finished`` is called after each task with all that is there.

        Args:
            only: tasks, by name; all if empty. What is there of the others is in the results, too.
            contestants: likewise.
            seeds: likewise; a task without one of them runs none.
            finished: e.g. writes the report.

        Raises:
            MsipError: names, data, weights or options do not fit.
            RunError: a pre-training was stopped by a signal, and running again continues it; or, after everything else
                has run, cells could not be computed.
        """
        _check_names("task", only, self.file.tasks)
        _check_names("contestant", contestants, self.file.contestants)
        _check_names("seed", seeds, {seed for name in self.file.tasks for seed in self._seeds(name)})
        self._failed = []
        self._check(only or tuple(self.file.tasks), contestants or tuple(self.file.contestants))
        make_output_folder(self.out)
        results = {name: self._there(name) for name in self.file.tasks}
        for name in self.file.tasks:
            if not only or name in only:
                results[name] = self._run(name, contestants or tuple(self.file.contestants), seeds or self._seeds(name))
                finished({task: found for task, found in results.items() if found})
        if self._failed:
            raise RunError(
                f"{len(self._failed)} cells could not be computed, the others are in {self.out}; {self._failed[0]}"
            )
        return {task: found for task, found in results.items() if found}

    def _check(self, tasks: tuple[str, ...], contestants: tuple[str, ...]) -> None:
        """Refuse what can be known to fail before anything is computed: names, options, missing files."""
        for name in tasks:
            if not self.task(name).data.is_dir():
                raise EvaluationError(f"{self.task(name).data}, the data of {name}, is no folder; correct its path.")
        for name in contestants:
            cells = [(seed, path) for task in tasks for seed, path in self._paths(name, task).items()]
            for weights in dict.fromkeys(self._weights(name, seed) for seed, _ in cells):
                if not weights.startswith((RUN, RANDOM, "timm:")) and Path(self._place(weights)).exists():
                    self.warnings |= dict.fromkeys(run_state(self._place(weights)))
            for weights in dict.fromkeys(self._weights(name, seed) for seed, path in cells if not path.is_file()):
                if weights.startswith(RUN):
                    self._check_pretraining(weights.removeprefix(RUN))
                else:
                    check_weights(self._place(weights))
        for text in self.warnings:
            _log.warning(text)

    def _check_pretraining(self, run: str) -> None:
        if (self.runs / run / RESULT).is_file():
            return
        options = self._placed(self._pretrainings[run])
        start = str(options.get("init", ""))
        if start.startswith(RUN):
            options.pop("init")
            self._check_pretraining(start.removeprefix(RUN))
        config = complete(PretrainConfig(**options, out=self.runs / run))
        check_name(config.model)
        open_data(config.data)

    def _seeds(self, name: str) -> tuple[int, ...]:
        return self.file.tasks[name].seeds or self.file.seeds

    def _run(self, name: str, contestants: tuple[str, ...], seeds: tuple[int, ...]) -> dict[str, list[Cell]]:
        data = self.task(name).read()
        self._look(name, data)
        found = {
            contestant: self._cells(contestant, name, data, seeds if contestant in contestants else ())
            for contestant in self.file.contestants
        }
        return {contestant: cells for contestant, cells in found.items() if cells}

    def _there(self, name: str) -> dict[str, list[Cell]]:
        """What is there of a task, checked as far as that can be done without its data."""
        file = self._look_file(name)
        if not file.is_file():
            return {}
        look = json.loads(file.read_text())
        self.leaks[name], self.notes[name] = Leaks.from_json(look), tuple(look["notes"])
        found = {}
        for contestant in self.file.contestants:
            paths = {seed: path for seed, path in self._paths(contestant, name).items() if path.is_file()}
            if paths:
                task, of_data = self.task(name), {"data_sha256": look.get("data_sha256")}
                keys = {seed: {**asked_key(self._who(contestant, name, seed), task, seed), **of_data} for seed in paths}
                cells = [read_cell(path, keys[seed]) for seed, path in paths.items()]
                found[contestant] = [cell for cell in cells if cell]
        return found

    def _look_file(self, name: str) -> Path:
        return self.out / "tasks" / f"{name}.json"

    def _look(self, name: str, data: Data) -> None:
        """Near-duplicates between train and test, before anything is trained."""
        named = [[(item.name, item.image) for item in items] for items in (data.train, data.test)]
        found = self.leaks[name] = find_leaks(named[0], named[1])
        self.notes[name] = data.notes
        write_json(self._look_file(name), {**asdict(found), "notes": list(data.notes), "data_sha256": data.sha256})
        for note in data.notes:
            _log.info(f"{name}: {note}.")
        _log.info(f"{name}: {found.leaked} of {found.test_images} test images have a near-duplicate in training.")

    def _paths(self, contestant: str, name: str) -> dict[int, Path]:
        """The files of a contestant's cells, by seed."""
        folder = self.out / "cells" / contestant / name
        return {seed: folder / f"seed-{seed}.json" for seed in self._seeds(name)}

    def _weights(self, contestant: str, seed: int) -> str:
        return of_seed(self.file.contestants[contestant].weights, seed)

    def _who(self, contestant: str, name: str, seed: int) -> Contestant:
        entry, weights = self.file.contestants[contestant], self._weights(contestant, seed)
        possible = task_class(self.file.tasks[name].task).modes
        mode = entry.mode if entry.mode in possible else possible[0]
        return Contestant(contestant, self._place(weights), mode, entry.lr, self._origin(weights))

    def _cells(self, contestant: str, name: str, data: Data, seeds: tuple[int, ...]) -> list[Cell]:
        """Cells of one contestant and task: of ``seeds``, and what is there of the others.

        A pre-training runs only if a cell of it is missing.
        """
        paths = {s: path for s, path in self._paths(contestant, name).items() if s in seeds or path.is_file()}
        task, first = self.task(name), self._seeds(name)[0]
        cells = []
        for seed, path in paths.items():
            if not path.is_file():
                self._pretrain(self._weights(contestant, seed))
            who = self._who(contestant, name, seed)
            try:
                cell = run_cell(who, task, data, seed, path, device=self.device, draw=seed == first)
            except RunError as error:  # e.g. a loss that is no number: the other cells are worth having
                _log.error(str(error))
                self._failed.append(str(error))
            else:
                cells.append(cell)
        return cells

    def task(self, name: str) -> Task:
        """A task of the file."""
        entry = self.file.tasks[name]
        folder, options = self.root / entry.data, entry.options
        return make_task(entry.task, name, folder, label_fraction=entry.label_fraction, **options)

    def _place(self, weights: str) -> str:
        """A path or name that can be loaded."""
        if weights.startswith(RUN):
            return str(self.runs / weights.removeprefix(RUN))
        return weights if weights.startswith((RANDOM, "timm:")) else str(self.root / weights)

    def _placed(self, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a pre-training whose paths can be opened: relative ones are relative to the root."""
        named = {name: str(options[name]) for name in ("init", "teacher") if options.get(name)}
        found = {name: str(self.root / value) for name, value in named.items() if (self.root / value).exists()}
        return {**options, "data": str(self.root / options["data"]), **found}

    def _origin(self, weights: str) -> tuple[str, str] | None:
        """Of a run: its name, and a hash of its options and those of the runs it starts from."""
        if not weights.startswith(RUN):
            return None
        options = self._pretrainings[weights.removeprefix(RUN)]
        before = self._origin(str(options.get("init", "")))
        text = json.dumps([options, before and before[1]], sort_keys=True, default=str)
        return weights, hashlib.sha256(text.encode()).hexdigest()

    def _pretrain(self, weights: str) -> None:
        """Run, or continue, the pre-training that ``weights`` names, and the one it starts from."""
        name = weights.removeprefix(RUN)
        if not weights.startswith(RUN) or name in self._pretrained:
            return
        folder, origin = self.runs / name, self._origin(weights)
        assert origin is not None  # it is a run
        if (folder / ORIGIN).is_file() and (folder / ORIGIN).read_text().strip() != origin[1]:
            raise EvaluationError(
                f"{folder} was pre-trained with other options, or from another start, than {weights} has now; move it "
                "away to pre-train anew, or give other --runs."
            )
        options = self._placed(self._pretrainings[name])
        if (folder / RESULT).is_file():
            options.pop("init", None)  # what a finished run started from need not be there any more
        elif str(options.get("init", "")).startswith(RUN):
            self._pretrain(options["init"])
            options["init"] = str(_with_head(Path(self._place(options["init"]))))
        result = pretrain(PretrainConfig(**options, out=folder, resume="auto", device=self.asked_device))
        write_bytes(folder / ORIGIN, f"{origin[1]}\n".encode())
        if result.status == "stopped":
            raise RunError(f"the pre-training {name} was stopped; run the same command again to continue it.")
        self._pretrained.add(name)


def _check_names(what: str, given: Iterable[str | int], known: Collection[str | int]) -> None:
    odd = [name for name in given if name not in known]
    if odd:
        raise EvaluationError(f"there is no {what} {odd[0]!r}; choose of {', '.join(map(str, known))}.")


def _with_head(run: Path) -> Path:
    """Where a run's encoder lies together with its decoder, so that the next pre-training starts with both."""
    checkpoint, _ = newest_checkpoint(run)
    return run if checkpoint is None else checkpoint.path
