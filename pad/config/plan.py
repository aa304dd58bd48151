"""The plan of a run: batch, steps, warm-up and learning rate that follow from its options and the number of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from msip.engine import cores
from msip.errors import RunError
from pad.config.options import option
from pad.config.pretraining import (
    PretrainConfig,
)

DEFAULT_BATCH = {"cuda": 256, "cpu": 32}
"""``batch_size`` where none is given and the data has as many images."""


@dataclass(frozen=True)
class Plan:
    """What follows from the options for given data, device and number of processes.

    Attributes:
        batch_size: images of one forward pass on one process.
        accumulate: forward passes of one optimizer step.
        effective_batch: images of one optimizer step, over all processes.
        steps_per_epoch, steps: optimizer steps of an epoch, of the run.
        warmup_steps: of the linear warm-up; may be fractional.
        lr: peak learning rate, ``blr * effective_batch / 256`` (MAE's linear rule).
        log_every, panel_every: steps.
        notes: what the user should know about values that were derived.
    """

    batch_size: int
    accumulate: int
    effective_batch: int
    steps_per_epoch: int
    steps: int
    warmup_steps: float
    lr: float
    log_every: int
    panel_every: int
    notes: tuple[str, ...] = ()


def make_plan(config: PretrainConfig, images: int, *, device: str, world: int = 1) -> Plan:
    """Resolve batch, steps and learning rate. Raises ``RunError`` if the data cannot fill one step."""
    batch_size, accumulate, notes = _split_batch(config, images, device, world)
    effective = batch_size * accumulate * world
    if "effective_batch" in config.explicit and effective != config.effective_batch:
        raise RunError(
            f"--batch-size {batch_size} x --accumulate {accumulate} x {world} processes make {effective} images, "
            f"not --effective-batch {config.effective_batch}; leave one of them out."
        )
    per_epoch = images // effective
    if per_epoch == 0:
        raise RunError(
            f"one optimizer step takes {effective:,} images (--batch-size {batch_size} x --accumulate {accumulate} x "
            f"{world} processes), but {config.data} has {images:,}; choose a smaller --batch-size."
        )
    steps = config.max_steps or config.epochs * per_epoch
    warmup = 0.1 * config.epochs if config.warmup_epochs is None else config.warmup_epochs
    if warmup > config.epochs:
        raise RunError(f"--warmup-epochs {warmup:g} exceeds --epochs {config.epochs}; choose a shorter warm-up.")
    return Plan(
        batch_size=batch_size,
        accumulate=accumulate,
        effective_batch=effective,
        steps_per_epoch=per_epoch,
        steps=steps,
        warmup_steps=warmup / config.epochs * steps,
        lr=config.blr * effective / 256,
        log_every=config.log_every or max(1, min(20, steps // 50)),
        panel_every=max(1, math.ceil(steps / 10)),
        notes=notes,
    )


def _split_batch(config: PretrainConfig, images: int, device: str, world: int) -> tuple[int, int, tuple[str, ...]]:
    """(batch_size, accumulate, notes) of one process."""
    limit = DEFAULT_BATCH[device]
    wanted, accumulate = config.effective_batch, config.accumulate
    if config.batch_size == "auto" and device == "cpu":
        raise RunError("--batch-size auto tries out a GPU's memory; on a CPU give a number, e.g. 32.")
    if config.batch_size == "auto" and accumulate:
        raise RunError("--batch-size auto finds --accumulate too; leave that out, or give both as numbers.")
    batch_size = None if config.batch_size == "auto" else config.batch_size
    if wanted is None or (batch_size and accumulate):
        accumulate = accumulate or 1
        return batch_size or max(1, min(limit, images // (world * accumulate))), accumulate, ()
    if wanted > images and "effective_batch" not in config.explicit:
        batch_size = batch_size or max(1, min(limit, images // (world * (accumulate or 1))))
        accumulate = accumulate or max(1, images // (batch_size * world))
        used = batch_size * accumulate * world
        return (
            batch_size,
            accumulate,
            (f"the preset's batch of {wanted:,} exceeds the {images:,} images, {used:,} used",),
        )
    if accumulate:
        return _exact(wanted, accumulate, world, "accumulate"), accumulate, ()
    if not batch_size:
        share = _share(wanted, world, limit)
        batch_size = max(size for size in range(1, min(limit, share) + 1) if share % size == 0)
    return batch_size, _exact(wanted, batch_size, world, "batch_size"), ()


def batch_sizes(share: int) -> list[int]:
    """Sizes of a pass that make up a process's share of a step: its divisors, rising."""
    return [size for size in range(1, share + 1) if share % size == 0]


def _share(effective: int, world: int, limit: int) -> int:
    """Images of one process; the step proposed where these are not whole has as few passes as there can be."""
    if effective % world:
        passes = math.ceil(effective / (world * limit))
        size = max(1, round(effective / (world * passes)))
        raise RunError(
            f"a step of {effective:,} images cannot be shared out among {world} processes; choose --effective-batch "
            f"{world * passes * size} ({passes} passes of {size} images a process)."
        )
    return effective // world


def _exact(effective: int, part: int, world: int, name: str) -> int:
    whole = part * world
    if effective % whole:
        near = max(1, round(effective / whole)) * whole
        among = f" x {world} processes" if world > 1 else ""
        raise RunError(
            f"a step of {effective:,} images cannot be split into parts of {whole:,} ({option(name)} {part}{among}); "
            f"leave {option(name)} out, or choose --effective-batch {near}."
        )
    return effective // whole


def default_workers(device: str, local_world: int = 1) -> int:
    """Reading processes: nearly all cores for a GPU, one where the CPU itself trains."""
    return max(1, min(16, cores() // local_world - 1)) if device == "cuda" else min(1, cores() - 1)
