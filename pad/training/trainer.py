"""The training loop: micro-batches to optimizer steps, with nothing read from the device between log steps.

A run is a function of its configuration: data order, crops and masks follow from (seed, epoch, image), dropout from
(seed, images seen), so a run continued from a checkpoint equals one that was never interrupted, bit for bit on the CPU.
Schedule and optimizer: MAE's (facebookresearch/mae ``engine_pretrain.py``, ``util/lr_sched.py``), as PAD uses them.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW
from torch.utils.data import DataLoader

from msip.errors import RunError
from msip.files import write_json
from pad.adapters.attach import mean_scales
from pad.config.plan import Plan
from pad.config.pretraining import PretrainConfig
from pad.data.dataset import PretrainDataset
from pad.data.loader import EpochSampler, make_loader, start_reading
from pad.machine import memory_bytes
from pad.monitoring.clock import Clock
from pad.monitoring.cost import Estimate, Speed
from pad.monitoring.monitor import Monitor
from pad.monitoring.panels import Panels
from pad.monitoring.watch import Watch
from pad.training.blocks import BlockCalls
from pad.training.memory import is_out_of_memory, memory_ran_out
from pad.training.non_finite import NON_FINITE, Finding, StepFacts, advice, find_non_finite
from pad.training.paradigms import scales_frozen_at
from pad.training.parallel import DDP, FSDP, SingleProcess
from pad.training.processes import Ranks, Stop
from pad.training.step import Step, lr_at, schedule
from pad.weights.checkpoints import FOLDER, Checkpoint, save_checkpoint, write_frozen

_log = logging.getLogger(__name__)


class Trainer:
    """One run from its current step to its last.

    Args:
        method: on its device, with ``requires_grad`` as its paradigm says.
        optimizer: of ``make_optimizer``, restored if the run continues.
        dataset: the images.
        config, plan: the run.
        ranks: this process.
        workers: reading processes.
        bf16: autocast to it.
        checkpoint: where the run continues.
        flops_per_image: of one pass forward and backward, see ``pad.monitoring.cost``.
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
        self.ranks, self.workers = ranks, workers
        self.device: torch.device = next(method.parameters()).device
        way = SingleProcess if ranks.world == 1 else FSDP if config.parallel == "fsdp" else DDP
        self.parallel = way(method, optimizer, self.device)
        self._on_device = Step(self.parallel, seed=config.seed, bf16=bf16, clip_grad=config.clip_grad)
        state: dict[str, Any] = {"step": 0, "window": {"start": 0, "loss_sum": 0.0}, "unreadable": []}
        state = checkpoint.state if checkpoint else state
        self.step: int = state["step"]
        self.unreadable: set[int] = set(state["unreadable"])
        self._window_start: int = state["window"]["start"]
        self._on_device.loss_sum.fill_(state["window"]["loss_sum"])
        self._clock = Clock()
        self._speed = Speed.of(flops_per_image, self.device, bf16=bf16, world=ranks.world)
        self.estimate: Estimate | None = None
        self._scales_frozen: bool | None = None
        here = checkpoint is not None and checkpoint.path.resolve().parents[1] == config.out.resolve()
        self._saved_step = self.step if here else -1
        self._frozen_sha256 = ""
        self._reading_is_free = self.device.type == "cpu"
        self._monitor: Monitor | None = None  # of the first process
        self._watch: Watch | None = None  # of all that take part in a look

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

        Raises ``RunError`` when the loss stops being finite, memory runs out, or images cannot be read.
        """
        with ExitStack() as stack:
            stop = stack.enter_context(Stop().listening())
            self._begin(stack)
            try:
                return self._loop(stop)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise RunError(memory_ran_out(self.config, self.plan, self.step, self.device)) from error

    def _begin(self, stack: ExitStack) -> None:
        """Open what is written while training, look at the start, and prepare the blocks."""
        main = self.ranks.rank == 0
        if main:
            options, project = self.config.flat(), self.config.wandb
            self._monitor = Monitor(
                self.config.out, step=self.step, steps=self.plan.steps, wandb=project, config=options
            )
            stack.callback(self._monitor.close)
        if main or self.parallel.collective:
            panels = Panels(self.dataset, self._on_device.in_chans)
            every, steps = self.plan.panel_every, self.plan.steps
            self._watch = Watch(panels, self._monitor, self.device, every=every, steps=steps)
            frozen = self.parallel.frozen()
            self._frozen_sha256 = write_frozen(self.config.out, frozen) if main else ""
        if self.step:  # continued, perhaps from a checkpoint of another folder
            self._save()
        else:
            self._draw()
        compiled = self.device.type == "cuda" if self.config.compile is None else self.config.compile
        explicit = self.device.type == "cpu" and self._on_device.bf16
        self._calls = BlockCalls(self.method, compiled=compiled, recomputed=self.config.recompute, explicit=explicit)
        stack.enter_context(self._calls)

    def _loop(self, stop: Stop) -> int:
        if self.step == self.plan.steps:  # a run that was killed between its last step and its export
            return 0
        self.method.train()
        batches = self._rehearse(start_reading(self._loader()))
        self._clock.start()
        try:
            while self.step < self.plan.steps:
                log = (self.step + 1) % self.plan.log_every == 0 or self.step + 1 == self.plan.steps
                self._optimizer_step(batches, log=log)
                if self._monitor:
                    self._monitor.advance()
                if log:
                    self._log()
                stopped = self.ranks.agreed(stop.signal)
                self._keep(now=bool(stopped))
                if stopped:
                    return stopped
        finally:
            del batches  # stops the workers
        return 0

    def _rehearse(self, batches: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Pass the first batch forward and back twice, keeping nothing, and say how long the run will take."""
        first = next(batches)
        self._set_scales()
        for _ in range(2):  # the first time pays for start-up
            begin = time.perf_counter()
            float(self._backward(first, 0, last=True))  # waits for the device
        seconds = time.perf_counter() - begin
        self.parallel.zero_grad()
        self.method.end_step(torch.zeros((), dtype=torch.bool, device=self.device))  # forgets what it summed up
        if self._watch:
            readers = max(1, self.workers) * self.ranks.world
            reading = self._watch.panels.seconds_per_image * self.plan.effective_batch / readers
            steps, compute = self.plan.steps - self.step, seconds * self.plan.accumulate
            self.estimate = Estimate(steps, compute, reading, together=self.workers > 0)
            _log.info(self.estimate.sentence())
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

    def _optimizer_step(self, batches: Iterator[dict[str, Any]], *, log: bool) -> None:
        self._set_scales()
        schedule(self.optimizer, self.config, self.plan, self.step)
        self.method.begin_step(self.step / self.plan.steps_per_epoch, self.plan.steps / self.plan.steps_per_epoch)
        self.parallel.zero_grad()
        loss = torch.zeros((), device=self.device)
        for micro in range(self.plan.accumulate):
            with self._clock.waiting():
                batch = next(batches)
            self._note_unreadable(batch)
            last = micro + 1 == self.plan.accumulate
            loss += self._backward(batch, micro, last=last, record=log and last)
        self._on_device.update(loss, self.step)
        self.method.end_step(self._on_device.bad < 0)
        self.step += 1
        self._clock.step()
        if self._reading_is_free:
            self._check_finite()

    def _backward(self, batch: dict[str, Any], micro: int, *, last: bool, record: bool = False) -> Tensor:
        """Gradients of one micro-batch; returns its share of the loss, on the device."""
        seen = self.step * self.plan.effective_batch
        seen += (micro * self.ranks.world + self.ranks.rank) * self.plan.batch_size
        return self._on_device.backward(batch, seen, share=1 / self.plan.accumulate, last=last, record=record)

    def _set_scales(self) -> None:
        """Freeze or free the scale predictors."""
        plan, config = self.plan, self.config
        at, of = (self.step, plan.steps) if config.max_steps else (self.epoch, config.epochs)
        frozen = scales_frozen_at(at, of, config.scale_freeze)
        if frozen != self._scales_frozen:
            self._scales_frozen = frozen
            self.parallel.start(scales_frozen=frozen if config.paradigm == "pad" else None)

    def _note_unreadable(self, batch: dict[str, Any]) -> None:
        rows, used = batch["row"].numpy(), batch["used"].numpy()  # of the host
        replaced = rows[rows != used].tolist()
        self._name_unreadable(set(replaced))
        if replaced and (used < 0).any():
            raise RunError(
                f"hardly any image under {self.dataset.storage.root} can be read, e.g. not "
                f"{self.dataset.index.relative_path(replaced[0])}; run `msip verify {self.dataset.storage.root}`."
            )

    def _name_unreadable(self, rows: set[int]) -> None:
        """Add to what is known, and name what was not."""
        for row in sorted(rows - self.unreadable):
            self.unreadable.add(row)
            name = self.dataset.index.relative_path(row)
            _log.warning(f"{name} is damaged or cannot be read; another image takes its place.")

    def _gather(self) -> None:
        """Bring together what each process has seen alone: all have the mean loss and every unreadable image."""
        if self.ranks.world > 1:
            dist.all_reduce(self._on_device.loss_sum)
            self._on_device.loss_sum /= self.ranks.world
            self._name_unreadable(self.ranks.union(self.unreadable))

    def _check_finite(self) -> None:
        """Stop if a step was called off; the weights are those before it."""
        bad = int(self._on_device.bad)
        if bad < 0:
            return
        self.step = bad
        facts = StepFacts.of(self.dataset, self.config, self.plan, self.step, self.ranks.world)
        if self.ranks.rank == 0:
            write_json(self.config.out / NON_FINITE, facts.as_json())
        self._save()
        where = "."
        if self.ranks.rank == 0 and not self.parallel.collective:
            self._calls.compiled = False  # a compiled block does not call the hooks of what is in it
            where = f": {self._look_for_it(facts).sentence()}"
        self.ranks.wait()  # the first process may still be looking for the layer
        raise RunError(
            f"the loss or its gradient is not finite at step {bad + 1} (epoch {self.epoch + 1}){where} The state "
            f"before is kept in {self.config.out / FOLDER}, the step in {NON_FINITE}: `msip replay "
            f"{self.config.out}` takes it again. {advice(self.config, bad, bf16=self._on_device.bf16)}"
        )

    def _look_for_it(self, facts: StepFacts) -> Finding:
        bf16 = self._on_device.bf16
        return find_non_finite(self.method, self.optimizer, self.dataset, facts, device=self.device, bf16=bf16)

    def _log(self) -> None:
        """The one place of a step that waits for the device."""
        steps, on_device = self.step - self._window_start, self._on_device
        self._gather()
        scales = mean_scales(self.method.encoder)
        values = [
            (on_device.loss_sum / max(steps, 1)).float()[None],
            on_device.grad_norm[None],
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
        if self._watch and self._watch.due(self.step, self._window_start):
            with self._clock.paused(), self.parallel.whole():
                metrics |= self._watch.health(self.method)
        if self._monitor:
            self._monitor.write(metrics)
        self._window_start = self.step
        on_device.loss_sum.zero_()
        self._clock.next_window()

    def _keep(self, *, now: bool) -> None:
        """Checkpoint and panel, where due; their time does not count as training."""
        done, config = self.step, self.config
        often = (self.plan.steps_per_epoch, config.save_every, config.keep_every)
        save = now or done == self.plan.steps or any(every and done % every == 0 for every in often)
        draw = self._watch is not None and self._watch.due(done)
        if save or draw:
            with self._clock.paused():
                self._check_finite()
                if save:
                    self._save()
                if draw:
                    self._draw()

    def _save(self) -> None:
        """Write a checkpoint: the first process does, with the help of all."""
        if self.step == self._saved_step:
            return
        self._saved_step = self.step
        self._gather()
        if self.ranks.rank > 0 and not self.parallel.collective:
            return
        changing, moments = self.parallel.changing()
        if self.ranks.rank > 0:
            return
        state = {
            "format": 1,
            "step": self.step,
            "steps": self.plan.steps,
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.config.seed,
            "effective_batch": self.plan.effective_batch,
            "window": {"start": self._window_start, "loss_sum": float(self._on_device.loss_sum)},
            "unreadable": sorted(self.unreadable),
        }
        save_checkpoint(
            self.config.out,
            state,
            changing,
            moments,
            frozen_sha256=self._frozen_sha256,
            keep=self.config.keep_checkpoints,
            keep_every=self.config.keep_every,
        )

    def _draw(self) -> None:
        if self._watch:
            with self.parallel.whole():
                self._watch.draw(self.method, self.step)
