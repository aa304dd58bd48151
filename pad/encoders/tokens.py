"""A timm ViT's forward in three parts, so that a method can hide, replace or reorder patch tokens in between.

``embed`` -> ``Tokens`` -> ``run_blocks`` uses timm's own patch embedding, position embedding, blocks and norm;
with nothing hidden the result is ``encoder.forward_features``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import PatchEmbed
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from msip.errors import ModelError


@dataclass(frozen=True)
class Tokens:
    """Embedded tokens, position embeddings added, before the blocks.

    ``prefix`` (b, p, D): class, distillation and register tokens. ``patches`` (b, n, D). ``rope``: rotary embeddings
    of the patches, (n, dim), or (b, 1, n, dim) once tokens were taken; per block (depth, heads, n, dim) or
    (depth, b, heads, n, dim) for mixed RoPE; None for a model without.
    """

    prefix: Tensor
    patches: Tensor
    rope: Tensor | None = None
    rope_per_block: bool = False

    def take(self, index: Tensor) -> Tokens:
        """Only the patches ``index`` (b, k) of each sample, with their rotary embeddings."""
        patches = self.patches.gather(1, index.unsqueeze(-1).expand(-1, -1, self.patches.shape[-1]))
        return Tokens(self.prefix, patches, self._take_rope(index), self.rope_per_block)

    def _take_rope(self, index: Tensor) -> Tensor | None:
        if self.rope is None:
            return None
        taken = self.rope[..., index, :]  # (..., b, k, dim)
        if self.rope_per_block:
            return taken.transpose(1, 2)  # (depth, heads, b, k, dim) to (depth, b, heads, k, dim)
        return taken.unsqueeze(1)  # one embedding for all heads


def grid_size(encoder: nn.Module) -> tuple[int, int]:
    """Rows and columns of the patch grid at the encoder's image size."""
    embed: Any = encoder.patch_embed
    if embed.grid_size is None:
        raise ModelError(f"this {type(encoder).__name__} has no image size; create it with img_size=.")
    return int(embed.grid_size[0]), int(embed.grid_size[1])


def patch_size(encoder: nn.Module) -> tuple[int, int]:
    """Height and width of a patch, pixels."""
    embed: Any = encoder.patch_embed
    return int(embed.patch_size[0]), int(embed.patch_size[1])


def class_tokens(encoder: nn.Module) -> int:
    """Return how many class tokens come first among the encoder's tokens: 1, or 0 for a model without one.

    ``num_prefix_tokens`` does not say so: models of global average pooling have registers there and no class token.
    """
    return int(getattr(encoder, "cls_token", None) is not None)


def image_token(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Return the image token (b, D) of encoded tokens (b, p + n, D): the class token, or the mean of the patches."""
    prefix: Any = encoder.num_prefix_tokens
    return tokens[:, 0] if class_tokens(encoder) else tokens[:, prefix:].mean(dim=1)


def image_and_patch_tokens(encoder: nn.Module, tokens: Tensor) -> Tensor:
    """Return encoded tokens (b, p + n, D) without registers and distillation token: (b, 0 or 1 + n, D)."""
    prefix: Any = encoder.num_prefix_tokens
    return torch.cat((tokens[:, : class_tokens(encoder)], tokens[:, prefix:]), dim=1)


def check_token_access(encoder: nn.Module, method: str) -> None:
    """Raise ``ModelError``, naming model and method, for a model whose tokens cannot be reached between its parts."""
    parts = ("patch_embed", "_pos_embed", "norm_pre", "blocks", "norm", "num_prefix_tokens")
    absent = [part for part in parts if not hasattr(encoder, part)]
    if absent:
        raise ModelError(
            f"{type(encoder).__name__} cannot be used with {method}, which works on single patch tokens: timm's "
            f"class has no {absent[0]}; choose a ViT, DeiT, DINOv2, DINOv3, EVA-02, CLIP or SigLIP model."
        )


def embed(
    encoder: nn.Module,
    images: Tensor,
    *,
    mask: Tensor | None = None,
    mask_token: Tensor | None = None,
    any_size: bool = False,
) -> Tokens:
    """Images (b, c, h, w) to tokens with positions; where ``mask`` (b, n) is 1, ``mask_token`` (D,) takes the place.

    Raises ``ModelError`` for images of another size than the encoder's; with ``any_size`` they are taken as they are,
    positions resampled to their grid, if their sides are multiples of the patch.
    """
    model: Any = encoder
    patch, size = patch_size(encoder), (int(images.shape[-2]), int(images.shape[-1]))
    grid = (size[0] // patch[0], size[1] // patch[1])
    expected = tuple(n * p for n, p in zip(grid if any_size else grid_size(encoder), patch, strict=True))
    if size != expected:
        raise ModelError(
            f"images are {size[0]} x {size[1]} px, the encoder was made for {expected[0]} x {expected[1]}; resize them "
            "or create the encoder with that image size."
        )
    own = grid == grid_size(encoder)
    embedded = _patches(model, images) if own else _patches_of_any_size(model, images)
    if mask is not None and mask_token is not None:
        hidden = mask.bool().view(*embedded.shape[:-1], 1)
        embedded = torch.where(hidden, mask_token.to(embedded.dtype), embedded)
    placed = model._pos_embed(embedded) if own else _placed_at_any_size(model, embedded)
    tokens, rope = placed if isinstance(placed, tuple) else (placed, None)
    count = model.num_prefix_tokens
    return Tokens(tokens[:, :count], tokens[:, count:], rope, bool(getattr(model, "rope_mixed", False)))


def _patches(model: Any, images: Tensor) -> Tensor:
    """timm's patch embedding; channels that are views of one (``pad.data.normalise``) are convolved once.

    The sum over equal channels is that channel under the kernel summed over its channels: a third of the work, the
    same gradients, and to rounding the same values.
    """
    module = model.patch_embed
    if images.shape[1] == 1 or images.stride(1) != 0 or not isinstance(module, PatchEmbed):
        return module(images)
    summed = {"proj.weight": module.proj.weight.sum(1, keepdim=True)}
    embedded: Tensor = functional_call(module, summed, (images[:, :1],))
    return embedded


def _patches_of_any_size(model: Any, images: Tensor) -> Tensor:
    """timm's patch embedding without its check of the size: (b, rows, columns, D)."""
    return model.patch_embed.norm(model.patch_embed.proj(images).permute(0, 2, 3, 1))


def _placed_at_any_size(model: Any, embedded: Tensor) -> Any:
    """timm's ``_pos_embed`` for another grid than the model's, as a model made with ``dynamic_img_size`` has it."""
    before, rope = model.dynamic_img_size, getattr(model, "rope", None)
    cached = getattr(rope, "_use_cached_embed", None)
    model.dynamic_img_size = True
    if cached:
        rope._use_cached_embed = False  # type: ignore[union-attr]
    try:
        return model._pos_embed(embedded)
    finally:
        model.dynamic_img_size = before
        if cached:
            rope._use_cached_embed = cached  # type: ignore[union-attr]


def run_blocks(encoder: nn.Module, tokens: Tokens) -> Tensor:
    """Blocks and final norm over prefix and patch tokens: (b, p + n, D)."""
    model: Any = encoder
    x = model.norm_pre(torch.cat((tokens.prefix, tokens.patches), dim=1))
    for index, block in enumerate(model.blocks):
        rope = tokens.rope[index] if tokens.rope is not None and tokens.rope_per_block else tokens.rope
        arguments: dict[str, Any] = {} if rope is None else {"rope": rope}
        if getattr(model, "grad_checkpointing", False):
            x = checkpoint(block, x, use_reentrant=False, **arguments)
        else:
            x = block(x, **arguments)
    return model.norm(x)


def in_chans(encoder: Any) -> int:
    """Channels that a timm ViT takes."""
    return int(encoder.patch_embed.proj.in_channels)
