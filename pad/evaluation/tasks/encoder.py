"""A contestant's encoder made ready for a task: its weights, its input size, and what of it trains."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from msip.errors import EvaluationError
from pad.adapters.attach import ADAPTER, attach_adapters, blocks_of, has_adapters
from pad.adapters.lora import LORA, attach_lora
from pad.encoders import create_encoder, load_encoder
from pad.encoders.create import check_name
from pad.encoders.fit import UNUSED
from pad.encoders.layer_decay import layer_scale
from pad.encoders.layouts import ENCODER
from pad.encoders.tokens import patch_size

Mode = Literal["full", "adapter", "frozen", "lora"]
MODES: tuple[Mode, ...] = get_args(Mode)
RANDOM = "random:"
"""``random:NAME``: timm's model NAME without any pre-training, the floor of every comparison."""
LORA_RANK = 32

Groups: TypeAlias = "list[dict[str, Any]]"


def check_weights(weights: str) -> None:
    """Refuse names that timm does not have and paths that are not there. Raises ``MsipError``; nothing is loaded."""
    name = weights.removeprefix(RANDOM).removeprefix("timm:")
    if weights.startswith((RANDOM, "timm:")):
        check_name(name)
    elif not Path(weights).exists():
        raise EvaluationError(
            f"{weights} does not exist; give a run, a file or folder of weights, timm:NAME, or {RANDOM}NAME."
        )


def prepare_encoder(
    weights: str, mode: Mode, *, image_size: int, drop_path: float, seed: int, multiple: int = 1
) -> nn.Module:
    """The encoder at the task's input size, with the adapters or LoRA that its mode trains.

    ``full``: all of it trains, adapters included, as the reference fine-tunes. ``adapter``: its adapters alone; an
    encoder without gets fresh ones. ``lora``: LoRA on its attention. ``frozen``: nothing.

    Args:
        weights: what ``load_encoder`` reads, or ``random:NAME``.
        mode: what trains beside the head.
        image_size: side of the square input, in pixels; position embeddings are resampled to it.
        drop_path: stochastic depth of the last block, rising from 0; none where the encoder is frozen.
        seed: of what is drawn at random.
        multiple: of how many pixels the task's sizes have to be, beside the patches.

    Raises:
        EvaluationError: an unknown mode, or a size that is no multiple of the patches, or of ``multiple``.
        WeightsError, ModelError: the weights cannot be loaded.
    """
    if mode not in MODES:
        raise EvaluationError(f"the mode is {mode!r}; choose one of {', '.join(MODES)}.")
    torch.manual_seed(seed)
    name = weights.removeprefix(RANDOM)
    encoder = create_encoder(name, init="random")[0] if weights.startswith(RANDOM) else load_encoder(weights)
    _set_size(encoder, image_size, multiple)
    if mode == "adapter" and not has_adapters(encoder):
        attach_adapters(encoder)
    if mode == "lora":
        attach_lora(encoder, rank=LORA_RANK, blocks=range(len(blocks_of(encoder))))
    if mode != "frozen":
        _set_drop_path(encoder, drop_path)
    for parameter_name, parameter in encoder.named_parameters():
        parameter.requires_grad_(_trains(parameter_name, mode))
    return encoder


def _set_size(encoder: Any, image_size: int, multiple: int) -> None:
    patch = patch_size(encoder)[0]
    step = math.lcm(patch, multiple)
    if image_size % step:
        below, above = image_size // step * step, (image_size // step + 1) * step
        also = f" and {multiple} px at once" if multiple > 1 else ""
        raise EvaluationError(
            f"--image-size {image_size} is no multiple of the encoder's patches, {patch} px{also}; choose "
            f"{f'{below} or ' if below else ''}{above}."
        )
    if tuple(encoder.patch_embed.img_size) != (image_size, image_size):
        encoder.set_input_size((image_size, image_size))


def _set_drop_path(encoder: nn.Module, rate: float) -> None:
    blocks: list[Any] = blocks_of(encoder)
    for block, share in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist(), strict=True):
        block.drop_path1 = DropPath(share) if share else nn.Identity()
        block.drop_path2 = DropPath(share) if share else nn.Identity()


def _trains(name: str, mode: Mode) -> bool:
    if name.startswith((*UNUSED, "norm.")):  # maps are taken before the final norm
        return False
    return mode == "full" or (mode == "adapter" and ADAPTER in name) or (mode == "lora" and LORA in name)


class TaskModel(nn.Module):
    """An encoder under a head; where nothing of it trains, it stays as in evaluation and without gradients."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.frozen = not any(parameter.requires_grad for parameter in encoder.parameters())

    def train(self, mode: bool = True) -> TaskModel:
        """As ``nn.Module.train``, a frozen encoder left out."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def features(self, images: Tensor, layers: list[int]) -> list[Tensor]:
        """(b, D, rows, columns) after each of ``layers``, before the encoder's final norm as in the reference."""
        encoder: Any = self.encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps: list[Tensor] = encoder.forward_intermediates(
                images, indices=layers, norm=False, intermediates_only=True, output_fmt="NCHW"
            )
        return maps


def out_layers(encoder: nn.Module) -> list[int]:
    """Blocks whose output a pyramid is made of: 3, 5, 7, 11 of twelve as in the reference, in proportion otherwise."""
    depth = len(blocks_of(encoder))
    return [max(0, round(depth * share / 12) - 1) for share in (4, 6, 8, 12)]


def parameter_groups(model: TaskModel, *, weight_decay: float, layer_decay: float) -> Groups:
    """What trains, by weight decay (on matrices only) and learning-rate factor (``layer_decay`` per block)."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            scale = layer_scale(model, name, layer_decay) if name.startswith(ENCODER) else 1.0
            groups.setdefault((weight_decay if parameter.ndim >= 2 else 0.0, scale), []).append(parameter)
    return [{"params": p, "weight_decay": decay, "lr_scale": scale} for (decay, scale), p in groups.items()]


def embed_dim(encoder: Any) -> int:
    """Width of the tokens."""
    width: int = blocks_of(encoder)[0].norm1.weight.shape[0]  # type: ignore[union-attr, index, assignment]
    return width
