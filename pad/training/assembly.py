"""From options to what a step needs: the method on its device, its optimizer, and the images of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.optim import AdamW

from msip.crops import RoiCrop
from pad.config.pretraining import PretrainConfig
from pad.data.dataset import PretrainDataset
from pad.data.index import ImageIndex
from pad.methods import Method
from pad.training.building import as_built, build_method
from pad.training.paradigms import apply_paradigm
from pad.training.step import make_optimizer
from pad.weights.checkpoints import Checkpoint, restore

INDEX = "data.arrow"


@dataclass(frozen=True)
class Assembled:
    """A method ready to train.

    Attributes:
        config: the options, with those of adapters that came with the weights.
        method: on its device, with ``requires_grad`` as its paradigm says.
        optimizer: of ``make_optimizer``, restored where a checkpoint was given.
        weights: what became of the initial weights, for run.yaml.
    """

    config: PretrainConfig
    method: Method
    optimizer: AdamW
    weights: dict[str, Any]


def assemble_method(config: PretrainConfig, device: torch.device, checkpoint: Checkpoint | None = None) -> Assembled:
    """The method of a run and its optimizer, from its initial weights or from ``checkpoint``, which is emptied.

    Raises ``MsipError``.
    """
    method, weights = build_method(config, load=checkpoint is None)
    config = as_built(config, method.encoder)
    method = method.to(device)
    groups = apply_paradigm(method, config.paradigm, weight_decay=config.weight_decay, layer_decay=config.layer_decay)
    optimizer = make_optimizer(groups, beta2=config.beta2)
    if checkpoint:
        restore(checkpoint, method, optimizer)
    return Assembled(config, method, optimizer, weights)


def open_dataset(config: PretrainConfig, method: Method, root: str | Path, *, run: Path) -> PretrainDataset:
    """The crops that ``method`` sees, of the images under ``root`` that the index in ``run`` lists."""
    return PretrainDataset(
        ImageIndex(run / INDEX),
        root,
        seed=config.seed,
        crop=RoiCrop(size=config.image_size, p=config.roi_p),
        sampler=method.sampler(),
        views=method.views(),
    )
