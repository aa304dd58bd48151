"""Feature distillation (Wei et al., arXiv 2205.14141; SwinTransformer/Feature-Distillation) from a frozen teacher."""

from __future__ import annotations

from types import MappingProxyType

import torch.nn.functional as F
from torch import Tensor, nn

from msip.errors import ModelError
from pad.encoders.tokens import check_token_access, embed, grid_size, image_and_patch_tokens, run_blocks
from pad.methods.base import Method, MethodOutput
from pad.methods.patches import initialise_vit
from pad.methods.teacher import FrozenTeacher, TeacherOptions

BETA = 2.0


class Distillation(Method):
    """The student's tokens, linearly projected, learn a teacher's tokens, whitened by a LayerNorm without weights.

    Smooth L1 with beta 2 over all tokens, class token included where both have one; nothing is hidden.

    Args:
        encoder: a timm ViT, with adapters or without.
        teacher: gives the targets; without it they are passed to ``forward``.
        teacher_dim: width of the targets, where there is no teacher to ask.
    """

    options = TeacherOptions
    recipe = MappingProxyType({"beta2": 0.999, "clip_grad": 3.0})  # configs/pretrain/fd_pretrain__dino_vit_base
    upstream = MappingProxyType(  # Feature-Distillation with a DINO teacher: lr 3e-4 for 512, 300 epochs, warm-up 10
        {
            **{"epochs": 300, "warmup_epochs": 10.0, "effective_batch": 2048, "blr": 1.5e-4},
            "teacher": "timm:vit_base_patch14_dinov2.lvd142m",
        }
    )
    fixed = ("teacher.",)

    def __init__(self, encoder: nn.Module, *, teacher: FrozenTeacher | None = None, teacher_dim: int = 768) -> None:
        super().__init__(encoder)
        check_token_access(encoder, "Distillation")
        self.teacher = teacher
        self.head = nn.Linear(self.encoder.embed_dim, teacher.width if teacher is not None else teacher_dim)

    def initialise_encoder(self) -> None:
        """MAE's start from scratch."""
        initialise_vit(self.encoder, grid_size(self.encoder))

    def forward(self, images: Tensor, teacher: Tensor | None = None) -> MethodOutput:
        """Loss and projected tokens (b, 1 + patches, values), class token first; the mask hides nothing.

        ``teacher``: target tokens (b, 1 + patches, values) in place of the teacher's; images (b, c, h, w) normalised.
        """
        if teacher is None:
            if self.teacher is None:
                raise ModelError("distillation needs a teacher, or its tokens; give `teacher`, a NAME or FILE.")
            teacher, _ = self.teacher(images)
        tokens = run_blocks(self.encoder, embed(self.encoder, images))
        patches = tokens.shape[1] - self.encoder.num_prefix_tokens
        prediction = self.head(image_and_patch_tokens(self.encoder, tokens))
        both = min(prediction.shape[1], teacher.shape[1])
        target = F.layer_norm(teacher[:, -both:].float(), teacher.shape[-1:])
        loss = F.smooth_l1_loss(prediction[:, -both:].float(), target, beta=BETA)
        return MethodOutput(loss, prediction, images.new_zeros(images.shape[0], patches))
