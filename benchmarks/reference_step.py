"""The reference's training step (casiatao/PAD, its MAE), written anew from a description of what it does.

What makes it slow is kept: images as float32 with three channels, fp32 parameters under autocast with a gradient scaler
(fp16, or bf16 where a device has no fp16), attention by an explicit softmax, the mask by two sorts, an optimizer that
also holds the frozen parameters, the gradient norm one tensor at a time, and three waits for the device in every step.
What it computes is what ``pad.methods.MAE`` with adapters computes; ``load`` takes our weights, so that both can be
held against each other. On several processes it would also all-reduce with ``find_unused_parameters``; here it is one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Softmax attention, spelt out."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attn_drop, self.proj_drop = nn.Dropout(0.0), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, D)."""
        b, n, width = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.attn_drop(((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1))
        return self.proj_drop(self.proj((weights @ v).transpose(1, 2).reshape(b, n, width)))


class Mlp(nn.Module):
    """Two layers with GELU between them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act = nn.Linear(dim, 4 * dim), nn.GELU()
        self.fc2, self.drop = nn.Linear(4 * dim, dim), nn.Dropout(0)

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, D)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class Adapter(nn.Module):
    """The patchwise-scale adapter."""

    def __init__(self, dim: int, down_size: int) -> None:
        super().__init__()
        self.norm, self.down, self.up = nn.LayerNorm(dim), nn.Linear(dim, down_size), nn.Linear(down_size, dim)
        self.scale_predictor, self.dropout = nn.Linear(2 * dim, 1, bias=False), nn.Dropout(0.1)

    def forward(self, x: Tensor, mlp: Tensor) -> Tensor:
        """s * h for tokens (b, n, D)."""
        h = self.up(self.dropout(torch.relu(self.down(self.norm(x)))))
        return torch.sigmoid(self.scale_predictor(torch.cat([mlp, h], dim=-1))) * h


class Block(nn.Module):
    """A transformer block, with an adapter beside its MLP or without."""

    def __init__(self, dim: int, heads: int, down_size: int = 0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2, self.mlp = nn.LayerNorm(dim, eps=1e-6), Mlp(dim)
        self.adapter = Adapter(dim, down_size) if down_size else None

    def forward(self, x: Tensor) -> Tensor:
        """(b, n, D)."""
        x = x + self.attn(self.norm1(x))
        mlp = self.mlp(self.norm2(x))
        return x + mlp if self.adapter is None else x + self.adapter(x, mlp) + mlp


class ReferenceMAE(nn.Module):
    """Encoder with adapters and decoder, under the names that ``pad.methods.MAE`` gives them."""

    def __init__(self, like: Any, *, down_size: int = 64) -> None:
        super().__init__()
        encoder, width = like.encoder, like.decoder_embed.out_features
        dim, heads = encoder.embed_dim, encoder.blocks[0].attn.num_heads
        self.patch, self.patches, self.visible = like.patch[0], like.patches, like.visible
        self.encoder: Any = nn.Module()
        self.encoder.patch_embed = nn.Module()
        self.encoder.patch_embed.proj = nn.Conv2d(3, dim, self.patch, self.patch)
        self.encoder.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.encoder.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patches, dim), requires_grad=False)
        self.encoder.blocks = nn.ModuleList(Block(dim, heads, down_size) for _ in encoder.blocks)
        self.encoder.norm = nn.LayerNorm(dim, eps=1e-6)
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patches, width), requires_grad=False)
        heads = like.decoder_blocks[0].attn.num_heads
        self.decoder_blocks = nn.ModuleList(Block(width, heads) for _ in like.decoder_blocks)
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.decoder_pred = nn.Linear(width, self.patch**2 * 3)

    def load(self, method: Any) -> None:
        """Take all weights of a ``pad.methods.MAE``."""
        self.load_state_dict(method.state_dict())

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """The loss for float images (b, 3, h, w); ``noise`` (b, patches) decides the mask."""
        encoder = self.encoder
        x = encoder.patch_embed.proj(images).flatten(2).transpose(1, 2) + encoder.pos_embed[:, 1:]
        x, mask, restore = self._masked(x, noise)
        token = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(x), -1, -1)
        x = torch.cat([token, x], dim=1)
        for block in encoder.blocks:
            x = block(x)
        return self._loss(images, self._decoded(encoder.norm(x), restore), mask)

    def _masked(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.rand(len(x), self.patches, device=x.device) if noise is None else noise
        shuffle = noise.argsort(dim=1)
        restore = shuffle.argsort(dim=1)
        kept = shuffle[:, : self.visible].unsqueeze(-1).expand(-1, -1, x.shape[-1])
        mask = torch.ones_like(noise)
        mask[:, : self.visible] = 0
        return x.gather(1, kept), mask.gather(1, restore), restore

    def _decoded(self, x: Tensor, restore: Tensor) -> Tensor:
        x = self.decoder_embed(x)
        hidden = self.mask_token.repeat(len(x), self.patches + 1 - x.shape[1], 1)
        patches = torch.cat([x[:, 1:], hidden], dim=1)
        patches = patches.gather(1, restore.unsqueeze(-1).repeat(1, 1, x.shape[-1]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def _loss(self, images: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        b, side = len(images), images.shape[2] // self.patch
        x = images.reshape(b, 3, side, self.patch, side, self.patch)
        target = torch.einsum("nchpwq->nhwpqc", x).reshape(b, side * side, self.patch**2 * 3)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        loss = ((prediction - target) ** 2).mean(-1)
        return (loss * mask).sum() / mask.sum()


TRAINED = ("adapter.", "decoder", "mask_token")


class ReferenceStep:
    """One optimizer step a call, as its training engine takes it.

    Args:
        model: on its device, weights loaded.
        dtype: of autocast: float16 on a GPU, bfloat16, or float32 (no autocast).
    """

    def __init__(self, model: ReferenceMAE, *, dtype: torch.dtype, lr: float = 1e-4) -> None:
        self.model, self.dtype, self.device = model, dtype, model.mask_token.device
        held = [parameter for parameter in model.parameters() if parameter.requires_grad]  # before anything is frozen
        groups = [
            {"params": [p for p in held if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in held if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        for name, parameter in model.named_parameters():
            parameter.requires_grad = "decoder_embed" not in name and any(part in name for part in TRAINED)
        self.optimizer.zero_grad()

    def __call__(self, images: Tensor, noise: Tensor) -> float:
        """The loss of a batch of float32 images (b, 3, h, w), normalised, on the host or the device."""
        images, noise = (value.to(self.device, non_blocking=True) for value in (images, noise))
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            loss = self.model(images, noise)
        value = float(loss.item())
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad.detach() for p in self.model.parameters() if p.grad is not None]
        torch.norm(torch.stack([torch.norm(gradient, 2.0).to(self.device) for gradient in gradients]), 2.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return value
