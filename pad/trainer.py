"""The training loop: micro-batches to optimizer steps, with nothing read from the device between log steps.

A run is a function of its configuration: data order, crops and masks follow from (seed, epoch, image), dropout from
(seed, images seen), so a run continued from a checkpoint equals one that was never interrupted, bit for bit on the CPU.
Schedule and optimizer: MAE's (facebookresearch/mae ``engine_pretrain.py``, ``util/lr_sched.py``), as PAD uses them.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW
from torch.utils.data import DataLoader

from msip.errors import RunError
from msip.files import write_json
from pad.adapters import mean_scales, recorded_scales
from pad.checkpoints import FOLDER, Checkpoint, optimizer_tensors, save_checkpoint, split_state, write_frozen
from pad.config import Plan, PretrainConfig
from pad.cost import Estimate, Speed
from pad.data import EpochSampler, PretrainDataset, epoch_order, make_loader, start_reading, to_device
from pad.health import COLLAPSED, measure
from pad.monitor import Clock, Monitor, Panels, memory_bytes, read_metrics
from pad.paradigms import scales_frozen_at, set_scales_frozen
from pad.processes import Ranks, Stop

NON_FINITE = "non-finite.json"


def lr_at(step: float, *, lr: float, warmup_steps: float, steps: int) -> float:
    """Learning rate of optimizer step ``step`` (from 0): linear from 0 to ``lr``, then a half cosine to 0."""
    if step < warmup_steps:
        return lr * step / warmup_steps
    return lr * 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def make_optimizer(groups: list[dict[str, Any]], *, beta2: float = 0.95) -> AdamW:
    """AdamW, MAE's by default; fused: a fused step can be called off on the device (see ``Trainer._update``)."""
    return AdamW(groups, lr=0.0, betas=(0.9, beta2), fused=True)


class Trainer:
    """One run from its current step to its last.

    Args:
        method: on its device, with ``requires_grad`` as its paradigm says.
        optimizer: of ``make_optimizer``, restored if the run continues.
        dataset: the images.
        config, plan: the run.
        ranks: this process.
        workers: reading processes.
        checkpoint: where the run continues.
        flops_per_image: of one pass forward and backward, see ``pad.cost``.
    """

    def __init__(
        self,
        method: Any,
        optimizer: AdamW,
        dataset: PretrainDataset,
        config: PretrainConfig,
        plan: Plan,
        *,
        ranks: Ranks,
        workers: int,
        bf16: bool = False,
        checkpoint: Checkpoint | None = None,
        flops_per_image: int = 0,
    ) -> None:
        self.method, self.optimizer, self.dataset, self.config, self.plan = method, optimizer, dataset, config, plan
        self.ranks, self.workers, self.bf16 = ranks, workers, bf16
        self.parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        self.device = self.parameters[0].device
        self.in_chans = in_chans(method.encoder)
        state: dict[str, Any] = {"step": 0, "window": {"start": 0, "loss_sum": 0.0}, "unreadable": []}
        state = checkpoint.state if checkpoint else state
        self.step: int = state["step"]
        self.unreadable: set[int] = set(state["unreadable"])
        self._window_start: int = state["window"]["start"]
        self._loss_sum = torch.tensor(state["window"]["loss_sum"], device=self.device)
        self._bad_step = torch.tensor(-1, device=self.device)  # the first step whose loss or gradient is not finite
        self._grad_norm = torch.zeros((), device=self.device)
        self._clock = Clock()
        self._speed = Speed.of(flops_per_image, self.device, bf16=bf16, world=ranks.world)
        self.estimate: Estimate | None = None
        self._scales_frozen: bool | None = None
        self._healths: list[dict[str, Any]] | None = None
        here = checkpoint is not None and checkpoint.path.resolve().parents[1] == config.out.resolve()
        self._saved_step = self.step if here else -1
        self._frozen_sha256 = ""
        self.model: nn.Module = method

    @property
    def epoch(self) -> int:
        """Of the next step, from 0."""
        return self.step // self.plan.steps_per_epoch

    @property
    def position(self) -> int:
        """Images of this epoch already used, over all ranks."""
        return self.step % self.plan.steps_per_epoch * self.plan.effective_batch

    @property
    def images_per_s(self) -> float:
        """Mean over this process's steps but the first, over all ranks."""
        return self._clock.speed(self.plan.effective_batch)

    def run(self) -> int:
        """Train to the end or until stopped; returns 0 or the signal that stopped it.

        Raises ``RunError`` when the loss stops being finite or images cannot be read.
        """
        with ExitStack() as stack:
            stop = stack.enter_context(Stop().listening())
            main = self.ranks.rank == 0
            monitor = panels = None
            if main:
                panels = Panels(self.dataset, self.in_chans)
                options = self.config.model_dump(mode="json")
                steps, project = self.plan.steps, self.config.wandb
                monitor = Monitor(self.config.out, step=self.step, steps=steps, wandb=project, config=options)
                stack.callback(monitor.close)
                frozen, _ = split_state(self.method, self.method.encoder, self.optimizer)
                self._frozen_sha256 = write_frozen(self.config.out, frozen)
                if self.step == 0:
                    self._draw(monitor, panels)
                else:  # continued from a checkpoint of another folder
                    self._save()
            return self._loop(stop, monitor, panels)

    def _loop(self, stop: Stop, monitor: Monitor | None, panels: Panels | None) -> int:
        if self.step == self.plan.steps:  # a run that was killed between its last step and its export
            return 0
        self.method.train()
        batches = self._rehearse(start_reading(self._loader()), monitor, panels)
        self._clock.start()
        try:
            while self.step < self.plan.steps:
                log = (self.step + 1) % self.plan.log_every == 0 or self.step + 1 == self.plan.steps
                self._optimizer_step(batches, monitor, log=log)
                if monitor:
                    monitor.advance()
                if log:
                    self._log(monitor, panels)
                stopped = self._agreed(stop.signal) if log or self.ranks.world == 1 else 0
                self._keep(monitor, panels, now=bool(stopped))
                if stopped:
                    return stopped
        finally:
            del batches  # stops the workers
        return 0

    def _rehearse(
        self, batches: Iterator[dict[str, Any]], monitor: Monitor | None, panels: Panels | None
    ) -> Iterator[dict[str, Any]]:
        """Pass the first batch forward and back twice, keeping nothing, and say how long the run will take."""
        first = next(batches)
        self._set_scales()
        for _ in range(2):  # the first time pays for start-up
            begin = time.perf_counter()
            loss = self._backward(first, 0, sync=True, record=False)
            float(loss)  # waits for the device
        seconds = time.perf_counter() - begin
        self.optimizer.zero_grad(set_to_none=True)
        self.method.end_step(torch.zeros((), dtype=torch.bool, device=self.device))  # forgets what it summed up
        if monitor and panels:
            readers = max(1, self.workers) * self.ranks.world
            reading = panels.seconds_per_image * self.plan.effective_batch / readers
            steps, compute = self.plan.steps - self.step, seconds * self.plan.accumulate
            self.estimate = Estimate(steps, compute, reading, together=self.workers > 0)
            monitor.say(self.estimate.sentence())
        return itertools.chain((first,), batches)

    def _loader(self) -> DataLoader[dict[str, Any]]:
        sampler = EpochSampler(
            len(self.dataset),
            self.plan.batch_size,
            accumulate=self.plan.accumulate,
            steps=self.plan.steps - self.step,
            seed=self.config.seed,
            epoch=self.epoch,
            start=self.position,
            rank=self.ranks.rank,
            world=self.ranks.world,
        )
        return make_loader(self.dataset, sampler, workers=self.workers, pin_memory=self.device.type == "cuda")

    def _optimizer_step(self, batches: Iterator[dict[str, Any]], monitor: Monitor | None, *, log: bool) -> None:
        self._set_scales()
        lr = lr_at(self.step, lr=self.plan.lr, warmup_steps=self.plan.warmup_steps, steps=self.plan.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
            if self.config.weight_decay_end is not None and group["weight_decay"]:
                first, last = self.config.weight_decay, self.config.weight_decay_end
                group["weight_decay"] = last + (first - last) * 0.5 * (
                    1 + math.cos(math.pi * self.step / self.plan.steps)
                )
        self.method.begin_step(self.step / self.plan.steps_per_epoch, self.plan.steps / self.plan.steps_per_epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.device)
        for micro in range(self.plan.accumulate):
            with self._clock.waiting():
                batch = next(batches)
            self._name_unreadable(batch, monitor)
            last = micro + 1 == self.plan.accumulate
            loss += self._backward(batch, micro, sync=last, record=log and last)
        self._update(loss)
        self.method.end_step(self._bad_step < 0)
        self.step += 1
        self._clock.step()
        if self.device.type == "cpu":  # reading costs nothing there
            self._check_finite()

    def _backward(self, batch: dict[str, Any], micro: int, *, sync: bool, record: bool) -> Tensor:
        """Gradients of one micro-batch; returns its share of the loss, on the device."""
        inputs = self.method.arguments(to_device(batch, self.device, self.in_chans))
        first = (micro * self.ranks.world + self.ranks.rank) * self.plan.batch_size
        seed_step(self.config.seed, self.step * self.plan.effective_batch + first)
        unsynced = isinstance(self.model, DistributedDataParallel) and not sync
        with self.model.no_sync() if unsynced else nullcontext():  # type: ignore[operator]
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16),
                recorded_scales(self.method.encoder) if record else nullcontext(),
            ):
                loss: Tensor = self.model(**inputs).loss / self.plan.accumulate
            loss.backward()
        return loss.detach()

    def _update(self, loss: Tensor) -> None:
        """One AdamW step, called off on the device from the first non-finite loss or gradient on."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self._grad_norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.clip_grad is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip_grad, self._grad_norm)
        bad = ~(loss.isfinite() & self._grad_norm.isfinite())
        self._bad_step = torch.where(bad & (self._bad_step < 0), self.step, self._bad_step)
        off = self._bad_step >= 0
        self._loss_sum += torch.where(off, 0.0, loss)
        self.optimizer.found_inf = off.float()  # type: ignore[attr-defined]  # as torch.amp.GradScaler hands it over
        self.optimizer.step()

    def _set_scales(self) -> None:
        """Freeze or free the scale predictors; the gradient buckets of DDP follow what trains."""
        plan, config = self.plan, self.config
        at, of = (self.step, plan.steps) if config.max_steps else (self.epoch, config.epochs)
        frozen = scales_frozen_at(at, of, config.scale_freeze)
        if frozen == self._scales_frozen:
            return
        self._scales_frozen = frozen
        if config.paradigm == "pad":
            set_scales_frozen(self.method, frozen)
        if self.ranks.world > 1:
            devices = [self.device] if self.device.type == "cuda" else None
            self.model = DistributedDataParallel(
                self.method, device_ids=devices, broadcast_buffers=False, gradient_as_bucket_view=True
            )

    def _name_unreadable(self, batch: dict[str, Any], monitor: Monitor | None) -> None:
        replaced = batch["row"][batch["row"] != batch["used"]].tolist()
        for row in replaced:
            if row in self.unreadable:
                continue
            self.unreadable.add(row)
            if monitor:
                name = self.dataset.index.relative_path(row)
                monitor.say(f"warning: {name} cannot be read; another image takes its place.")
        if replaced and (batch["used"] < 0).any():
            raise RunError(
                f"hardly any image under {self.dataset.storage.root} can be read, e.g. not "
                f"{self.dataset.index.relative_path(replaced[0])}; run `msip verify {self.dataset.storage.root}`."
            )

    def _check_finite(self) -> None:
        """Stop if a step was called off; the weights are those before it."""
        bad = int(self._bad_step)
        if bad < 0:
            return
        self.step = bad
        if self.ranks.rank == 0:
            write_json(self.config.out / NON_FINITE, self._reproduction())
            self._save()
        raise RunError(
            f"the loss or its gradient is not finite at step {bad + 1} (epoch {self.epoch + 1}); the state before is "
            f"kept in {self.config.out / FOLDER} and its images in {NON_FINITE}; lower --blr or set --clip-grad."
        )

    def _reproduction(self) -> dict[str, Any]:
        """What, with the checkpoint, makes the same step again: its images in order and the seeds of its dropout."""
        order = epoch_order(len(self.dataset), self.config.seed, self.epoch)
        rows = order[self.position : self.position + self.plan.effective_batch]
        return {
            "step": self.step,
            "epoch": self.epoch,
            "seed": self.config.seed,
            "dropout_seed_offset": self.step * self.plan.effective_batch,
            "micro_batch": self.plan.batch_size,
            "image_ids": [self.dataset.index.image_id(int(row)) for row in rows],
        }

    def _log(self, monitor: Monitor | None, panels: Panels | None) -> None:
        """The one place of a step that waits for the device."""
        steps = self.step - self._window_start
        if self.ranks.world > 1:
            dist.all_reduce(self._loss_sum, dist.ReduceOp.AVG if self.device.type == "cuda" else dist.ReduceOp.SUM)
            self._loss_sum /= 1 if self.device.type == "cuda" else self.ranks.world
        scales = mean_scales(self.method.encoder)
        values = [
            (self._loss_sum / max(steps, 1))[None],
            self._grad_norm[None],
            *([scales] if scales is not None else []),
        ]
        loss, grad_norm, *layers = torch.cat(values).tolist()
        self._check_finite()
        seconds, wait = self._clock.window()
        speed = self._clock.window_steps * self.plan.effective_batch / seconds
        metrics = {
            "step": self.step,
            "epoch": round(self.step / self.plan.steps_per_epoch, 4),
            "loss": loss,
            "lr": lr_at(self.step - 1, lr=self.plan.lr, warmup_steps=self.plan.warmup_steps, steps=self.plan.steps),
            "grad_norm": grad_norm,
            "seconds": round(seconds, 3),
            "images_per_s": round(speed, 2),
            "data_wait": round(wait / seconds, 4),
            **self._speed.metrics(speed),
            "memory_bytes": memory_bytes(self.device),
            "unreadable": len(self.unreadable),
        }
        if layers:
            metrics["scale"] = [round(scale, 6) for scale in layers]
        if monitor and panels:
            metrics |= self._health(monitor, panels)
            monitor.write(metrics)
        self._window_start = self.step
        self._loss_sum = torch.zeros((), device=self.device)
        self._clock.next_window()

    def _health(self, monitor: Monitor, panels: Panels) -> dict[str, float]:
        """RankMe and spread of the features, about ten times a run; a collapse is said."""
        if self._healths is None:  # what a run that is continued has measured before
            self._healths = [line for line in read_metrics(self.config.out) if "feature_std" in line]
        before = self._healths
        due = not before or self.step - before[-1]["step"] >= self.plan.panel_every or self.step == self.plan.steps
        if not due:
            return {}
        with self._clock.paused():
            health = measure(self.method, panels.images(self.device))
        if before and health["feature_std"] < COLLAPSED * before[0]["feature_std"]:
            advice = "lower --blr or raise --ema" if hasattr(self.method, "ema") else "lower --blr"
            monitor.say(
                f"warning: features collapse: their spread fell from {before[0]['feature_std']:.3g} to "
                f"{health['feature_std']:.3g}, RankMe {health['rankme']:.1f}; {advice}."
            )
        before.append({"step": self.step, **health})
        return health

    def _agreed(self, number: int) -> int:
        """The signal that any rank got."""
        if self.ranks.world == 1:
            return number
        shared = torch.tensor(number, device=self.device)
        dist.all_reduce(shared, dist.ReduceOp.MAX)
        return int(shared)

    def _keep(self, monitor: Monitor | None, panels: Panels | None, *, now: bool) -> None:
        """Checkpoint and panel, where due; their time does not count as training."""
        ends = self.step == self.plan.steps
        every = self.config.save_every
        save = now or ends or self.step % self.plan.steps_per_epoch == 0 or (every and self.step % every == 0)
        draw = ends or self.step % self.plan.panel_every == 0
        if not (save or draw) or monitor is None or panels is None:
            return
        with self._clock.paused():
            self._check_finite()
            if save:
                self._save()
            if draw:
                self._draw(monitor, panels)

    def _save(self) -> None:
        if self.step == self._saved_step:
            return
        _, changing = split_state(self.method, self.method.encoder, self.optimizer)
        state = {
            "format": 1,
            "step": self.step,
            "steps": self.plan.steps,
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.config.seed,
            "effective_batch": self.plan.effective_batch,
            "window": {"start": self._window_start, "loss_sum": float(self._loss_sum)},
            "unreadable": sorted(self.unreadable),
        }
        moments = optimizer_tensors(self.method, self.optimizer)
        keep = self.config.keep_checkpoints
        save_checkpoint(self.config.out, state, changing, moments, frozen_sha256=self._frozen_sha256, keep=keep)
        self._saved_step = self.step

    def _draw(self, monitor: Monitor, panels: Panels) -> None:
        picture = panels.draw(self.method, self.device)
        if picture is not None:
            monitor.panel(self.step, picture)


def seed_step(seed: int, images_seen: int) -> None:
    """Seed torch's generators (dropout, drop path) for one micro-batch, so that no generator state needs saving."""
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + images_seen) % (1 << 63))


def in_chans(encoder: Any) -> int:
    """Channels that a timm ViT takes."""
    return int(encoder.patch_embed.proj.in_channels)
