"""Where a run begins: anew, or at a checkpoint of its own or of another folder's."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from msip.errors import RunError
from pad.config.plan import Plan
from pad.config.pretraining import FREE_AFTER_NON_FINITE, FREE_ON_RESUME, RUN_FILE, PretrainConfig, read_run
from pad.training.non_finite import NON_FINITE, StepFacts
from pad.weights.checkpoints import FOLDER, STATE, Checkpoint, list_checkpoints, newest_checkpoint, read_checkpoint

_log = logging.getLogger(__name__)


def find_start(config: PretrainConfig) -> tuple[dict[str, Any] | None, Checkpoint | None]:
    """(run.yaml, checkpoint) to continue from; either is ``None`` where there is none yet. Raises ``RunError``."""
    existing = list_checkpoints(config.out)
    if config.resume is None:
        if existing:
            raise RunError(
                f"{config.out} already holds a run ({existing[0].name}); continue it with `resume=auto`, "
                f"or choose another `out` for a new one."
            )
        return None, None
    if config.resume == "auto":
        checkpoint, warnings = newest_checkpoint(config.out)
        for warning in warnings:
            _log.warning(f"{warning} The one before it is used.")
        return read_run(config.out), checkpoint
    return _named_start(config, Path(config.resume), existing)


def _named_start(config: PretrainConfig, path: Path, existing: list[Path]) -> tuple[dict[str, Any] | None, Checkpoint]:
    if (path / STATE).is_file():
        run, checkpoint = path.resolve().parents[1], read_checkpoint(path)
    else:
        run, found = path, newest_checkpoint(path)[0]
        if found is None:
            raise RunError(
                f"`resume={path}` is no checkpoint and no run with one; give RUN, RUN/{FOLDER}/step-*, or auto."
            )
        checkpoint = found
    if existing and run.resolve() != config.out.resolve():
        raise RunError(f"{config.out} already holds another run ({existing[0].name}); choose another `out`.")
    stored = read_run(run)
    if stored is None:
        raise RunError(f"`resume={path}`: {run / RUN_FILE} is missing; give a checkpoint inside its run's folder.")
    return stored, checkpoint


def free_options(checkpoint: Checkpoint | None) -> frozenset[str]:
    """Options that may differ from those of the run that ``checkpoint`` is of. Raises ``RunError``."""
    if checkpoint is not None:
        run = checkpoint.path.resolve().parents[1]
        if (run / NON_FINITE).is_file() and checkpoint.step <= StepFacts.read(run).step:
            return FREE_ON_RESUME | FREE_AFTER_NON_FINITE
    return FREE_ON_RESUME


def refuse_other_step(checkpoint: Checkpoint, plan: Plan) -> None:
    """Raises ``RunError`` if a continued run would take other steps than it took."""
    if checkpoint.state["effective_batch"] != plan.effective_batch:
        raise RunError(
            f"a step of this run takes {checkpoint.state['effective_batch']} images, not {plan.effective_batch}: "
            f"choose `batch_size` and `accumulate` accordingly, or leave them out."
        )
