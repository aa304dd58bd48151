"""The layouts that ViT weights come in, each turned into one set of names.

After conversion the encoder has timm's names, adapters are ``blocks.<i>.adapter.*``, and what belongs to a pre-training
head keeps the names of ``pad.methods``, which are those of MAE (``decoder_blocks.*``, ``mask_token``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from msip.errors import WeightsError
from pad.adapters import ADAPTER
from pad.bottleneck import PadConfig, Scale

State: TypeAlias = dict[str, Tensor]

ENCODER = "encoder."  # how a pre-training method names its encoder's tensors

_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")
_HEAD = ("decoder_", "mask_token")
_PAD_NAMES = {
    ".adaptmlp.adapter_layer_norm_before.": ".adapter.norm.",
    ".adaptmlp.down_proj.": ".adapter.down.",
    ".adaptmlp.up_proj.": ".adapter.up.",
    ".adaptmlp.scale": ".adapter.scale",
    ".scalar_pred.": ".adapter.scale_predictor.",
}


@dataclass(frozen=True)
class Parts:
    """Weights under this project's names: the encoder's (adapters included), the head's, and the layout they had."""

    encoder: State
    head: State = field(default_factory=dict)
    layout: str = ""


def from_run(state: State) -> Parts:
    """A checkpoint of this project: the encoder's tensors under ``encoder.``, the method's beside them."""
    encoder = {name.removeprefix(ENCODER): tensor for name, tensor in state.items() if name.startswith(ENCODER)}
    return Parts(encoder, {name: tensor for name, tensor in state.items() if not name.startswith(ENCODER)})


def from_pad_reference(state: State) -> Parts:
    """casiatao/PAD ``models_mae.py``: adapters as ``blocks.<i>.adaptmlp.*`` and ``blocks.<i>.scalar_pred.weight``."""
    return from_mae({_renamed(name): tensor for name, tensor in state.items()})


def from_mae(state: State) -> Parts:
    """facebookresearch/mae: timm's names, the decoder beside them."""
    head = {name: tensor for name, tensor in state.items() if name.startswith(_HEAD)}
    return Parts({name: tensor for name, tensor in state.items() if name not in head}, head)


def from_timm(state: State) -> Parts:
    """A timm ViT, with this project's adapters or without; MAE's encoder-only files are of this layout too."""
    return Parts(dict(state))


def _is_timm(names: set[str]) -> bool:
    return "patch_embed.proj.weight" in names and "blocks.0.norm1.weight" in names


LAYOUTS: dict[str, tuple[Callable[[set[str]], bool], Callable[[State], Parts]]] = {
    "this project's run": (lambda names: f"{ENCODER}patch_embed.proj.weight" in names, from_run),
    "PAD reference": (lambda names: any(".adaptmlp." in name for name in names), from_pad_reference),
    "Facebook MAE with decoder": (lambda names: "decoder_embed.weight" in names and _is_timm(names), from_mae),
    "timm": (_is_timm, from_timm),
}
"""How a layout is recognised by its names, and how it is converted; tried in this order."""


def take_apart(state: State, source: Path | str) -> Parts:
    """Recognise the layout by its names and convert in memory. Raises ``WeightsError`` for an unknown one."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    for layout, (recognises, converts) in LAYOUTS.items():
        if recognises(set(plain)):
            parts = converts(plain)
            return Parts(parts.encoder, parts.head, layout)
    names = ", ".join(sorted(plain)[:2])
    raise WeightsError(f"{source} is in no known layout (it holds {names}); known are: {', '.join(LAYOUTS)}.")


def depth_of(state: State) -> int:
    """Number of blocks that converted encoder weights have."""
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def adapter_config(state: State, source: Path | str) -> PadConfig | None:
    """The ``PadConfig`` that converted weights imply, None without adapters.

    Raises ``WeightsError`` if they could be of several: predictors of fusion sum, side and gside have one shape.
    """
    adapters = {name: tensor for name, tensor in state.items() if ADAPTER in name}
    if not adapters:
        return None
    blocks = sorted({int(name.split(".")[1]) for name in adapters})
    try:
        down_size, embed_dim = adapters[f"blocks.{blocks[0]}.adapter.down.weight"].shape
        predictor = adapters.get(f"blocks.{blocks[0]}.adapter.scale_predictor.weight")
        values = (
            [] if predictor is not None else [round(float(adapters[f"blocks.{i}.adapter.scale"]), 6) for i in blocks]
        )
    except (KeyError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{source} lacks parts of its adapters ({error}); get it again.") from error
    every = None if len(blocks) == depth_of(state) else tuple(blocks)
    if predictor is None:
        scale: Scale = "fixed" if len(set(values)) == 1 else "learnable"  # files do not tell; outputs are the same
        return PadConfig(down_size=down_size, scale=scale, scale_init=values[0], blocks=every)
    if predictor.shape[1] != 2 * embed_dim:
        raise WeightsError(
            f"the scale predictors of {source} may be of fusion sum, side or gside; attach adapters of the right "
            "PadConfig to a model and pass it as model=."
        )
    return PadConfig(down_size=down_size, blocks=every)


def _renamed(name: str) -> str:
    for theirs, ours in _PAD_NAMES.items():
        name = name.replace(theirs, ours)
    return name
