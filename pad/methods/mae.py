"""Masked autoencoder (He et al., CVPR 2022), as in the reference of PAD (casiatao/PAD ``pre-training/mae``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from msip.errors import ModelError, WeightsError
from pad.adapters import attach_adapters
from pad.bottleneck import PadConfig
from pad.encoders.layouts import Parts, adapter_config, from_pad_reference
from pad.encoders.tokens import check_token_access, embed, grid_size, patch_size, run_blocks
from pad.methods.base import ENCODER, Method, MethodOutput

_norm_layer = partial(nn.LayerNorm, eps=1e-6)


@dataclass(frozen=True)
class NoiseSampler:
    """Draws MAE's ``noise`` of one sample: float32 (patches,), uniform in [0, 1)."""

    patches: int

    def __call__(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The sample's inputs."""
        return {"noise": rng.random(self.patches, dtype=np.float32)}


class MAE(Method):
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

    frozen_with_adapters = ("decoder_embed.",)
    fixed = ("encoder.pos_embed",)

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
        super().__init__(encoder)
        check_token_access(encoder, "MAE")
        if decoder_embed_dim % decoder_num_heads or decoder_embed_dim % 4:
            raise ModelError(
                f"decoder_embed_dim {decoder_embed_dim} must be divisible by 4 and by decoder_num_heads "
                f"{decoder_num_heads}; e.g. 512 and 16."
            )
        grid, patch, model = grid_size(encoder), patch_size(encoder), self.encoder
        self.norm_pix_loss, self.mask_ratio = norm_pix_loss, mask_ratio
        self.grid, self.patch, self.in_chans = grid, patch, int(model.patch_embed.proj.in_channels)
        self.visible = int(grid[0] * grid[1] * (1 - mask_ratio))
        if not 0 < self.visible < grid[0] * grid[1]:
            raise ModelError(
                f"mask_ratio {mask_ratio} leaves {self.visible} of {grid[0] * grid[1]} patches visible; choose one "
                "between 0 and 1 that keeps some and hides some, e.g. 0.75."
            )
        self.decoder_embed = nn.Linear(model.embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        positions = sincos_pos_embed(decoder_embed_dim, grid, prefix=model.num_prefix_tokens)
        self.decoder_pos_embed: Tensor
        self.register_buffer("decoder_pos_embed", positions)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, qkv_bias=True, norm_layer=_norm_layer)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = _norm_layer(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch[0] * patch[1] * self.in_chans)
        self._reset_decoder()

    @torch.no_grad()
    def _reset_decoder(self) -> None:
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, *self.decoder_blocks.modules(), self.decoder_pred):
            _xavier(module)

    @torch.no_grad()
    def initialise_encoder(self) -> None:
        """MAE's start from scratch: sin-cos positions, Xavier weights; adapters keep theirs."""
        model = self.encoder
        for block in model.blocks:
            for name, module in block.named_modules():
                if not name.startswith("adapter"):
                    _xavier(module)
        weight = model.patch_embed.proj.weight
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
        for token in (getattr(model, "cls_token", None), getattr(model, "reg_token", None)):
            if token is not None:
                nn.init.normal_(token, std=0.02)
        if getattr(model, "pos_embed", None) is not None:
            prefix = model.pos_embed.shape[1] - self.grid[0] * self.grid[1]
            model.pos_embed.copy_(sincos_pos_embed(model.embed_dim, self.grid, prefix=prefix))

    def sampler(self) -> NoiseSampler:
        """Draws the noise of one sample."""
        return NoiseSampler(self.grid[0] * self.grid[1])

    def forward(self, images: Tensor, noise: Tensor | None = None) -> MethodOutput:  # type: ignore[override]
        """Loss, predicted patches (b, patches, p * q * c) and mask (b, patches) for normalised images (b, c, h, w).

        ``noise`` (b, patches) decides the mask; drawn from torch's generator when omitted.
        """
        if noise is None:
            noise = torch.rand(images.shape[0], self.grid[0] * self.grid[1], device=images.device)
        kept = noise.argsort(dim=1, stable=True)[:, : self.visible]
        mask = torch.ones_like(noise).scatter_(1, kept, 0.0)
        encoded = run_blocks(self.encoder, embed(self.encoder, images).take(kept))
        prediction = self.decode(encoded, kept)
        error = (prediction.float() - self.target(images).float()).square().mean(dim=-1)
        return MethodOutput((error * mask).sum() / mask.sum(), prediction, mask)

    def decode(self, encoded: Tensor, kept: Tensor) -> Tensor:
        """Encoded prefix and visible tokens (b, prefix + visible, D), visible places (b, visible), to all patches."""
        x = self.decoder_embed(encoded)
        prefix = x.shape[1] - self.visible
        hidden = self.mask_token.to(x.dtype).expand(x.shape[0], self.grid[0] * self.grid[1], -1)
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
        """(b, c, h, w) to (b, patches, p * q * c): rows of patches, and in a patch rows, columns, channels, as MAE."""
        (rows, columns), (p, q) = self.grid, self.patch
        x = images.reshape(images.shape[0], self.in_chans, rows, p, columns, q)
        return x.permute(0, 2, 4, 3, 5, 1).reshape(images.shape[0], rows * columns, p * q * self.in_chans)

    def unpatchify(self, patches: Tensor) -> Tensor:
        """The inverse of ``patchify``: (b, patches, p * q * c) to (b, c, h, w)."""
        (rows, columns), (p, q) = self.grid, self.patch
        x = patches.reshape(patches.shape[0], rows, columns, p, q, self.in_chans)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], self.in_chans, rows * p, columns * q)

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
    def from_reference(cls, state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> MAE:
        """The reference's model from its weights (its key names) and its dimensions, strings as in golden files.

        Raises ``WeightsError`` if they are not of that layout or do not fit each other.
        """
        parts = from_pad_reference(dict(state_dict))
        try:
            method = cls(
                reference_encoder(parts, metadata),
                mask_ratio=float(metadata["mask_ratio"]),
                norm_pix_loss=metadata.get("norm_pix_loss", "True") == "True",
                decoder_embed_dim=int(metadata["decoder_embed_dim"]),
                decoder_depth=int(metadata["decoder_depth"]),
                decoder_num_heads=int(metadata["decoder_num_heads"]),
            )
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


def sincos_pos_embed(embed_dim: int, grid: tuple[int, int], *, prefix: int) -> Tensor:
    """MAE's fixed position table (1, prefix + h * w, D): half the width for x, half for y; zeros for the prefix."""
    omega = 1.0 / 10000 ** (np.arange(embed_dim // 4) / (embed_dim / 4))
    y, x = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    parts = [f(axis.reshape(-1, 1) * omega) for axis in (x, y) for f in (np.sin, np.cos)]
    table = np.concatenate(parts, axis=1)
    table = np.concatenate([np.zeros((prefix, embed_dim)), table])
    return torch.from_numpy(table).float().unsqueeze(0)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
