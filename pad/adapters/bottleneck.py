"""The adapter itself: what it is made of and what it computes (arXiv 2312.08192, Fig. 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from msip.errors import ModelError

Scale = Literal["patchwise", "learnable", "fixed"]
Fusion = Literal["concat", "sum", "side", "gside"]


@dataclass(frozen=True)
class PadConfig:
    """What an adapter is made of; the defaults are the paper's.

    ``down_size``: width d of the bottleneck. ``scale``: one scale per token (``patchwise``), one learnable scalar per
    block, or ``fixed``. ``fusion``: what the patchwise scale is predicted from: MLP output m and adapter output h side
    by side (``concat``), their ``sum``, h alone (``side``) or m alone (``gside``). ``scale_init``: the fixed scale, or
    the learnable one at the start; the patchwise scale starts at sigmoid(0) = 0.5 whatever it is. ``dropout``: on the
    bottleneck, in training. ``blocks``: indices of the blocks that get an adapter, None = all.

    Raises ``ModelError`` for a value that makes no sense.
    """

    down_size: int = 64
    scale: Scale = "patchwise"
    fusion: Fusion = "concat"
    scale_init: float = 0.5
    dropout: float = 0.1
    blocks: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.blocks is not None:
            object.__setattr__(self, "blocks", tuple(self.blocks))  # a list, as JSON has it, is welcome
        if not isinstance(self.down_size, int) or self.down_size < 1:
            raise ModelError(f"down_size is {self.down_size!r}; it must be a whole number of at least 1, e.g. 64.")
        if self.scale not in get_args(Scale):
            raise ModelError(f"scale is {self.scale!r}; choose one of {', '.join(get_args(Scale))}.")
        if self.fusion not in get_args(Fusion):
            raise ModelError(f"fusion is {self.fusion!r}; choose one of {', '.join(get_args(Fusion))}.")
        if not math.isfinite(self.scale_init):
            raise ModelError(f"scale_init is {self.scale_init!r}; it must be a finite number, e.g. 0.5.")
        if not 0 <= self.dropout < 1:
            raise ModelError(f"dropout is {self.dropout!r}; it must be at least 0 and below 1, e.g. 0.1.")
        if self.blocks is not None and (not self.blocks or len(set(self.blocks)) != len(self.blocks)):
            raise ModelError(f"blocks is {self.blocks!r}; name each adapted block once, or None for all of them.")


class Adapter(nn.Module):
    """One block's adapter: its own LayerNorm (eps 1e-5, as in the reference), the bottleneck, and its scale."""

    def __init__(self, embed_dim: int, config: PadConfig, **factory: Any) -> None:
        super().__init__()
        self.fusion = config.fusion
        self.norm = nn.LayerNorm(embed_dim, eps=1e-5, **factory)
        self.down = nn.Linear(embed_dim, config.down_size, **factory)
        self.dropout = nn.Dropout(config.dropout)
        self.up = nn.Linear(config.down_size, embed_dim, **factory)
        self.scale_predictor: nn.Linear | None = None
        if config.scale == "patchwise":
            width = 2 * embed_dim if config.fusion == "concat" else embed_dim
            self.scale_predictor = nn.Linear(width, 1, bias=False, **factory)
        elif config.scale == "learnable":
            self.scale = nn.Parameter(torch.full((1,), config.scale_init, **factory))
        else:
            self.register_buffer("scale", torch.full((1,), config.scale_init, **factory))
        self.enabled = True
        self.recording = False
        self.last_scales: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the reference: Up and the scale predictor zero, so that the model starts as the base model."""
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)
        if self.scale_predictor is not None:
            nn.init.zeros_(self.scale_predictor.weight)

    def forward(self, x: Tensor, mlp_output: Tensor) -> Tensor:
        """The scaled branch s * h, (b, n, D), for block tokens x' (b, n, D) and MLP branch m (b, n, D)."""
        hidden = torch.relu(self.down(self.norm(x)))
        adapted = self.up(self.dropout(hidden))
        scales = self.scales(mlp_output, adapted)
        if self.recording:
            self.last_scales = scales.detach().clone()  # a parameter's storage may be freed after the forward (FSDP)
        return scales * adapted

    def scales(self, mlp_output: Tensor, adapted: Tensor) -> Tensor:
        """The scale of each token, (b, n, 1), or the block's one scale, (1,)."""
        if self.scale_predictor is None:
            return self.scale
        return torch.sigmoid(self.scale_predictor(self.fused(mlp_output, adapted)))

    def fused(self, mlp_output: Tensor, adapted: Tensor) -> Tensor:
        """What the scale predictor sees: (b, n, 2D) for ``concat``, else (b, n, D)."""
        if self.fusion == "concat":
            return torch.cat((mlp_output, adapted), dim=-1)
        if self.fusion == "sum":
            return mlp_output + adapted
        return adapted if self.fusion == "side" else mlp_output
