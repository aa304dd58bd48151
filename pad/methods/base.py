"""The contract of a self-supervised method: images and per-sample inputs in, loss out.

A method is an ``nn.Module`` around an encoder (a timm ViT, with adapters or without). What is random per sample is
drawn in the loader by ``sampler()``, from the sample's own generator, so that a resumed run sees the same masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from pad.adapters.attach import blocks_of
from pad.data.views import InputSampler, MultiCrop
from pad.encoders.layouts import ENCODER


@dataclass
class MethodOutput:
    """What a forward pass returns.

    ``loss``: scalar. ``prediction``: MAE (b, patches, values), MILAN (b, 1 + patches, values) with the class token
    first, iBOT (views * b, prototypes). ``mask``: (b, patches), 1 = hidden from the encoder.
    """

    loss: Tensor
    prediction: Tensor
    mask: Tensor


class MethodOptions(BaseModel):
    """A method's own options: names, types, defaults, limits, and help as ``description``.

    ``msip pretrain`` offers each as an option (``mask_ratio`` is ``--mask-ratio``), ``run.yaml`` keeps them, and the
    method's constructor takes them by name; instead of those of ``TeacherOptions`` it takes the teacher itself.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(nn.Module):
    """A self-supervised method around ``encoder``; what else it holds is its head and trains under every paradigm.

    A subclass defines ``forward(images, **inputs) -> MethodOutput``: loss for normalised images (b, c, h, w) and what
    ``sampler`` drew, batched; inputs that are omitted are drawn in it.

    ``options``: its own options. ``recipe``: defaults of the run (optimizer, weight decay ...) that its upstream code
    has and other methods have not. ``upstream``: the preset that has the method's name: its published recipe.
    ``frozen_with_adapters``: prefixes of the head's parameters that stay frozen while adapters train. ``fixed``:
    prefixes of parameters, the encoder's under ``encoder.``, that train under no paradigm (a fixed table, a teacher).
    ``published``: the name of a published file that brings the head too, to be recommended; empty where there is none.
    ``paints``: whether ``panel`` has a reconstruction to show. ``can_be_sharded``: whether FSDP2 can share its weights
    out among processes.
    """

    options: ClassVar[type[MethodOptions]] = MethodOptions
    recipe: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    upstream: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    frozen_with_adapters: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[tuple[str, ...]] = ()
    published: ClassVar[str] = ""
    paints: ClassVar[bool] = False
    can_be_sharded: ClassVar[bool] = True

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        blocks_of(encoder)
        self.encoder: Any = encoder

    def sampler(self) -> InputSampler | None:
        """What draws the inputs of one sample, None for a method that needs only the image."""
        return None

    def views(self) -> MultiCrop | None:
        """How one image becomes several views, None for a method that takes one crop."""
        return None

    def arguments(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loader's batch on the device, samples first, as forward's arguments."""
        return batch

    def trained(self, names: set[str]) -> None:
        """Called by ``apply_paradigm`` with the names of all parameters that train; nothing by default."""
        return

    def begin_step(self, epoch: float, epochs: float) -> None:
        """Called before each optimizer step with how much is done, in passes over the data; nothing by default."""
        return

    def end_step(self, applied: Tensor) -> None:
        """Called after each optimizer step; ``applied``, bool on the device, is False if it was called off."""
        return

    def initialise_encoder(self) -> None:
        """Give a randomly initialised encoder the method's own initialisation; nothing by default."""
        return

    def panel(self, images: Tensor, output: MethodOutput) -> tuple[Tensor, ...] | None:
        """Pictures (b, c, h, w) in normalised image space, side by side in a panel; None without a reconstruction."""
        del images, output
        return None

    def load_head(self, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
        """Warm-start what is not the encoder from ``LoadReport.head``; returns (missing, unexpected) names.

        A tensor of another shape counts as both: it is left out.
        """
        own = {name: tensor for name, tensor in self.state_dict().items() if not name.startswith(ENCODER)}
        fitting = {n: t for n, t in state.items() if n in own and own[n].shape == t.shape}
        self.load_state_dict(fitting, strict=False)
        return sorted(own.keys() - fitting.keys()), sorted(state.keys() - fitting.keys())
