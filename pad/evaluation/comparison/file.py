"""The file of ``msip compare``: who is compared on what, after which pre-trainings, over which seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from msip.errors import EvaluationError, RunError
from pad.config.options import read_options
from pad.evaluation.tasks.encoder import Mode
from pad.evaluation.tasks.registry import task_class

RUN = "run:"
"""``run:NAME`` in place of weights: a pre-training of the same file."""
EACH = "{seed}"
"""In the name of a run, or in weights: one for each seed."""
Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[tuple[Seed, ...], Field(min_length=1)]


def of_seed(name: str, seed: int) -> str:
    """What ``{seed}`` in a name stands for."""
    return name.replace(EACH, str(seed))


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ContestantEntry(_Strict):
    """A contestant in the file: ``weights`` as on the command line, or ``run:NAME``."""

    weights: str
    mode: Mode = "full"
    lr: float | None = Field(None, gt=0)


class TaskEntry(_Strict):
    """A task in the file, its own options beside the others; ``seeds`` where it has others than the file."""

    task: str
    data: Path
    label_fraction: float = Field(1.0, gt=0, le=1)
    seeds: Seeds | None = None
    options: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _gather_options(cls, values: Any) -> Any:
        """Put the names that are none of the entry's own under ``options``, which the task checks."""
        if not isinstance(values, dict):
            return values
        own = {name: value for name, value in values.items() if name not in cls.model_fields}
        return {n: v for n, v in values.items() if n not in own} | {"options": {**values.get("options", {}), **own}}


class Comparison(_Strict):
    """The file. ``pretrain``: options that all ``runs`` share; ``baseline``: whom the others are compared with.

    A run whose name holds ``{seed}`` is a pre-training for each seed, with that seed.
    """

    seeds: Seeds = (0, 1, 2)
    baseline: str
    pretrain: dict[str, Any] = {}
    runs: dict[str, dict[str, Any]] = {}
    contestants: dict[str, ContestantEntry]
    tasks: dict[str, TaskEntry] = Field(min_length=1)

    @classmethod
    def read(cls, file: Path) -> Comparison:
        """Raises ``EvaluationError`` for a file that is not one, or names what it does not have."""
        try:
            values = read_options(file)
        except RunError as error:
            raise EvaluationError(str(error)) from error
        return cls.of(values, f"{file}: ")

    @classmethod
    def of(cls, values: dict[str, Any], where: str | None = None) -> Comparison:
        """From what a file holds, or, without ``where``, the command line's options; ``where`` begins every message.

        Raises ``EvaluationError``.
        """
        try:
            made = cls(**values)
        except ValidationError as error:
            raise _explained(error, where) from None
        for name, task in made.tasks.items():
            try:
                task_class(task.task).checked(task.options)
            except ValidationError as error:
                raise _explained(error, where, ("tasks", name)) from None
            except EvaluationError as error:
                raise EvaluationError(f"{where}tasks.{name}.task: {error}" if where else str(error)) from None
        where = where or ""
        if made.baseline not in made.contestants:
            raise EvaluationError(f"{where}the baseline {made.baseline!r} is no contestant; choose one of them.")
        known: set[str] = set()
        for name, options in made.runs.items():
            init = str(options.get("init", ""))
            made._check_run(where, init, known, f"run {name}")
            if EACH in name and "seed" in options:
                raise EvaluationError(f"{where}run {name} has a seed of its own beside {EACH}; leave one of them out.")
            if EACH in init and EACH not in name:
                raise EvaluationError(f"{where}run {name} begins with one of {init}; put {EACH} into its name, too.")
            if twice := known & set(made.names(name)):
                raise EvaluationError(f"{where}there are two runs {min(twice)}; give one of them another name.")
            known |= {name, *made.names(name)}
            if not {**made.pretrain, **options}.get("data"):
                raise EvaluationError(f"{where}run {name} has no data; give it there, or under pretrain for all runs.")
        for name, entry in made.contestants.items():
            made._check_run(where, entry.weights, known, f"contestant {name}")
        return made

    def names(self, run: str) -> dict[str, int | None]:
        """The pre-trainings that a run of the file stands for, and the seed of each where it stands for several."""
        seeds = {*self.seeds, *(seed for task in self.tasks.values() for seed in task.seeds or ())}
        return {of_seed(run, seed): seed for seed in sorted(seeds)} if EACH in run else {run: None}

    def pretrainings(self) -> dict[str, dict[str, Any]]:
        """Every pre-training's options, by its name."""
        found = {}
        for run, options in self.runs.items():
            for name, seed in self.names(run).items():
                found[name] = {**self.pretrain, **options}
                if seed is not None:
                    found[name] |= {k: of_seed(v, seed) for k, v in options.items() if isinstance(v, str)}
                    found[name]["seed"] = seed
        return found

    @staticmethod
    def _check_run(where: str, weights: str, known: set[str], who: str) -> None:
        if weights.startswith(RUN) and weights.removeprefix(RUN) not in known:
            raise EvaluationError(f"{where}{who} takes {weights}, and no such run stands before it under runs.")


def _explained(error: ValidationError, where: str | None, below: tuple[str, ...] = ()) -> EvaluationError:
    """Return pydantic's first problem as one sentence: by its place in a file, or, without ``where``, by its option."""
    problem = error.errors()[0]
    place = [*below, *map(str, problem["loc"])]
    name = ".".join(place) if where else f"`{place[-1]}`" if place else ""
    if problem["type"] == "extra_forbidden":
        return EvaluationError(f"{where or ''}{name} is no option here; leave it out.")
    given = "" if problem["type"] == "missing" else f" (given: {problem['input']!r:.60})"
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return EvaluationError(f"{where or ''}{name or 'the file'}: {message}{given}; correct it.")
