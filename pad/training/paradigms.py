"""What trains. Each paradigm is a function from parameter names to yes or no, and perhaps a learning-rate scale."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from msip.errors import RunError
from pad.adapters.attach import ADAPTER, blocks_of, has_adapters, scale_predictors
from pad.adapters.lora import LORA, attach_lora, has_lora
from pad.encoders.fit import UNUSED
from pad.encoders.layer_decay import layer_scale
from pad.encoders.layouts import ENCODER
from pad.methods.base import Method


def _never_trains(method: Method, name: str) -> bool:
    """What a method keeps fixed, and the parts of a timm ViT that ``forward_features`` does not reach."""
    return name.startswith((*method.fixed, *(ENCODER + part for part in UNUSED)))


def _head_trains(method: Method, name: str) -> bool:
    return not name.startswith(ENCODER)


def _pad_trains(method: Method, name: str) -> bool:
    """Adapters, and the head but for what the method freezes with them (MAE: ``decoder_embed``, as the reference)."""
    if name.startswith(ENCODER):
        return ADAPTER in name
    return not name.startswith(method.frozen_with_adapters)


def _all_train(method: Method, name: str) -> bool:
    return True


def _lora_trains(method: Method, name: str) -> bool:
    return LORA in name or not name.startswith(ENCODER)


def _biases_train(method: Method, name: str) -> bool:
    """BitFit (arXiv 2106.10199): every bias of the encoder, those of its norms included, and the head."""
    return name.endswith("bias") or not name.startswith(ENCODER)


def _explora_trains(method: Method, name: str) -> bool:
    """LoRA, the whole last block, and the head."""
    last = f"{ENCODER}blocks.{len(blocks_of(method.encoder)) - 1}."
    return _lora_trains(method, name) or name.startswith(last)


@dataclass(frozen=True)
class Paradigm:
    """``trains(method, parameter name)``; whether it needs adapters; whether learning rates fall with depth.

    ``unfrozen``: None without LoRA, else how many of the last blocks train whole and get none.
    """

    trains: Callable[[Method, str], bool]
    adapters: bool = False
    layered: bool = False
    unfrozen: int | None = None


PARADIGMS: dict[str, Paradigm] = {
    "pad": Paradigm(_pad_trains, adapters=True),
    "continual": Paradigm(_all_train),
    "layer-decay": Paradigm(_all_train, layered=True),
    "scratch": Paradigm(_all_train),
    "frozen": Paradigm(_head_trains),
    "lora": Paradigm(_lora_trains, unfrozen=0),
    "bitfit": Paradigm(_biases_train),
    "explora": Paradigm(_explora_trains, unfrozen=1),
}
"""``--paradigm``: PAD; the whole model from given weights, flat or with layer-wise decay, or from none; head only;
LoRA; biases; and LoRA with the last block unfrozen, as ExPLoRA (arXiv 2406.10973) does."""


def prepare_encoder(encoder: nn.Module, paradigm: str, *, lora_rank: int) -> None:
    """Give an encoder, weights loaded, the LoRA that its paradigm trains. Raises ``ModelError``."""
    unfrozen = PARADIGMS[paradigm].unfrozen
    if unfrozen is not None:
        attach_lora(encoder, rank=lora_rank, blocks=range(len(blocks_of(encoder)) - unfrozen))


def apply_paradigm(
    method: Method, paradigm: str, *, weight_decay: float = 0.05, layer_decay: float = 0.7
) -> list[dict[str, Any]]:
    """Freeze what does not train, then make the optimizer's groups of what does.

    Weight decay on every tensor of two or more dimensions, adapters, scale predictors and class token included, on the
    mask token, and on nothing else, as the reference (timm 0.3.2 ``add_weight_decay``); with ``layer-decay`` not on
    class token and positions, as its ``lr_decay.py``.

    Args:
        method: its parameters' ``requires_grad`` is set.
        paradigm: a key of ``PARADIGMS``.
        weight_decay: of AdamW.
        layer_decay: with ``layer-decay``: learning-rate factor per block, counted from the top.

    Returns:
        Parameter groups with ``lr_scale``.

    Raises:
        RunError: an unknown paradigm, or one that needs adapters on an encoder without.
    """
    if paradigm not in PARADIGMS:
        raise RunError(f"there is no paradigm {paradigm!r}; choose one of {', '.join(PARADIGMS)}.")
    chosen = PARADIGMS[paradigm]
    if chosen.adapters != has_adapters(method.encoder):
        have = "has" if has_adapters(method.encoder) else "has no"
        raise RunError(f"`paradigm={paradigm}`: the encoder {have} adapters; attach them for `pad` and for it alone.")
    if (chosen.unfrozen is not None) != has_lora(method.encoder):
        raise RunError(
            f"`paradigm={paradigm}` does not fit the encoder; prepare_encoder gives it LoRA where it trains."
        )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        parameter.requires_grad_(chosen.trains(method, name) and not _never_trains(method, name))
        if not parameter.requires_grad:
            parameter.grad = None
            continue
        decay = weight_decay if _decays(name, parameter, layered=chosen.layered) else 0.0
        scale = layer_scale(method, name, layer_decay) if chosen.layered else 1.0
        groups.setdefault((decay, scale), []).append(parameter)
    method.trained({name for name, parameter in method.named_parameters() if parameter.requires_grad})
    return [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale}
        for (decay, scale), parameters in groups.items()
    ]


def _decays(name: str, parameter: nn.Parameter, *, layered: bool) -> bool:
    """Mask tokens decay in SimMIM and iBOT too, where theirs have a dimension or two of size one before them."""
    spared = layered and name in (f"{ENCODER}cls_token", f"{ENCODER}pos_embed")
    return not spared and (parameter.ndim >= 2 or name == "mask_token")


def scales_frozen_at(epoch: int, epochs: int, fraction: float) -> bool:
    """Whether the scale predictors are frozen in ``epoch`` (from 0): up to and including round(fraction * epochs).

    For 100 epochs and 0.6 that is epochs 0 to 60, one more than 60 %, as the reference does; 0 never freezes.
    """
    return fraction > 0 and epoch <= round(fraction * epochs)


def set_scales_frozen(method: Method, frozen: bool) -> None:
    """Stop or let train the scale predictors; without a gradient AdamW neither moves nor decays them.

    A learnable scalar is none of them: it trains from the start, as in the reference (``main_pretrain.py`` freezes
    ``scalar_pred``).
    """
    for _, parameter in scale_predictors(method.encoder):
        parameter.requires_grad_(not frozen)
        if frozen:
            parameter.grad = None
