"""``msip replay``: the step that stopped a training, taken again from the checkpoint before it."""

from __future__ import annotations

from pathlib import Path

from msip.crops import RoiCrop
from msip.errors import RunError
from pad.config.pretraining import PretrainConfig, read_run
from pad.data.dataset import PretrainDataset
from pad.data.index import ImageIndex
from pad.machine import pick_device, uses_bf16
from pad.training.building import build_method
from pad.training.non_finite import Finding, StepFacts, find_non_finite
from pad.training.paradigms import apply_paradigm
from pad.training.parallel import SingleProcess
from pad.training.run_file import INDEX
from pad.training.step import Step, make_optimizer
from pad.weights.checkpoints import FOLDER, read_checkpoint


def replay(run: Path, *, device: str = "auto") -> Finding:
    """Take the step again that stopped the training in ``run``.

    Raises ``RunError`` if no step stopped it, or the checkpoint before that step or its images are gone.
    """
    facts, stored = StepFacts.read(run), read_run(run)
    if stored is None:
        raise RunError(f"{run} holds no run.")
    config = PretrainConfig(**stored["config"])
    checkpoint = read_checkpoint(run / FOLDER / f"step-{facts.step:08d}")
    where = pick_device(device)
    method, _ = build_method(config, load=False)
    groups = apply_paradigm(method, config.paradigm)
    method.load_state_dict(checkpoint.model)
    method = method.to(where)
    crop = RoiCrop(size=config.image_size, p=config.roi_p)
    dataset = PretrainDataset(
        ImageIndex(run / INDEX),
        stored["data"]["root"],
        seed=config.seed,
        crop=crop,
        sampler=method.sampler(),
        views=method.views(),
    )
    bf16 = uses_bf16(config.precision, where)
    on_device = Step(SingleProcess(method, make_optimizer(groups), where), seed=config.seed, bf16=bf16)
    return find_non_finite(on_device, dataset, facts)
