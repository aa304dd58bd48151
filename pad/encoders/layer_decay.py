"""Layer-wise learning-rate decay of a ViT (facebookresearch/mae ``util/lr_decay.py``)."""

from __future__ import annotations

from typing import Any

from torch import nn

from pad.adapters.attach import blocks_of
from pad.encoders.layouts import ENCODER


def layer_scale(method: nn.Module, name: str, layer_decay: float) -> float:
    """Learning-rate factor of a parameter of what has an ``encoder``: ``layer_decay`` to the number of layers above it.

    Ids as the reference's ``util/lr_decay.py``: 0 for embeddings, i + 1 for block i, one more for all the rest.
    """
    encoder: Any = method.encoder
    top = len(blocks_of(encoder)) + 1
    inner = name.removeprefix(ENCODER)
    if not name.startswith(ENCODER):
        layer = top
    elif inner.startswith("blocks."):
        layer = int(inner.split(".")[1]) + 1
    else:
        layer = (
            0
            if inner.startswith(("patch_embed", "cls_token", "dist_token", "reg_token", "pos_embed", "norm_pre"))
            else top
        )
    return float(layer_decay ** (top - layer))
