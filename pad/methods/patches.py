"""What masked-image methods share: patches and their places, masks, and MAE's initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class NoiseSampler:
    """Draws a mask's ``noise`` of one sample: float32 (patches,), uniform in [0, 1)."""

    patches: int

    def __call__(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """The sample's inputs."""
        return {"noise": rng.random(self.patches, dtype=np.float32)}


def patchify(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """(b, c, h, w) to (b, patches, p * q * c): rows of patches, and in a patch rows, columns, channels, as MAE."""
    (b, c, height, width), (p, q) = images.shape, patch
    x = images.reshape(b, c, height // p, p, width // q, q)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(b, (height // p) * (width // q), p * q * c)


def unpatchify(patches: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """The inverse of ``patchify``: (b, patches, p * q * c) to (b, c, h, w)."""
    (rows, columns), (p, q) = grid, patch
    x = patches.reshape(patches.shape[0], rows, columns, p, q, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(patches.shape[0], -1, rows * p, columns * q)


def sincos_pos_embed(embed_dim: int, grid: tuple[int, int], *, prefix: int) -> Tensor:
    """MAE's fixed position table (1, prefix + h * w, D): half the width for x, half for y; zeros for the prefix."""
    omega = 1.0 / 10000 ** (np.arange(embed_dim // 4) / (embed_dim / 4))
    y, x = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    parts = [f(axis.reshape(-1, 1) * omega) for axis in (x, y) for f in (np.sin, np.cos)]
    table = np.concatenate(parts, axis=1)
    table = np.concatenate([np.zeros((prefix, embed_dim)), table])
    return torch.from_numpy(table).float().unsqueeze(0)


def xavier(module: nn.Module) -> None:
    """Xavier weights and zero biases for a linear layer; anything else stays as it is."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def initialise_vit(encoder: nn.Module, grid: tuple[int, int]) -> None:
    """MAE's start from scratch: sin-cos positions, Xavier weights; adapters keep theirs."""
    model: Any = encoder
    for block in model.blocks:
        for name, module in block.named_modules():
            if not name.startswith("adapter"):
                xavier(module)
    weight = model.patch_embed.proj.weight
    nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
    for token in (getattr(model, "cls_token", None), getattr(model, "reg_token", None)):
        if token is not None:
            nn.init.normal_(token, std=0.02)
    if getattr(model, "pos_embed", None) is not None:
        prefix = model.pos_embed.shape[1] - grid[0] * grid[1]
        model.pos_embed.copy_(sincos_pos_embed(model.embed_dim, grid, prefix=prefix))
