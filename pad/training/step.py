"""One optimizer step on the device: gradients of micro-batches, and the update. Nothing in it waits for the device."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from pad.adapters.attach import recorded_scales
from pad.config.plan import Plan
from pad.config.pretraining import PretrainConfig
from pad.data.grey import to_device
from pad.encoders.tokens import in_chans
from pad.machine import seed_step
from pad.training.parallel import SingleProcess


def lr_at(step: float, *, lr: float, warmup_steps: float, steps: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0): linear from 0 to ``lr``, then a half cosine to 0."""
    if step < warmup_steps:
        return lr * step / warmup_steps
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def make_optimizer(groups: list[dict[str, Any]], *, beta2: float = 0.95) -> AdamW:
    """AdamW, MAE's by default; fused: a fused step can be called off on the device (see ``Step.update``)."""
    return AdamW(groups, lr=0.0, betas=(0.9, beta2), fused=True)


def schedule(optimizer: AdamW, config: PretrainConfig, plan: Plan, step: int) -> None:
    """Set learning rate and weight decay of ``step`` (from 0)."""
    lr = lr_at(step, lr=plan.lr, warmup_steps=plan.warmup_steps, steps=plan.steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)
        if config.weight_decay_end is not None and group["weight_decay"]:
            first, last = config.weight_decay, config.weight_decay_end
            group["weight_decay"] = last + (first - last) * 0.5 * (1 + math.cos(math.pi * step / plan.steps))


class Step:
    """What the steps of a run do on the device.

    Args:
        parallel: the method and its optimizer, shared among the processes.
        seed: of the run.
        bf16: autocast to it.
        clip_grad: largest norm of the gradient.

    Attributes:
        loss_sum: of the optimizer steps since it was last set to zero, in float64: its rounding, and with it the
            moments at which processes bring theirs together, must not show in what is logged.
        grad_norm: of the last step, before clipping.
        bad: number of the first step whose loss or gradient was not finite, -1 if none; all three on the device.
    """

    def __init__(
        self, parallel: SingleProcess, *, seed: int = 0, bf16: bool = False, clip_grad: float | None = None
    ) -> None:
        self.parallel, self.seed, self.bf16, self.clip_grad = parallel, seed, bf16, clip_grad
        self.method, self.device = parallel.method, parallel.device
        self.in_chans = in_chans(self.method.encoder)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.grad_norm = torch.zeros((), device=self.device)
        self.bad = torch.tensor(-1, device=self.device)

    def backward(
        self, batch: dict[str, Any], images_seen: int, *, share: float = 1.0, last: bool = True, record: bool = False
    ) -> Tensor:
        """Add the gradients of one micro-batch; returns its share of the loss, on the device.

        Args:
            batch: of the loader.
            images_seen: before it, over the run and all processes: decides its dropout.
            share: of the step's loss.
            last: of the step's micro-batches.
            record: the scales of the adapters.
        """
        inputs = self.method.arguments(to_device(batch, self.device, self.in_chans))
        seed_step(self.seed, images_seen)
        with self.parallel.one_pass(last=last):
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
                recorded_scales(self.method.encoder) if record else nullcontext(),
            ):
                loss: Tensor = self.parallel.model(**inputs).loss * share
            # a loss that is not finite must give such gradients: these reach all processes, the loss does not
            loss.backward(gradient=torch.where(loss.detach().isfinite(), 1.0, torch.nan))
        return loss.detach()

    def update(self, loss: Tensor, number: int) -> None:
        """One AdamW step, called off on the device from the first non-finite loss or gradient on."""
        gradients = self.parallel.gradients()
        self.grad_norm = self.parallel.grad_norm(gradients)
        if self.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parallel.held.values(), self.clip_grad, self.grad_norm)
        fails = ~(loss.isfinite() & self.grad_norm.isfinite())
        self.bad = torch.where(fails & (self.bad < 0), number, self.bad)
        off = self.bad >= 0
        self.loss_sum += torch.where(off, 0.0, loss)
        optimizer: Any = self.parallel.optimizer
        optimizer.found_inf = off.float()  # as torch.amp.GradScaler hands it over
        optimizer.step()
