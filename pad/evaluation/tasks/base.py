"""The contract of a downstream task: a data set, its options, and how weights are trained and judged on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field

from pad.evaluation.sets.base import DetectionData, ProbeData, SegmentationData, TaskData
from pad.evaluation.tasks.encoder import MODES, Mode
from pad.evaluation.tasks.evidence import Evidence
from pad.evaluation.tasks.fitting import Cost, Recipe

Data: TypeAlias = "SegmentationData | DetectionData | ProbeData | TaskData[Any]"


class TaskOptions(BaseModel):
    """A task's own options: names, types, defaults, limits, and help as ``description``.

    ``msip evaluate`` offers each as an option, a comparison's file takes them beside the task; those that ``Recipe``
    has take their place in the task's recipe, which a cell's key holds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(224, description="Side of the input, in pixels.", ge=1)


class FittedOptions(TaskOptions):
    """Options of a task that trains a head on the encoder."""

    image_size: int = Field(512, description="Side of the input, in pixels.", ge=1)
    steps: int | None = Field(None, description="Training steps, in place of the epochs.", ge=1)
    batch_size: int = Field(8, description="Images of one step.", ge=1)
    lr: float = Field(1e-4, description="Peak learning rate.", gt=0)
    decoder_channels: int | None = Field(None, description="Width of the decoder.", ge=8)
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto (bf16 on a GPU), bf16, fp32.")


@dataclass(frozen=True)
class Contestant:
    """One entry of a comparison: the weights to evaluate, and how they are fine-tuned.

    Attributes:
        name: of the entry.
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
class Outcome:
    """What a task found: evidence by probe (``knn``, ``linear``) or under the empty name, cost, predictions drawn."""

    evidence: dict[str, Evidence]
    cost: Cost
    picture: bytes | None = None


@dataclass(frozen=True)
class Task(ABC):
    """A labelled set, and how weights are trained and judged on it.

    Attributes:
        name: in results.
        data: the set's folder.
        options: of the class ``Options``.
        label_fraction: share of the training images, drawn by each seed.

    Class attributes: ``kind``, its name on the command line; ``version``, raised when the same cell would get other
    scores; ``Options``; ``upstream``, the recipe behind the options; ``modes``, what may train; ``evidence``, the
    classes of evidence that its cells hold; ``draws``, whether ``run`` returns a picture.
    """

    name: str
    data: Path
    options: TaskOptions
    label_fraction: float = 1.0

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    Options: ClassVar[type[TaskOptions]] = TaskOptions
    upstream: ClassVar[Recipe]
    modes: ClassVar[tuple[Mode, ...]] = MODES
    evidence: ClassVar[tuple[type[Evidence], ...]]
    draws: ClassVar[bool] = True

    @classmethod
    def of(cls, name: str, data: Path, *, label_fraction: float = 1.0, **options: Any) -> Self:
        """Make a task of its options. Raises pydantic's ``ValidationError``."""
        return cls(name, data, cls.checked(options), label_fraction)

    @classmethod
    def checked(cls, options: dict[str, Any]) -> TaskOptions:
        """Return options by name as ``Options``; ``None`` is the default. Raises pydantic's ``ValidationError``."""
        return cls.Options(**{name: value for name, value in options.items() if value is not None})

    def recipe(self, contestant: Contestant) -> Recipe:
        """Return how a contestant is trained on it."""
        known = {field.name for field in fields(Recipe)}
        given = {name: value for name, value in self.options.model_dump().items() if name in known}
        return replace(self.upstream, **given | ({} if contestant.lr is None else {"lr": contestant.lr}))

    @abstractmethod
    def read(self) -> Data:
        """Return the set, decoded. Raises ``EvaluationError``."""

    @abstractmethod
    def run(
        self,
        data: Any,
        train: Sequence[Any],
        contestant: Contestant,
        *,
        seed: int,
        device: torch.device,
        threads: int,
        label: str,
    ) -> Outcome:
        """Train on ``train``, a share of the set's training images, and judge the test images.

        Raises ``EvaluationError`` for options that the weights cannot have, ``RunError`` where training fails.
        """
