"""``msip replay``: the step that stopped a training, taken again from the checkpoint before it."""

from __future__ import annotations

from pathlib import Path

from msip.errors import RunError
from pad.config.pretraining import PretrainConfig, read_run
from pad.machine import pick_device, uses_bf16
from pad.training.assembly import assemble_method, open_dataset
from pad.training.building import complete
from pad.training.non_finite import Finding, StepFacts, find_non_finite
from pad.weights.checkpoints import FOLDER, read_checkpoint


def replay(run: Path, *, device: str = "auto") -> Finding:
    """Take the step again that stopped the training in ``run``.

    Raises ``RunError`` if no step stopped it, or the checkpoint before that step or its images are gone.
    """
    facts, stored = StepFacts.read(run), read_run(run)
    if stored is None:
        raise RunError(f"{run} holds no run.")
    config = complete(PretrainConfig(**stored["config"]), load=False)
    checkpoint = read_checkpoint(run / FOLDER / f"step-{facts.step:08d}")
    where = pick_device(device)
    made = assemble_method(config, where, checkpoint)
    dataset = open_dataset(config, made.method, stored["data"]["root"], run=run)
    return find_non_finite(
        made.method, made.optimizer, dataset, facts, device=where, bf16=uses_bf16(config.precision, where)
    )
