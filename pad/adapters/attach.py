"""The patchwise-scale adapter of PAD (arXiv 2312.08192, Fig. 2; casiatao/PAD ``models_mae.py``), on any timm ViT.

With x' the tokens after the attention residual, m the MLP branch and d the bottleneck width, a block computes::

    h = Up(Dropout(ReLU(Down(LayerNorm(x')))))           Down: D -> d, Up: d -> D, zero at the start
    s = 0.5 | a learnable scalar | sigmoid(W [m; h])     one scale a token, W = 0 at the start
    x'' = x' + drop_path(m) + s * h                      m = layer_scale(mlp(norm2(x')))

The block keeps its parameters under timm's names, so the trunk of an adapted model still loads into, and from, a plain
timm model; the adapter adds ``blocks.<i>.adapter.*``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from timm.models.beit import Block as BeitBlock
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from msip.errors import ModelError
from pad.adapters.bottleneck import Adapter, PadConfig

ADAPTER = ".adapter."  # every adapter tensor has this in its name, no trunk tensor has


class _SecondHalf:
    """An adapted block as timm's own block ``forward`` sees it.

    ``norm2``, layer scale and ``drop_path2`` let everything through and ``mlp`` is the whole second half, adapter
    included; all else is the block. So timm's forward, its attention half with whatever arguments the installed timm
    passes, runs as it is: nothing of it is repeated here, nothing is hooked, and no parameter changes its name.
    """

    def __init__(self, block: _Adapted) -> None:
        self.block = block
        self.mlp = block.second_half
        self.gamma_2 = block.unit_gamma

    def __getattr__(self, name: str) -> Any:
        return getattr(self.block, name)

    @staticmethod
    def norm2(x: Tensor) -> Tensor:
        return x

    ls2 = drop_path2 = norm2


class _Adapted(nn.Module):
    """What the adapted block classes share; a block becomes one by taking its class, keeping all it holds."""

    plain: ClassVar[type[nn.Module]]
    adapter: Adapter
    norm2: nn.Module
    mlp: nn.Module
    drop_path2: nn.Module
    unit_gamma: float | None = None  # stands for a layer scale that ``mlp_branch`` has already applied

    def mlp_branch(self, x: Tensor) -> Tensor:
        """The frozen branch m, layer scale included, (b, n, D)."""
        raise NotImplementedError

    def second_half(self, x: Tensor) -> Tensor:
        """All that the block adds to x' (b, n, D) after attention; stochastic depth drops m only, as the reference."""
        m = self.mlp_branch(x)
        return self.drop_path2(m) + self.adapter(x, m)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's forward of this block, on the block itself or, with the adapter on, on its second-half view."""
        if not self.adapter.enabled:
            return self.plain.forward(self, x, *args, **kwargs)
        return self.plain.forward(_SecondHalf(self), x, *args, **kwargs)


class AdaptedBlock(_Adapted, Block):
    """timm ``vision_transformer.Block`` (ViT, DeiT, DINOv2, CLIP, SigLIP) with an adapter."""

    plain = Block
    ls2: nn.Module

    def mlp_branch(self, x: Tensor) -> Tensor:
        """The frozen branch m, layer scale included, (b, n, D)."""
        return self.ls2(self.mlp(self.norm2(x)))


class _GammaAdapted(_Adapted):
    gamma_2: nn.Parameter | None

    def mlp_branch(self, x: Tensor) -> Tensor:
        """The frozen branch m, layer scale included, (b, n, D)."""
        m = self.mlp(self.norm2(x))
        return m if self.gamma_2 is None else self.gamma_2 * m


class AdaptedEvaBlock(_GammaAdapted, EvaBlock):
    """timm ``eva.EvaBlock`` (EVA-02, DINOv3, Perception Encoder) with an adapter."""

    plain = EvaBlock


class AdaptedBeitBlock(_GammaAdapted, BeitBlock):
    """timm ``beit.Block`` (BEiT, BEiT v2) with an adapter."""

    plain = BeitBlock
    unit_gamma = 1.0  # BEiT's forward multiplies by gamma_2 whenever gamma_1 is there


_ADAPTED: dict[type[nn.Module], type[_Adapted]] = {
    cls.plain: cls for cls in (AdaptedBlock, AdaptedEvaBlock, AdaptedBeitBlock)
}


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks of a timm ViT, in order. Raises ``ModelError`` for a model without any."""
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)) or not len(blocks):
        raise ModelError(
            f"{type(model).__name__} has no list of transformer blocks; adapters need a timm vision transformer, "
            "e.g. vit_base_patch16_224."
        )
    return list(blocks)


def adapted_blocks(model: nn.Module) -> list[_Adapted]:
    """The blocks that carry an adapter, in order (empty for a plain model)."""
    return [module for module in model.modules() if isinstance(module, _Adapted)]


def has_adapters(model: nn.Module) -> bool:
    """Whether any block of ``model`` carries an adapter."""
    return bool(adapted_blocks(model))


def attach_adapters(model: nn.Module, config: PadConfig | None = None) -> nn.Module:
    """Attach adapters in place to a timm ViT and return it; its outputs stay what they were until the first step.

    The adapters take each block's device and dtype and train; the trunk's ``requires_grad`` is left alone. Raises
    ``ModelError`` for a model or block that does not fit, or that already has adapters; nothing is changed then.
    """
    config = config or PadConfig()
    if has_adapters(model):
        raise ModelError("this model already has adapters; call detach_adapters(model) first to replace them.")
    blocks = blocks_of(model)
    for index, block in chosen_blocks(blocks, config):
        if type(block) not in _ADAPTED:
            fitting = ", ".join(f"{cls.__module__}.{cls.__name__}" for cls in _ADAPTED)
            name = f"{type(block).__module__}.{type(block).__name__}"
            raise ModelError(
                f"block {index} of {type(model).__name__} is a {name}; adapters fit {fitting}: choose another model."
            )
    made = {}
    for index, block in chosen_blocks(blocks, config):
        like = block.norm1.weight
        made[index] = Adapter(like.shape[0], config, device=like.device, dtype=like.dtype)
    return put_adapters(model, config, made)


def put_adapters(model: nn.Module, config: PadConfig, adapters: dict[int, Adapter]) -> nn.Module:
    """Put existing adapters, by block index, on a model without any, in place; they follow its device and mode."""
    blocks: list[Any] = blocks_of(model)
    for index, adapter in adapters.items():
        block = blocks[index]
        block.__class__ = _ADAPTED[type(block)]
        block.adapter = adapter.to(block.norm1.weight.device).train(block.training)
    model.pad_config = config  # type: ignore[assignment]
    return model


def chosen_blocks(blocks: list[nn.Module], config: PadConfig) -> list[tuple[int, Any]]:
    """(index, block) of the blocks that ``config`` adapts."""
    if config.blocks is None:
        return list(enumerate(blocks))
    outside = [index for index in config.blocks if not 0 <= index < len(blocks)]
    if outside:
        raise ModelError(f"blocks names {outside}; this model has blocks 0 to {len(blocks) - 1}.")
    return [(index, blocks[index]) for index in sorted(config.blocks)]


def detach_adapters(model: nn.Module) -> nn.Module:
    """Take the adapters off in place: the model is the plain timm model again. Returns it."""
    for block in adapted_blocks(model):
        del block.adapter
        block.__class__ = block.plain  # type: ignore[assignment]
    if hasattr(model, "pad_config"):
        del model.pad_config
    return model


@contextmanager
def adapters_enabled(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Inside, adapters are on or off; off, the model is the base model bit for bit."""
    blocks = adapted_blocks(model)
    before = [block.adapter.enabled for block in blocks]
    for block in blocks:
        block.adapter.enabled = enabled
    try:
        yield
    finally:
        for block, value in zip(blocks, before, strict=True):
            block.adapter.enabled = value


def adapter_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of every adapter parameter, scale predictors and learnable scales included."""
    return ((name, parameter) for name, parameter in model.named_parameters() if ADAPTER in name)


def scale_predictors(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """(name, parameter) of the predictors of patchwise scales, which ``scale_freeze`` holds; other kinds have none."""
    return ((n, parameter) for n, parameter in adapter_parameters(model) if n.endswith(".scale_predictor.weight"))


def count_adapter_parameters(model: nn.Module) -> int:
    """Number of adapter parameters: 1,226,496 for ViT-B with the default ``PadConfig`` (the paper's 1.23 M)."""
    return sum(parameter.numel() for _, parameter in adapter_parameters(model))


def adapter_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' tensors under the model's names, ``blocks.<i>.adapter.*``."""
    return {name: tensor for name, tensor in model.state_dict().items() if ADAPTER in name}


def trunk_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """All other tensors, under timm's names: what a plain timm model of the same architecture loads."""
    return {name: tensor for name, tensor in model.state_dict().items() if ADAPTER not in name}


@contextmanager
def recorded_scales(model: nn.Module) -> Iterator[None]:
    """Inside, each forward keeps its scales on the device, for ``mean_scales`` and ``token_scales``.

    Nothing is read from the device; the record of the last forward stays readable after the block.
    """
    blocks = adapted_blocks(model)
    for block in blocks:
        block.adapter.recording = True
    try:
        yield
    finally:
        for block in blocks:
            block.adapter.recording = False


def token_scales(model: nn.Module) -> list[Tensor]:
    """Scales of the last recorded forward, one tensor a block: (b, n, 1) patchwise, else (1,). Empty if none."""
    return [block.adapter.last_scales for block in adapted_blocks(model) if block.adapter.last_scales is not None]


def mean_scales(model: nn.Module) -> Tensor | None:
    """Mean scale of each adapted block, (blocks,) float32 on the model's device; None before a recorded forward."""
    scales = token_scales(model)
    return torch.stack([scale.float().mean() for scale in scales]) if scales else None


def config_of(model: nn.Module) -> PadConfig:
    """The ``PadConfig`` of the attached adapters."""
    config: PadConfig = model.pad_config  # type: ignore[assignment]
    return config
