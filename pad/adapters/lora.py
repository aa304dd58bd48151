"""LoRA on a timm ViT's attention, by peft: the paradigms ``lora`` and ``explora`` (arXiv 2106.09685, 2406.10973).

The update of a projection W is B A with A (rank, D) and B (outputs, rank), on queries, keys and values, unscaled
(peft's ``lora_alpha`` = rank), so that a checkpoint can be merged without its options. Checkpoints keep peft's names;
what a run exports is merged, a plain timm model.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from msip.errors import ModelError
from msip.extras import need
from pad.weights.files import State

LORA = ".lora_"  # every LoRA tensor has this in its name, no other has
_TARGETS = ("qkv", "q_proj", "k_proj", "v_proj")
_BASE = ".base_layer."


def attach_lora(model: nn.Module, *, rank: int, blocks: range) -> nn.Module:
    """Put LoRA on the attention projections of ``blocks``, in place; outputs stay what they were until the first step.

    Raises ``MissingExtra`` without peft, ``ModelError`` for a model whose attention gives LoRA no way in.
    """
    need("lora")
    from peft import LoraConfig, inject_adapter_in_model

    inner: Any = model
    for index in blocks:
        _open_projections(inner.blocks[index].attn, type(model).__name__)
    numbers = "|".join(map(str, blocks))
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        lora_dropout=0.0,
        target_modules=rf"blocks\.(?:{numbers})\.attn\.(?:{'|'.join(_TARGETS)})",
    )
    inject_adapter_in_model(config, model)
    return model


def _open_projections(attention: Any, model: str) -> None:
    """Make sure that the attention calls its projection, and does not just use its weight past LoRA."""
    if not any(isinstance(getattr(attention, name, None), nn.Linear) for name in _TARGETS):
        raise ModelError(
            f"the attention of {model} has no {' or '.join(_TARGETS)} for LoRA; choose another `paradigm`."
        )
    if getattr(attention, "q_bias", None) is None:
        return
    if not hasattr(attention, "qkv_bias_separate"):
        raise ModelError(f"the attention of {model} leaves LoRA out of its projections; choose another `paradigm`.")
    attention.qkv_bias_separate = True  # timm then calls the projection and adds the same bias after it


def has_lora(model: nn.Module) -> bool:
    """Whether ``model`` carries LoRA."""
    return any(LORA in name for name, _ in model.named_parameters())


def merge_lora(state: State) -> State:
    """Tensors with LoRA folded into the weights it sits on, under timm's names; others as they are."""
    merged: State = {}
    for name, tensor in state.items():
        if LORA in name:
            continue
        stem, base, end = name.rpartition(_BASE)
        merged[f"{stem}.{end}" if base else name] = (
            _with_update(state, stem, tensor) if base and end == "weight" else tensor
        )
    return merged


def _with_update(state: State, stem: str, weight: Tensor) -> Tensor:
    pattern = re.compile(re.escape(stem) + r"\.lora_A\.(\w+)\.weight$")
    for name in state:
        found = pattern.match(name)
        if found:
            weight = weight + state[f"{stem}.lora_B.{found[1]}.weight"] @ state[name]
    return weight
