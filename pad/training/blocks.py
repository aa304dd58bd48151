"""How transformer blocks are called while a method trains: compiled, with activations computed twice, or both.

A method's blocks are alike, so one compiled function serves all of one kind: it costs about as much start-up time as
compiling a single block, and what lies between the blocks may do as it likes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_log = logging.getLogger(__name__)

LISTS = ("blocks", "decoder_blocks")
"""What timm and our decoders call their lists of blocks."""

VARIANTS = 64
"""Compiled versions of a function that torch keeps: kinds of blocks by shapes, and by what trains in them."""


def block_lists(method: nn.Module) -> list[list[nn.Module]]:
    """The lists of transformer blocks of a method: its encoder's, a decoder's, a teacher's."""
    found = (module for name, module in method.named_modules() if name.rsplit(".", 1)[-1] in LISTS)
    return [list(module.children()) for module in found]


class BlockCalls:
    """Inside, the blocks of a method in training mode run as asked; in eval mode always plainly.

    Args:
        method: whose blocks.
        compiled: by ``torch.compile``; the first time it fails, the reason is logged and the blocks run plainly.
        recomputed: keep only a block's input, and compute the rest again for the gradients (activation checkpointing).
        explicit: softmax attention spelt out in place of torch's fused kernel. On a CPU in bf16 that kernel's backward
            pass takes two to ten times as long; in float32 it is the faster one.
    """

    def __init__(
        self,
        method: nn.Module,
        *,
        compiled: bool,
        recomputed: bool,
        explicit: bool = False,
    ) -> None:
        self.method, self.compiled, self.recomputed = method, compiled, recomputed
        self._functions: dict[type, Callable[..., Any]] = {}
        self._fused: list[Any] = [m for m in method.modules() if explicit and getattr(m, "fused_attn", False)]

    def __enter__(self) -> BlockCalls:
        for attention in self._fused:  # timm's switch
            attention.fused_attn = False
        if self.compiled:
            _prepare_compiler()
        if self.compiled or self.recomputed:
            for block in self._blocks():
                block.forward = partial(self._call, block)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for block in self._blocks():
            block.__dict__.pop("forward", None)
        for attention in self._fused:
            attention.fused_attn = True

    def _blocks(self) -> list[nn.Module]:
        return [block for blocks in block_lists(self.method) for block in blocks]

    def _call(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not self.method.training:
            return type(block).forward(block, *args, **kwargs)
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(self._run, block, *args, use_reentrant=False, **kwargs)
        return self._run(block, *args, **kwargs)

    def _run(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        plain: Callable[..., Any] = type(block).forward
        if not self.compiled:
            return plain(block, *args, **kwargs)
        if type(block) not in self._functions:  # to ask for it again at each call costs milliseconds
            self._functions[type(block)] = torch.compile(plain, dynamic=False)
        try:
            return self._functions[type(block)](block, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever Dynamo, Inductor, Triton and a C++ compiler raise
            self.compiled = False
            reason = next(iter(str(error).strip().splitlines()), "") or "no reason given"
            _log.info(
                f"note: torch.compile failed ({type(error).__name__}: {reason:.200}); training without it, slower."
            )
            return plain(block, *args, **kwargs)


def _prepare_compiler() -> None:
    """Room for all kinds of blocks; and a backward pass that cannot be compiled fails in the forward pass."""
    import torch._dynamo
    import torch._functorch.config as functorch

    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    setattr(torch._dynamo.config, name, max(VARIANTS, getattr(torch._dynamo.config, name)))
    if hasattr(functorch, "force_non_lazy_backward_lowering"):
        functorch.force_non_lazy_backward_lowering = True
