"""SimMIM (Xie et al., arXiv 2111.09886; microsoft/SimMIM): mask tokens inside the encoder, pixels by a linear head."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor, nn

from msip.errors import ModelError
from pad.encoders.tokens import check_token_access, embed, grid_size, patch_size, run_blocks
from pad.methods.base import Method, MethodOptions, MethodOutput
from pad.methods.patches import NoiseSampler, initialise_vit, patchify, unpatchify

MASK_UNIT_PX = 32


class SimMIMOptions(MethodOptions):
    """Options of ``--method simmim``."""

    mask_ratio: float = Field(0.6, description="Share of hidden patches.", gt=0, lt=1)


class SimMIM(Method):
    """All tokens are encoded, hidden ones as one learnt mask token, which so passes through the adapters.

    Patches are hidden in squares of 32 px, ``ceil(units * mask_ratio)`` of them, those with the smallest noise. The
    loss is the mean absolute error on hidden pixels.

    Args:
        encoder: a timm ViT, with adapters or without.
        mask_ratio: share of hidden squares.

    Raises:
        ModelError: an encoder whose tokens cannot be reached, or a ratio that hides nothing or all.
    """

    options = SimMIMOptions
    recipe = MappingProxyType({"beta2": 0.999, "clip_grad": 5.0})  # microsoft/SimMIM config.py
    upstream = (
        MappingProxyType(  # vit_base__800ep: lr 1e-4 for 512 images, 2048 a step; a step at epoch 700, here a cosine
            {"epochs": 800, "warmup_epochs": 10.0, "effective_batch": 2048, "blr": 5e-5}
        )
    )
    paints = True

    def __init__(self, encoder: nn.Module, *, mask_ratio: float = 0.6) -> None:
        super().__init__(encoder)
        check_token_access(encoder, "SimMIM")
        self.grid, self.patch = grid_size(encoder), patch_size(encoder)
        self.unit = (max(1, MASK_UNIT_PX // self.patch[0]), max(1, MASK_UNIT_PX // self.patch[1]))
        if math.prod(self.grid) // math.prod(self.unit) < 4:  # tiny images
            self.unit = (1, 1)
        self.units = (math.ceil(self.grid[0] / self.unit[0]), math.ceil(self.grid[1] / self.unit[1]))
        self.hidden = math.ceil(math.prod(self.units) * mask_ratio)
        if not 0 < self.hidden < math.prod(self.units):
            raise ModelError(
                f"mask_ratio {mask_ratio} hides {self.hidden} of {math.prod(self.units)} squares; choose one that "
                "keeps some and hides some, e.g. 0.6."
            )
        channels, width = int(self.encoder.patch_embed.proj.in_channels), int(self.encoder.embed_dim)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.head = nn.Linear(width, self.patch[0] * self.patch[1] * channels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def initialise_encoder(self) -> None:
        """MAE's start from scratch."""
        initialise_vit(self.encoder, self.grid)

    def sampler(self) -> NoiseSampler:
        """Draws the noise of one sample's squares."""
        return NoiseSampler(math.prod(self.units))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> MethodOutput:
        """Loss, predicted patches (b, patches, p * q * c) and mask (b, patches) for normalised images (b, c, h, w).

        ``noise`` (b, squares) decides the mask; drawn from torch's generator when omitted.
        """
        if noise is None:
            noise = torch.rand(images.shape[0], math.prod(self.units), device=images.device)
        mask = self.mask_of(noise)
        tokens = run_blocks(self.encoder, embed(self.encoder, images, mask=mask, mask_token=self.mask_token))
        prediction = self.head(tokens[:, self.encoder.num_prefix_tokens :])
        error = (prediction.float() - patchify(images, self.patch).float()).abs().mean(dim=-1)
        return MethodOutput((error * mask).sum() / mask.sum(), prediction, mask)

    def mask_of(self, noise: Tensor) -> Tensor:
        """(b, patches), 1 = hidden, for the noise of the squares (b, squares)."""
        chosen = noise.argsort(dim=1, stable=True)[:, : self.hidden]
        squares = torch.zeros_like(noise).scatter_(1, chosen, 1.0).view(-1, *self.units)
        mask = squares.repeat_interleave(self.unit[0], 1).repeat_interleave(self.unit[1], 2)
        return mask[:, : self.grid[0], : self.grid[1]].flatten(1)

    def panel(self, images: Tensor, output: MethodOutput) -> tuple[Tensor, ...]:
        """Input, masked input (hidden = 0) and reconstruction (visible patches as they are), each (b, c, h, w)."""
        patches, hidden = patchify(images, self.patch), output.mask.unsqueeze(-1).to(images.dtype)
        seen = patches * (1 - hidden)
        painted = seen + output.prediction.to(images.dtype) * hidden
        return (images, *(unpatchify(picture, self.grid, self.patch) for picture in (seen, painted)))
