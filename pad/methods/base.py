"""What every method offers to the trainer, and how an encoder is made to see some of its patches only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from msip.errors import ModelError
from pad.adapters import blocks_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

InputSampler = Callable[["np.random.Generator"], "dict[str, NDArray[Any]]"]


@dataclass
class MethodOutput:
    """One forward pass.

    Attributes:
        loss: scalar.
        prediction: MAE: (b, patches, values).
        mask: (b, patches), 1 = hidden.
    """

    loss: Tensor
    prediction: Tensor
    mask: Tensor


class Method(nn.Module, ABC):
    """An encoder and what a self-supervised method adds to it.

    ``encoder`` is a timm ViT, adapted or not; everything else a method holds is its head, which trains under every
    paradigm but for the parameters named by ``frozen_with_adapters``.

    Raises ``ModelError`` for an encoder that the method cannot use.
    """

    frozen_with_adapters: ClassVar[tuple[str, ...]] = ()
    """First parts of the names of head parameters that stay frozen while adapters train."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        blocks_of(encoder)
        self.encoder: Any = encoder

    @abstractmethod
    def forward(self, images: Tensor, **inputs: Tensor | None) -> MethodOutput:
        """One pass over normalised images (b, c, h, w); ``inputs`` as drawn by ``sampler``, stacked."""

    @abstractmethod
    def sampler(self) -> InputSampler:
        """A small picklable callable that draws one sample's random inputs from its generator."""

    def panel(self, images: Tensor, output: MethodOutput) -> tuple[Tensor, ...]:  # noqa: ARG002
        """Pictures of a pass, each (b, c, h, w) in the normalised image space; () for a method that has none."""
        return ()

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        rows, columns = self.encoder.patch_embed.grid_size
        return int(rows), int(columns)

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Pixels of a patch, (height, width)."""
        height, width = self.encoder.patch_embed.patch_size
        return int(height), int(width)


class VisiblePatches(nn.Module):
    """Takes the place of timm's patch dropout: hands on the patches named by ``ids``, or all of them.

    timm's own forward does the rest (prefix tokens, position embeddings, rotary embeddings per sample), so nothing
    of it is repeated here.

    Args:
        prefix_tokens: class and register tokens, always handed on.
        with_indices: return (tokens, ids) as timm's EVA family expects it, else the tokens.
    """

    def __init__(self, prefix_tokens: int, *, with_indices: bool) -> None:
        super().__init__()
        self.prefix_tokens = prefix_tokens
        self.with_indices = with_indices
        self.ids: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
        """(b, prefix + patches, D) to (b, prefix + visible, D)."""
        if self.ids is not None:
            prefix, patches = x[:, : self.prefix_tokens], x[:, self.prefix_tokens :]
            x = torch.cat((prefix, gather_tokens(patches, self.ids)), dim=1)
        return (x, self.ids) if self.with_indices else x


def install_visible_patches(encoder: Any) -> VisiblePatches:
    """Give ``encoder`` a ``VisiblePatches`` and return it. Raises ``ModelError`` for a ViT that has no place for it."""
    if not hasattr(encoder, "patch_drop") or not hasattr(encoder, "num_prefix_tokens"):
        raise ModelError(
            f"{type(encoder).__name__} cannot encode a part of its patches; choose a plain ViT, DeiT, DINOv2, DINOv3 "
            "or EVA model of timm for this method."
        )
    from timm.models.eva import Eva

    visible = VisiblePatches(encoder.num_prefix_tokens, with_indices=isinstance(encoder, Eva))
    encoder.patch_drop = visible
    return visible


@contextmanager
def only(visible: VisiblePatches, ids: Tensor) -> Iterator[None]:
    """Inside, the encoder sees the patches ``ids`` (b, visible) alone."""
    visible.ids = ids
    try:
        yield
    finally:
        visible.ids = None


def gather_tokens(tokens: Tensor, ids: Tensor) -> Tensor:
    """tokens (b, n, D) at ids (b, k): (b, k, D)."""
    return tokens.gather(1, ids.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
