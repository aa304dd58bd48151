"""MILAN (Hou et al., arXiv 2208.06049), as in the reference of PAD (casiatao/PAD ``model_milan_adapt.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from torch import Tensor, nn

from msip.errors import ModelError
from pad.encoders.tokens import class_tokens, embed, run_blocks
from pad.methods.base import MethodOutput
from pad.methods.masked import DecoderOptions, MaskedAutoencoder
from pad.methods.teacher import FrozenTeacher, TeacherOptions


class MILANOptions(DecoderOptions, TeacherOptions):
    """Options of ``--method milan``."""


class MILAN(MaskedAutoencoder):
    """Predicts a teacher's tokens from the patches that the teacher looks at.

    The visible patches are drawn without replacement, in proportion to the teacher's attention. In the prompting
    decoder only hidden tokens are updated; the encoded ones are fixed prompts that they attend to. The loss is
    2 - 2 cos between prediction and target, over all tokens, visible and class token included.

    Args:
        encoder: a timm ViT, with adapters or without.
        teacher: gives the targets; without it they are passed to ``forward``.
        teacher_dim: width of the targets, where there is no teacher to ask.
        mask_ratio: share of hidden patches.
        decoder_embed_dim, decoder_depth, decoder_num_heads: of the decoder; the reference's by default.

    Raises:
        ModelError: an encoder whose tokens cannot be reached, or options that make no sense.
    """

    options = MILANOptions
    upstream = MappingProxyType(  # zejiangh/MILAN README: 400 epochs of 4096, blr 1.5e-4, warm-up 40, CLIP ViT-B/16
        {
            **{"epochs": 400, "warmup_epochs": 40.0, "effective_batch": 4096, "blr": 1.5e-4},
            "teacher": "timm:vit_base_patch16_clip_quickgelu_224.openai",
        }
    )
    fixed = ("encoder.pos_embed", "teacher.")
    published = "milan_vit-base-p16_16xb256-amp-coslr-400e_in1k_20221129-180922e8.pth"  # of MMSelfSup

    def __init__(
        self,
        encoder: nn.Module,
        *,
        teacher: FrozenTeacher | None = None,
        teacher_dim: int = 512,
        mask_ratio: float = 0.75,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
    ) -> None:
        shape = (decoder_embed_dim, decoder_depth, decoder_num_heads)
        super().__init__(encoder, mask_ratio=mask_ratio, decoder=shape, block=PromptBlock)
        self.set_prediction(teacher.width if teacher is not None else teacher_dim)
        self.teacher = teacher

    def forward(
        self,
        images: Tensor,
        teacher: Tensor | None = None,
        teacher_attention: Tensor | None = None,
        order: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> MethodOutput:
        """Loss, predicted tokens (b, 1 + patches, values), class token first, and mask (b, patches).

        Args:
            images: normalised, (b, c, h, w).
            teacher: target tokens (b, 1 + patches, values), class token first; the teacher's by default.
            teacher_attention: how much each patch counts in the draw (b, patches), not negative.
            order: (b, patches): the first ones are visible; drawn by attention when omitted.
            noise: (b, patches) in [0, 1), decides that draw; from torch's generator when omitted.
        """
        if teacher is None or (teacher_attention is None and order is None):
            if self.teacher is None:
                raise ModelError("MILAN needs a teacher, or its tokens and attention; give `teacher`, a NAME or FILE.")
            teacher, teacher_attention = self.teacher(images)
        if order is None:
            order = draw_order(teacher_attention, noise)
        kept = order[:, : self.visible]
        encoded = run_blocks(self.encoder, embed(self.encoder, images).take(kept))
        prediction = self.decode(encoded, order)
        similarity = F.cosine_similarity(prediction.float(), teacher[:, -prediction.shape[1] :].float(), dim=-1)
        return MethodOutput((2 - 2 * similarity).mean(), prediction, self.mask_of(kept))

    def decode(self, encoded: Tensor, order: Tensor) -> Tensor:
        """Encoded tokens (b, prefix + visible, D) and all places (b, patches) to (b, 1 + patches, values).

        The class token comes first; a model without one has none here either, other prefix tokens are prompts only.
        """
        x = self.decoder_embed(encoded)
        prefix, width = x.shape[1] - self.visible, x.shape[-1]
        positions = self.decoder_pos_embed.to(x.dtype).expand(x.shape[0], -1, -1)
        places = positions[:, prefix:].gather(1, order.unsqueeze(-1).expand(-1, -1, width))
        prompts = x + torch.cat((positions[:, :prefix], places[:, : self.visible]), dim=1)
        hidden = self.mask_token.to(x.dtype) + places[:, self.visible :]
        for block in self.decoder_blocks:
            hidden = block(hidden, prompts)
        back = order.argsort(dim=1).unsqueeze(-1).expand(-1, -1, width)
        patches = torch.cat((prompts[:, prefix:], hidden), dim=1).gather(1, back)
        tokens = torch.cat((prompts[:, : class_tokens(self.encoder)], patches), dim=1)
        return self.decoder_pred(self.decoder_norm(tokens))

    @classmethod
    def reference_options(cls, metadata: Mapping[str, str]) -> dict[str, Any]:
        """The decoder's dimensions and the targets'."""
        return {**super().reference_options(metadata), "teacher_dim": int(metadata["teacher_dim"])}


def draw_order(attention: Tensor | None, noise: Tensor | None) -> Tensor:
    """All places (b, patches) in the order of a draw without replacement with weights ``attention`` (b, patches).

    Exponential clocks (Efraimidis and Spirakis, 2006): the same distribution as ``torch.multinomial``, from ``noise``.
    """
    assert attention is not None
    weights = attention.float().clamp_min(1e-12)
    noise = torch.rand_like(weights) if noise is None else noise
    return (-torch.log1p(-noise) / weights).argsort(dim=1, stable=True)


class PromptBlock(nn.Module):
    """A decoder block in which hidden tokens (b, n, D) attend to themselves and to fixed prompts (b, k, D)."""

    def __init__(self, embed_dim: int, num_heads: int, norm_layer: Any = nn.LayerNorm) -> None:
        super().__init__()
        self.norm1 = norm_layer(embed_dim)
        self.attn = PromptAttention(embed_dim, num_heads)
        self.norm2 = norm_layer(embed_dim)
        self.mlp = Mlp(embed_dim, 4 * embed_dim)

    def forward(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """The updated hidden tokens."""
        hidden = hidden + self.attn(self.norm1(hidden), prompts)
        return hidden + self.mlp(self.norm2(hidden))


class PromptAttention(nn.Module):
    """Queries from the hidden tokens, keys and values from these and the prompts (taken as they are)."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dim, embed_dim)
        self.kv = nn.Linear(embed_dim, 2 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, hidden: Tensor, prompts: Tensor) -> Tensor:
        """(b, n, D)."""
        keys, values = self.kv(torch.cat((prompts, hidden), dim=1)).chunk(2, dim=-1)
        heads = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (self.q(hidden), keys, values))
        return self.proj(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))
