"""Masked autoencoder (He et al., CVPR 2022), as in the reference of PAD (casiatao/PAD ``pre-training/mae``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from pad.encoders.tokens import embed, run_blocks
from pad.methods.base import MethodOutput
from pad.methods.masked import DecoderOptions, MaskedAutoencoder
from pad.methods.patches import patchify, unpatchify


class MAEOptions(DecoderOptions):
    """Options of ``--method mae``."""

    norm_pix_loss: bool = Field(True, description="Normalise each target patch.")


class MAE(MaskedAutoencoder):
    """MAE around a timm ViT: only visible patches are encoded, a small decoder paints the hidden ones.

    The patches with the smallest noise stay visible, ``int(patches * (1 - mask_ratio))`` of them. The decoder sees the
    prefix tokens (class, distillation, registers) too. Its names are the reference's, and as there ``decoder_embed``
    stays frozen while adapters train and the encoder's ``pos_embed`` is a fixed table in every paradigm.

    Args:
        encoder: a timm ViT, with adapters or without.
        mask_ratio: share of hidden patches.
        norm_pix_loss: predict each patch normalised by its own mean and (unbiased) variance + 1e-6.
        decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder; the reference's by default.

    Raises:
        ModelError: an encoder whose tokens cannot be reached, or options that make no sense.
    """

    options = MAEOptions
    upstream = MappingProxyType(  # facebookresearch/mae PRETRAIN.md: 800 epochs of 4096, blr 1.5e-4, warm-up 40
        {"epochs": 800, "warmup_epochs": 40.0, "effective_batch": 4096, "blr": 1.5e-4}
    )
    published = "mae_pretrain_vit_base_full.pth"
    paints = True

    def __init__(
        self,
        encoder: nn.Module,
        *,
        mask_ratio: float = 0.75,
        norm_pix_loss: bool = True,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
    ) -> None:
        block = partial(Block, qkv_bias=True)
        shape = (decoder_embed_dim, decoder_depth, decoder_num_heads)
        super().__init__(encoder, mask_ratio=mask_ratio, decoder=shape, block=block)
        self.norm_pix_loss = norm_pix_loss
        self.set_prediction(self.patch[0] * self.patch[1] * self.in_chans)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> MethodOutput:
        """Loss, predicted patches (b, patches, p * q * c) and mask (b, patches) for normalised images (b, c, h, w).

        ``noise`` (b, patches) decides the mask; drawn from torch's generator when omitted.
        """
        if noise is None:
            noise = torch.rand(images.shape[0], self.patches, device=images.device)
        kept = noise.argsort(dim=1, stable=True)[:, : self.visible]
        mask = self.mask_of(kept)
        encoded = run_blocks(self.encoder, embed(self.encoder, images).take(kept))
        prediction = self.decode(encoded, kept)
        error = (prediction.float() - self.target(images).float()).square().mean(dim=-1)
        return MethodOutput((error * mask).sum() / mask.sum(), prediction, mask)

    def decode(self, encoded: Tensor, kept: Tensor) -> Tensor:
        """Encoded prefix and visible tokens (b, prefix + visible, D), visible places (b, visible), to all patches."""
        x = self.decoder_embed(encoded)
        prefix = x.shape[1] - self.visible
        hidden = self.mask_token.to(x.dtype).expand(x.shape[0], self.patches, -1)
        places = kept.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        patches = hidden.scatter(1, places, x[:, prefix:])
        x = torch.cat((x[:, :prefix], patches), dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, prefix:]

    def target(self, images: Tensor) -> Tensor:
        """What the decoder should predict, (b, patches, p * q * c): pixels, normalised per patch if so chosen."""
        patches = self.patchify(images)
        if not self.norm_pix_loss:
            return patches
        return (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()

    def patchify(self, images: Tensor) -> Tensor:
        """(b, c, h, w) to (b, patches, p * q * c), see ``pad.methods.patches``."""
        return patchify(images, self.patch)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of ``patchify``: (b, patches, p * q * c) to (b, c, h, w)."""
        return unpatchify(patches, self.grid, self.patch)

    def panel(self, images: Tensor, output: MethodOutput) -> tuple[Tensor, ...]:
        """Input, masked input (hidden = 0) and reconstruction (visible patches as they are), each (b, c, h, w)."""
        patches, prediction = self.patchify(images), output.prediction.to(images.dtype)
        if self.norm_pix_loss:
            deviation = (patches.var(-1, keepdim=True) + 1e-6).sqrt()
            prediction = prediction * deviation + patches.mean(-1, keepdim=True)
        hidden = output.mask.unsqueeze(-1).to(images.dtype)
        pictures = (patches * (1 - hidden), patches * (1 - hidden) + prediction * hidden)
        return (images, *(self.unpatchify(picture) for picture in pictures))

    @classmethod
    def reference_options(cls, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The decoder's dimensions, and ``norm_pix_loss``."""
        norm_pix_loss = metadata.get("norm_pix_loss", "True") == "True"
        return {**super().reference_options(metadata), "norm_pix_loss": norm_pix_loss}
