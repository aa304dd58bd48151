"""The layouts that ViT weights come in, each turned into one set of names.

After conversion the encoder has timm's names, adapters are ``blocks.<i>.adapter.*``, and what belongs to a pre-training
head keeps the names of ``pad.methods``, which are those of MAE (``decoder_blocks.*``, ``mask_token``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from msip.errors import WeightsError
from pad.adapters import ADAPTER, Fusion, PadConfig, Scale
from pad.encoders.files import State

Layout: TypeAlias = Callable[[State], State | None]
"""Converted tensors, or None where the names are not of this layout."""

ENCODER = "encoder."  # how a pre-training method names its encoder's tensors

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_PAD_NAMES = {
    ".adaptmlp.adapter_layer_norm_before.": ".adapter.norm.",
    ".adaptmlp.down_proj.": ".adapter.down.",
    ".adaptmlp.up_proj.": ".adapter.up.",
    ".adaptmlp.scale": ".adapter.scale",
    ".scalar_pred.": ".adapter.scale_predictor.",
}


def pad_run(state: State) -> State | None:
    """A checkpoint of this project: the encoder's tensors under ``encoder.``, the method's beside them."""
    if f"{ENCODER}patch_embed.proj.weight" not in state:
        return None
    return {name.removeprefix(ENCODER): tensor for name, tensor in state.items()}


def pad_reference(state: State) -> State | None:
    """casiatao/PAD ``models_mae.py``: adapters as ``blocks.<i>.adaptmlp.*`` and ``blocks.<i>.scalar_pred.weight``."""
    if not any(".adaptmlp." in name for name in state):
        return None
    return {_renamed(name): tensor for name, tensor in state.items()}


def mae(state: State) -> State | None:
    """facebookresearch/mae with its decoder; encoder-only MAE files are plain timm names."""
    return dict(state) if "decoder_embed.weight" in state and _is_timm(state) else None


def timm(state: State) -> State | None:
    """The names of a timm ViT, with this project's adapters or without."""
    return dict(state) if _is_timm(state) else None


LAYOUTS: dict[str, Layout] = {"pad-run": pad_run, "pad-reference": pad_reference, "mae": mae, "timm": timm}
"""Tried in this order; a new layout is one more function."""


@dataclass(frozen=True)
class Converted:
    """Weights under this project's names, and the layout they came in."""

    layout: str
    state: State


def convert(state: State, source: Path | str) -> Converted:
    """Recognise the layout by its names and convert in memory. Raises ``WeightsError`` for an unknown one."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    for layout, function in LAYOUTS.items():
        converted = function(plain)
        if converted is not None:
            return Converted(layout, converted)
    names = ", ".join(sorted(plain)[:2])
    raise WeightsError(f"{source} is in no known layout (it holds {names} ...); known are {', '.join(LAYOUTS)}.")


def adapter_config(state: State, source: Path | str) -> PadConfig | None:
    """The ``PadConfig`` that converted weights imply, None without adapters. Raises ``WeightsError`` if ambiguous."""
    adapters = {name: tensor for name, tensor in state.items() if ADAPTER in name}
    if not adapters:
        return None
    blocks = sorted({int(name.split(".")[1]) for name in adapters})
    depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
    down_size, embed_dim = adapters[f"blocks.{blocks[0]}.adapter.down.weight"].shape
    predictor = adapters.get(f"blocks.{blocks[0]}.adapter.scale_predictor.weight")
    if predictor is not None and predictor.shape[1] == embed_dim:
        raise WeightsError(
            f"the scale predictors of {source} may be of fusion sum, side or gside; attach adapters of the right "
            "PadConfig to a model and pass it as model=."
        )
    fusion: Fusion = "concat"
    scale: Scale = "patchwise" if predictor is not None else "fixed"
    if predictor is None:
        values = {float(adapters[f"blocks.{index}.adapter.scale"]) for index in blocks}
        scale = "fixed" if len(values) == 1 else "learnable"  # the model computes the same either way
    every = None if len(blocks) == depth else tuple(blocks)
    return PadConfig(down_size=down_size, scale=scale, fusion=fusion, blocks=every)


def _is_timm(state: State) -> bool:
    return "patch_embed.proj.weight" in state and "blocks.0.norm1.weight" in state


def _renamed(name: str) -> str:
    for theirs, ours in _PAD_NAMES.items():
        name = name.replace(theirs, ours)
    return name
