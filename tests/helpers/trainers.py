"""A trainer of a small run, assembled and not started."""

from __future__ import annotations

from functools import partial

import torch

from msip.files import make_output_folder
from pad.training.pretrain import assemble
from pad.training.processes import Ranks
from pad.training.trainer import Trainer

CPU = torch.device("cpu")


def trainer_of(options, device=CPU, **ranks) -> Trainer:
    claim = partial(make_output_folder, options.out)
    place = {"device": device, "stored": None, "checkpoint": None}
    return assemble(options, ranks=Ranks(**ranks), claim=claim, **place)[0]
