"""A step whose loss or gradient is not finite: what makes it again, and the layer where that began."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import default_collate

from msip.errors import RunError
from pad.config.plan import Plan
from pad.config.pretraining import PretrainConfig
from pad.data.dataset import PretrainDataset
from pad.data.loader import epoch_order
from pad.training.parallel import SingleProcess
from pad.training.step import Step
from pad.weights.checkpoints import list_checkpoints

NON_FINITE = "non-finite.json"


@dataclass(frozen=True)
class StepFacts:
    """What, with the checkpoint before it, makes one step again; images, crops, masks and dropout follow from it.

    Attributes:
        step, epoch: from 0; ``steps``, ``steps_per_epoch``: of the run.
        seed: of the run.
        batch_size: images of one pass.
        image_ids: of the step, in order; passes of all processes one after another.
    """

    step: int
    epoch: int
    steps: int
    steps_per_epoch: int
    seed: int
    batch_size: int
    image_ids: list[str]

    @classmethod
    def of(cls, dataset: PretrainDataset, config: PretrainConfig, plan: Plan, step: int, world: int) -> StepFacts:
        """The facts of step ``step`` of a run on ``world`` processes."""
        epoch, place = divmod(step, plan.steps_per_epoch)
        first = place * plan.effective_batch
        rows = epoch_order(len(dataset), config.seed, epoch)[first : first + plan.effective_batch]
        ids = [dataset.index.image_id(int(row)) for row in rows]
        return cls(step, epoch, plan.steps, plan.steps_per_epoch, config.seed, plan.batch_size, ids)

    @classmethod
    def read(cls, run: Path) -> StepFacts:
        """From RUN/non-finite.json. Raises ``RunError`` where there is none."""
        try:
            return cls(**json.loads((run / NON_FINITE).read_text()))
        except FileNotFoundError:
            raise RunError(f"{run} holds no {NON_FINITE}: no step of it had to be called off.") from None
        except (OSError, ValueError, TypeError) as error:
            raise RunError(f"{run / NON_FINITE} cannot be read ({error}); run the training again.") from None

    def as_json(self) -> dict[str, Any]:
        """For RUN/non-finite.json."""
        return asdict(self)


@dataclass(frozen=True)
class Finding:
    """Where a step stops being finite.

    Attributes:
        kind: ``output`` of a module, ``loss``, ``gradient`` at the output of a module, gradient of a ``parameter``,
            ``norm`` of all gradients of the step, or ``nothing``.
        name: of the module or parameter; of a norm, the parameter with the largest gradient.
        number, passes: in which of the step's passes, from 1.
        image_ids: of that pass.
    """

    kind: str
    name: str = ""
    number: int = 0
    passes: int = 0
    image_ids: tuple[str, ...] = ()

    def sentence(self) -> str:
        """For the person who has to find the cause."""
        where = {
            "output": f"the output of {self.name} is the first that is not finite",
            "loss": "every layer's output is finite, the loss is not",
            "gradient": f"all outputs are finite; going back, the gradient that reaches the output of {self.name} is "
            "the first that is not, so what follows it overflows",
            "parameter": f"all outputs and their gradients are finite, the gradient of {self.name} is not",
            "norm": "all gradients are finite, but so large that their norm is not; the largest value is in that of "
            f"{self.name}",
            "nothing": "taken again, not compiled, all of it is finite: a fault of the device, or of a compiled kernel",
        }[self.kind]
        return f"{where} (pass {self.number} of {self.passes})." if self.number else f"{where}."


def advice(config: PretrainConfig, step: int, *, bf16: bool) -> str:
    """What may get a run past ``step``; from the state just before it, another learning rate changes nothing."""
    earlier = next((path for path in list_checkpoints(config.out) if path.name < f"step-{step:08d}"), None)
    how = f"with a lower `blr`, e.g. {config.blr / 2:g}, or with `clip_grad`"
    again = f"Continue from before with `resume={earlier}` and" if earlier else "Start a new run in another `out`"
    precise = "Give `resume=auto` `precision=fp32`. If that does not help: " if bf16 else ""
    return f"{precise}{again} {how}."


def find_non_finite(
    method: Any, optimizer: Optimizer, dataset: PretrainDataset, facts: StepFacts, *, device: torch.device, bf16: bool
) -> Finding:
    """Take a step again in this process, plainly; the weights stay as they are, gradients are dropped."""
    single = Step(SingleProcess(method, optimizer, device), seed=facts.seed, bf16=bf16)
    method.train()
    method.begin_step(facts.step / facts.steps_per_epoch, facts.steps / facts.steps_per_epoch)
    passes = list(_passes(dataset, facts))
    seen = facts.step * len(facts.image_ids)
    single.parallel.zero_grad()
    try:
        for number, rows in enumerate(passes, 1):
            kind, name = _watched_pass(single, dataset, facts.epoch, rows, seen, share=1 / len(passes))
            seen += len(rows)
            if kind:
                ids = tuple(dataset.index.image_id(row) for row in rows)
                return Finding(kind, name, number, len(passes), ids)
        if not single.parallel.grad_norm(single.parallel.gradients()).isfinite():
            return Finding("norm", _steepest(single.parallel.held))
    finally:
        single.parallel.zero_grad()
    return Finding("nothing")


def _steepest(held: dict[str, Tensor]) -> str:
    """The name of the parameter whose gradient has the largest value."""
    largest = {name: float(tensor.grad.abs().max()) for name, tensor in held.items() if tensor.grad is not None}
    return max(largest, key=largest.__getitem__)


def _passes(dataset: PretrainDataset, facts: StepFacts) -> Iterator[list[int]]:
    first = facts.step % facts.steps_per_epoch * len(facts.image_ids)
    rows = epoch_order(len(dataset), facts.seed, facts.epoch)[first : first + len(facts.image_ids)]
    for start in range(0, len(rows), facts.batch_size):
        yield [int(row) for row in rows[start : start + facts.batch_size]]


def _watched_pass(
    single: Step, dataset: PretrainDataset, epoch: int, rows: list[int], seen: int, *, share: float
) -> tuple[str, str]:
    """(kind, name) of what is not finite first in one pass, ("", "") if all is; its gradients are added."""
    outputs: list[str] = []
    gradients: list[str] = []
    with _watching(single.method, outputs, gradients):
        loss = single.backward(default_collate([dataset[epoch, row] for row in rows]), seen, share=share)
    if outputs:
        return "output", outputs[0]
    if not loss.isfinite():
        return "loss", ""
    if gradients:
        return "gradient", gradients[0]
    odd = (n for n, p in single.method.named_parameters() if p.grad is not None and not p.grad.isfinite().all())
    name = next(odd, "")
    return ("parameter", name) if name else ("", "")


@contextmanager
def _watching(method: nn.Module, outputs: list[str], gradients: list[str]) -> Iterator[None]:
    """Inside, modules whose output, and outputs whose gradient, is not finite are noted in the order they are made."""

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        del module, inputs
        for tensor in output if isinstance(output, tuple) else (output,):
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                continue
            if not tensor.isfinite().all():
                outputs.append(name)
            if tensor.requires_grad:
                tensor.register_hook(partial(look_back, name))

    def look_back(name: str, gradient: Tensor) -> None:
        if not gradient.isfinite().all():
            gradients.append(name)

    hooks = [module.register_forward_hook(partial(look, name)) for name, module in method.named_modules() if name]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
