"""Configuration to run folder: assemble data, encoder, method and optimizer, train, and write what others load.

RUN/
  run.yaml                resolved options, versions, data, parameter counts
  metrics.jsonl           one line every few steps
  tensorboard/  panels/  loss.png  report.html
  checkpoints/            see pad.weights.checkpoints
  .lock                   held by the process that trains
  adapter.safetensors     at the end; encoder.safetensors where the trunk trained
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from msip.errors import MissingExtra, RunError
from msip.extras import need
from msip.files import atomic_path, make_output_folder, only_writer, refuse_unwritable, write_json
from msip.manifest import unmatched_flags
from pad.adapters.attach import has_adapters
from pad.adapters.files import save_adapters
from pad.adapters.lora import merge_lora
from pad.config.plan import Plan, batch_sizes, default_workers, make_plan
from pad.config.pretraining import RESULT, PretrainConfig
from pad.data.grey import to_device
from pad.data.index import open_data, write_index
from pad.encoders.create import lasting_init
from pad.encoders.fit import size_text
from pad.encoders.layouts import averaged
from pad.encoders.tokens import in_chans
from pad.machine import pick_device, uses_bf16
from pad.methods import Method
from pad.monitoring.cost import count_flops
from pad.monitoring.monitor import plot_loss, read_metrics
from pad.monitoring.report import REPORT, write_report
from pad.training.assembly import INDEX, assemble_method, open_dataset
from pad.training.building import complete, init_of
from pad.training.memory import Trial, find_batch_size
from pad.training.processes import Ranks, process_group
from pad.training.resume import find_start, free_options, refuse_other_step
from pad.training.run_file import count_parameters, describe_data, write_run
from pad.training.trainer import Trainer
from pad.weights.checkpoints import Checkpoint, list_checkpoints, newest_checkpoint
from pad.weights.files import save_tensors

_log = logging.getLogger(__name__)

LOCK = ".lock"


@dataclass(frozen=True)
class PretrainResult:
    """What a call of ``pretrain`` did.

    Attributes:
        run: the run's folder.
        status: ``finished``, ``stopped`` (by a signal; continue with ``--resume auto``), or ``already finished``.
        signal: that stopped it, else 0.
        steps: optimizer steps done, of ``total_steps``.
        final_loss: mean loss of the last logged steps; ``None`` if the run was stopped before its first log line.
        images_per_s: mean over this call's steps.
        seconds: of this call.
        lr: peak learning rate.
        adapter_parameters: of the adapters alone; ``trained_parameters``: of all that trains, decoder included.
        unreadable_images: found so far, each replaced by another.
        estimated_s: what this call's steps were expected to take, before the first one.
    """

    run: str
    status: str
    signal: int
    steps: int
    total_steps: int
    final_loss: float | None
    images_per_s: float
    seconds: float
    lr: float
    effective_batch: int
    adapter_parameters: int
    trained_parameters: int
    unreadable_images: int
    estimated_s: float | None = None


def pretrain(config: PretrainConfig) -> PretrainResult:
    """Run or continue a pre-training run, alone in its folder. Raises ``MsipError`` for what the user can correct."""
    with contextlib.ExitStack() as held:
        return _pretrain(config, held)


def _pretrain(config: PretrainConfig, held: contextlib.ExitStack) -> PretrainResult:
    begin = time.perf_counter()
    ranks = Ranks.from_environment()
    if ranks.rank > 0:  # of several processes the first one speaks
        logger = logging.getLogger("pad")
        held.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
    seen = list_checkpoints(config.out)
    stored, checkpoint = find_start(config)
    if stored:
        config = config.continued(stored["config"], free_options(checkpoint))
    config = complete(config, load=checkpoint is None)
    if stored and checkpoint and (config.out / RESULT).is_file():
        _log.info(f"{config.out} is finished ({checkpoint.step:,} steps): nothing to do.")
        if not (config.out / REPORT).is_file() and ranks.rank == 0:
            _draw(config.out)
        before = json.loads((config.out / RESULT).read_text())
        return PretrainResult(**{**before, "run": str(config.out), "status": "already finished"})
    device = pick_device(config.device, ranks.local_rank)
    with process_group(ranks, device):
        trainer, parameters = assemble(
            config,
            ranks=ranks,
            device=device,
            stored=stored,
            checkpoint=checkpoint,
            claim=lambda: _claim(config.out, seen, held),
        )
        config = trainer.config
        try:
            stopped = trainer.run()
        except RunError as error:
            if ranks.rank == 0:
                _draw(config.out, failed=str(error))
            raise
    metrics = read_metrics(config.out)
    result = PretrainResult(
        run=str(config.out),
        status="stopped" if stopped else "finished",
        signal=stopped,
        steps=trainer.step,
        total_steps=trainer.plan.steps,
        final_loss=metrics[-1]["loss"] if metrics else None,
        images_per_s=round(trainer.images_per_s, 2),
        seconds=round(time.perf_counter() - begin, 2),
        lr=trainer.plan.lr,
        effective_batch=trainer.plan.effective_batch,
        adapter_parameters=parameters["adapters"],
        trained_parameters=parameters["trained"],
        unreadable_images=len(trainer.unreadable),
        estimated_s=round(trainer.estimate.seconds, 1) if trainer.estimate else None,
    )
    if stopped:
        _log.info(
            f"stopped by signal {stopped} at step {trainer.step:,}; continue with `resume=auto` `out={config.out}`."
        )
    if ranks.rank == 0:
        method = trainer.method
        if trainer.parallel.collective and not stopped:  # the weights are shared out; the checkpoint has them whole
            method = assemble_method(config, torch.device("cpu"), newest_checkpoint(config.out)[0]).method
        _export(config, method, parameters, result)
        _draw(config.out)
    return result


def _draw(run: Path, *, failed: str = "") -> None:
    """Write loss.png and report.html; without the extra that draws them, a warning says so."""
    try:
        plot_loss(run)
        _log.info(f"the run on one page: {write_report(run, failed=failed)}")
    except MissingExtra as error:
        _log.warning(f"loss.png and report.html are left out: {error}")


def assemble(
    config: PretrainConfig,
    *,
    ranks: Ranks,
    device: torch.device,
    stored: dict[str, Any] | None,
    checkpoint: Checkpoint | None,
    claim: Callable[[], None],
) -> tuple[Trainer, dict[str, int]]:
    """Everything between the options and the first step; nothing is written until all of it fits.

    ``claim`` makes the run's folder and takes it for this process.
    """
    if config.wandb:
        need("wandb")
    refuse_unwritable(config.out)  # before anything is downloaded
    manifest = open_data(config.data)
    data = describe_data(manifest, config)
    if stored and stored["data"]["manifest_sha256"] != data["manifest_sha256"]:
        raise RunError(
            f"the manifest of {config.data} has changed since this run began; start anew with another `out`."
        )
    for note in unmatched_flags(manifest.table, config.exclude_flag):
        _log.warning(note)
    manifest = manifest.without_flags(config.exclude_flag)
    plan = make_plan(config, len(manifest), device=device.type, world=ranks.world)
    if checkpoint:
        refuse_other_step(checkpoint, plan)
    made = assemble_method(config, device, checkpoint)
    config, method, optimizer = made.config, made.method, made.optimizer
    parameters = count_parameters(method, optimizer)
    workers = default_workers(device.type, ranks.local_world) if config.workers is None else config.workers
    if ranks.rank == 0:
        claim()
        write_index(manifest, config.out / INDEX)
        (config.out / RESULT).unlink(missing_ok=True)
    ranks.wait()
    dataset = open_dataset(config, method, manifest.root, run=config.out)
    bf16 = uses_bf16(config.precision, device)
    if config.batch_size == "auto":
        trial = Trial(method, optimizer, dataset, config, bf16=bf16)
        sizes = batch_sizes(plan.effective_batch // ranks.world)
        size = -ranks.agreed(-find_batch_size(sizes, trial))  # the smallest that any process found
        plan = replace(plan, batch_size=size, accumulate=plan.effective_batch // (size * ranks.world))
    one = to_device(default_collate([dataset[0, 0]]), device, in_chans(method.encoder))
    flops = count_flops(method, one)
    if ranks.rank == 0:
        facts = {"data": data, "parameters": parameters, "weights": made.weights, "flops_per_image": flops}
        write_run(config, plan, stored, checkpoint, facts=facts, device=device, workers=workers)
        announce(config, plan, parameters, len(manifest), ranks.world, checkpoint)
    trainer = Trainer(
        method,
        optimizer,
        dataset,
        config,
        plan,
        ranks=ranks,
        workers=workers,
        bf16=bf16,
        checkpoint=checkpoint,
        flops_per_image=flops,
    )
    return trainer, parameters


def _claim(run: Path, seen: list[Path], held: contextlib.ExitStack) -> None:
    """Make a run's folder and lock it. Raises ``MsipError`` if another process writes there, or did since ``seen``."""
    make_output_folder(run)
    held.enter_context(only_writer(run, run / LOCK, "pre-training"))
    if list_checkpoints(run) != seen:
        raise RunError(f"another process has just written to {run}; run the same command again.")


def announce(
    config: PretrainConfig,
    plan: Plan,
    parameters: dict[str, int],
    images: int,
    processes: int,
    checkpoint: Checkpoint | None,
) -> None:
    """Say what was resolved, before the first step."""
    for note in plan.notes:
        _log.info(f"note: {note}.")
    several = f" x {processes} processes" if processes > 1 else ""
    _log.info(
        f"{images:,} images; a step takes {plan.effective_batch:,} ({plan.batch_size} a pass x {plan.accumulate} "
        f"accumulated{several}), lr {plan.lr:.3g} = blr {config.blr:g} x {plan.effective_batch:,} / 256; "
        f"{plan.steps:,} steps; trains {parameters['trained']:,} parameters, of which adapters "
        f"{parameters['adapters']:,}."
    )
    if checkpoint:
        _log.info(f"continues at step {checkpoint.step:,}.")


def _export(config: PretrainConfig, method: Method, parameters: dict[str, int], result: PretrainResult) -> None:
    """Write, for a finished run, the weights and the result, which says that all is there."""
    if result.status != "finished":
        return
    method.load_state_dict(averaged(method.state_dict()))
    encoder = method.encoder
    if has_adapters(encoder):
        save_adapters(encoder, config.out / "adapter.safetensors", init=lasting_init(config.model, init_of(config)))
    if parameters["trained_trunk"]:
        state = merge_lora({name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()})
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        metadata = {"model": config.model, "image_size": size_text(encoder)}
        with atomic_path(config.out / "encoder.safetensors") as temporary:
            save_tensors(tensors, temporary, metadata)
    write_json(config.out / RESULT, asdict(result))
