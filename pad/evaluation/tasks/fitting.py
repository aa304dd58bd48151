"""The supervised loop that every contestant goes through: the same batches, steps and schedule for a given seed."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from msip.crops import sample_key, sample_rng
from msip.errors import RunError
from pad.config.pretraining import Precision
from pad.data.loader import epoch_order
from pad.evaluation.sets.base import DetectionItem, SegmentationItem
from pad.evaluation.tasks.encoder import TaskModel, parameter_groups
from pad.machine import seed_step, uses_bf16

CHECK_EVERY = 50
"""Steps between looks at the loss: each look makes a GPU wait."""
QUIET_S = 30.0
"""Seconds between lines of progress where there is no terminal; shorter runs are silent there."""
AHEAD = 3
"""Batches drawn ahead of the one that trains."""


@dataclass(frozen=True)
class Recipe:
    """How a task is trained.

    Attributes:
        image_size: side of the square input, in pixels.
        epochs: passes over the training images; ``steps`` in their place, if given.
        batch_size: images of one step.
        lr: peak learning rate of the head; the encoder's falls by ``layer_decay`` per block.
        warmup_steps: of a linear warm-up, at most a tenth of the run.
        schedule: ``poly``: linearly to 0; ``step``: a tenth after 8 and again after 11 twelfths.
        precision: of forward passes, see ``pad.machine.uses_bf16``.
        decoder_channels: width of UPerNet, the encoder's if None, or of the detector's pyramid, 256 if None.
    """

    image_size: int
    batch_size: int
    epochs: int
    lr: float
    weight_decay: float
    layer_decay: float
    drop_path: float
    warmup_steps: int
    schedule: Literal["poly", "step"]
    steps: int | None = None
    precision: Precision = "auto"
    decoder_channels: int | None = None

    def steps_for(self, images: int) -> int:
        """Optimizer steps of a run over ``images``."""
        return self.steps or max(1, round(self.epochs * images / self.batch_size))

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context of forward passes, in training and in prediction."""
        return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(self.precision, device))

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of a step, from 0."""
        warmup = min(self.warmup_steps, steps // 10)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        if self.schedule == "poly":
            return self.lr * (1 - step / steps)
        return self.lr * 0.1 ** sum(step >= steps * part / 12 for part in (8, 11))


Batch = Any
Draw = Callable[[Any, np.random.Generator], Any]


def batches(
    items: Sequence[SegmentationItem] | Sequence[DetectionItem],
    draw: Draw,
    collate: Callable[[list[Any]], Batch],
    *,
    batch_size: int,
    steps: int,
    seed: int,
    threads: int,
) -> Iterator[Batch]:
    """Collated batches, drawn ahead by threads; each sample is a function of (seed, epoch, its name) alone."""
    keys = [sample_key(item.name) for item in items]

    def sample(position: int) -> Any:
        epoch, place = divmod(position, len(items))
        index = int(orders[epoch][place])
        return draw(items[index], sample_rng(seed, epoch, keys[index]))

    orders: dict[int, Any] = {}
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[list[Future[Any]]] = deque()
        for step in range(steps):
            positions = range(step * batch_size, (step + 1) * batch_size)
            for epoch in {position // len(items) for position in positions} - orders.keys():
                orders[epoch] = epoch_order(len(items), seed, epoch)
            waiting.append([pool.submit(sample, position) for position in positions])
            if len(waiting) > AHEAD:
                yield collate([future.result() for future in waiting.popleft()])
        while waiting:
            yield collate([future.result() for future in waiting.popleft()])


@dataclass(frozen=True)
class Cost:
    """What training took: parameters that train, head included; seconds; seconds a step."""

    trained_parameters: int
    trained_encoder_parameters: int
    train_seconds: float


def fit(
    model: TaskModel,
    stream: Iterator[Batch],
    loss_of: Callable[[Batch], Tensor],
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    label: str,
) -> Cost:
    """Train ``model`` in place; ``loss_of`` moves a batch to the device and scores it.

    Raises ``RunError`` when the loss stops being finite.
    """
    device = next(model.parameters()).device
    groups = parameter_groups(model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=True)
    begin = time.perf_counter()
    model.train()
    bad = torch.zeros((), dtype=torch.bool, device=device)
    quiet = 0.0 if sys.stderr.isatty() else QUIET_S
    bar = tqdm(stream, total=steps, desc=label, unit="step", mininterval=quiet or 0.1, delay=quiet, leave=False)
    for step, batch in enumerate(bar):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(step, steps) * group["lr_scale"]
        seed_step(seed, step)
        with recipe.autocast(device):
            loss = loss_of(batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        bad |= ~loss.detach().isfinite()
        if ((step + 1) % CHECK_EVERY == 0 or step + 1 == steps) and bool(bad):
            raise RunError(f"{label}: the loss is no number by step {step + 1}; try a smaller --lr than {recipe.lr:g}.")
    trained = [(name, p.numel()) for name, p in model.named_parameters() if p.requires_grad]
    return Cost(
        trained_parameters=sum(n for _, n in trained),
        trained_encoder_parameters=sum(n for name, n in trained if name.startswith("encoder.")),
        train_seconds=round(time.perf_counter() - begin, 2),
    )
