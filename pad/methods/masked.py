"""What MAE and MILAN share: visible patches alone are encoded, a small transformer predicts from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from msip.errors import ModelError, MsipError, WeightsError
from pad.adapters.attach import attach_adapters
from pad.adapters.bottleneck import PadConfig
from pad.encoders.layouts import ENCODER, Parts, adapter_config, from_pad_reference
from pad.encoders.tokens import check_token_access, grid_size, patch_size
from pad.methods.base import Method, MethodOptions
from pad.methods.patches import NoiseSampler, initialise_vit, sincos_pos_embed, xavier

_norm_layer = partial(nn.LayerNorm, eps=1e-6)


class DecoderOptions(MethodOptions):
    """Mask and decoder; the reference's values by default."""

    mask_ratio: float = Field(0.75, description="Share of hidden patches.", gt=0, lt=1)
    decoder_embed_dim: int = Field(512, description="Width of the decoder.", ge=1)
    decoder_depth: int = Field(8, description="Blocks of the decoder.", ge=1)
    decoder_num_heads: int = Field(16, description="Attention heads of the decoder.", ge=1)


class MaskedAutoencoder(Method):
    """Encoder of the visible patches and a decoder under the reference's names (``decoder_*``, ``mask_token``).

    ``decoder``: (width, depth, heads); ``block``: its block, called as timm's ``Block``. A subclass sets the width of
    its prediction with ``set_prediction`` and defines ``forward``.
    """

    frozen_with_adapters = ("decoder_embed.",)
    fixed: ClassVar[tuple[str, ...]] = ("encoder.pos_embed",)

    def __init__(
        self, encoder: nn.Module, *, mask_ratio: float, decoder: tuple[int, int, int], block: Callable[..., nn.Module]
    ) -> None:
        super().__init__(encoder)
        width, depth, heads = decoder
        check_token_access(encoder, type(self).__name__)
        if width % heads or width % 4:
            raise ModelError(
                f"decoder_embed_dim {width} must be divisible by 4 and by decoder_num_heads {heads}; e.g. 512 and 16."
            )
        model = self.encoder
        self.grid, self.patch = grid_size(encoder), patch_size(encoder)
        self.patches, self.mask_ratio = self.grid[0] * self.grid[1], mask_ratio
        self.in_chans = int(model.patch_embed.proj.in_channels)
        self.visible = int(self.patches * (1 - mask_ratio))
        if not 0 < self.visible < self.patches:
            raise ModelError(
                f"mask_ratio {mask_ratio} leaves {self.visible} of {self.patches} patches visible; choose one "
                "between 0 and 1 that keeps some and hides some, e.g. 0.75."
            )
        self.decoder_embed = nn.Linear(model.embed_dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed: Tensor
        positions = sincos_pos_embed(width, self.grid, prefix=model.num_prefix_tokens)
        self.register_buffer("decoder_pos_embed", positions)
        self.decoder_blocks = nn.ModuleList(block(width, heads, norm_layer=_norm_layer) for _ in range(depth))
        self.decoder_norm = _norm_layer(width)

    @torch.no_grad()
    def set_prediction(self, values: int) -> None:
        """End the decoder with ``values`` numbers a token, and initialise it."""
        self.decoder_pred = nn.Linear(self.decoder_norm.normalized_shape[0], values)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, *self.decoder_blocks.modules(), self.decoder_pred):
            xavier(module)

    def initialise_encoder(self) -> None:
        """MAE's start from scratch."""
        initialise_vit(self.encoder, self.grid)

    def sampler(self) -> NoiseSampler:
        """Draws the noise of one sample."""
        return NoiseSampler(self.patches)

    def mask_of(self, kept: Tensor) -> Tensor:
        """(b, patches), 1 = hidden, for the visible places (b, visible)."""
        mask = torch.ones(kept.shape[0], self.patches, device=kept.device)
        return mask.scatter_(1, kept, 0.0)

    @classmethod
    def reference_options(cls, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The constructor's options from the reference's metadata; raises ``KeyError`` or ``ValueError``."""
        return {
            "mask_ratio": float(metadata["mask_ratio"]),
            "decoder_embed_dim": int(metadata["decoder_embed_dim"]),
            "decoder_depth": int(metadata["decoder_depth"]),
            "decoder_num_heads": int(metadata["decoder_num_heads"]),
        }

    @classmethod
    def from_reference(cls, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Self:
        """The reference's model from its weights (its key names) and its dimensions, strings as in golden files.

        Raises ``WeightsError`` if they are not of that layout or do not fit each other.
        """
        parts = from_pad_reference(dict(state_dict))
        try:
            method = cls(reference_encoder(parts, metadata), **cls.reference_options(metadata))
        except MsipError:
            raise
        except (KeyError, ValueError) as error:
            raise WeightsError(
                f"the reference's metadata lacks or misstates {error}; give all its dimensions."
            ) from error
        load_reference(method, parts)
        return method


def reference_encoder(parts: Parts, metadata: Mapping[str, str]) -> nn.Module:
    """An empty timm ViT, with adapters if ``parts`` has some, of the dimensions in the reference's metadata.

    Raises ``KeyError`` or ``ValueError`` for metadata that is incomplete or no number.
    """
    encoder = VisionTransformer(
        img_size=int(metadata["img_size"]),
        patch_size=int(metadata["patch_size"]),
        in_chans=parts.encoder["patch_embed.proj.weight"].shape[1],
        embed_dim=int(metadata["embed_dim"]),
        depth=int(metadata["depth"]),
        num_heads=int(metadata["num_heads"]),
        norm_layer=partial(nn.LayerNorm, eps=float(metadata.get("layer_norm_eps", 1e-6))),
        num_classes=0,
    )
    fusion: Any = metadata.get("fusion", "concat")
    if fusion != "concat" and "blocks.0.adapter.scale_predictor.weight" in parts.encoder:
        return attach_adapters(encoder, PadConfig(down_size=int(metadata["down_size"]), fusion=fusion))
    config = adapter_config(parts.encoder, "the reference's state_dict")
    return attach_adapters(encoder, config) if config else encoder


def load_reference(method: Method, parts: Parts) -> None:
    """Load the reference's converted weights, every one of them. Raises ``WeightsError``."""
    tensors = {ENCODER + name: tensor for name, tensor in parts.encoder.items()} | parts.head
    try:
        method.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"these weights do not fit their own metadata ({reason:.200}); check both.") from error
