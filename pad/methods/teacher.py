"""A frozen teacher: any timm ViT, CLIP towers included, by name or from a file, in its own normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import timm
import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from msip.errors import ModelError, WeightsError
from msip.files import absolute_if_there
from pad.adapters.attach import blocks_of
from pad.data.grey import INFRARED_MEAN, INFRARED_STD
from pad.encoders import create_encoder, load_encoder
from pad.encoders.create import check_name
from pad.encoders.tokens import (
    check_token_access,
    class_tokens,
    embed,
    grid_size,
    image_and_patch_tokens,
    patch_size,
    run_blocks,
)
from pad.methods.base import MethodOptions
from pad.weights.files import read_weights

_CLIP = {(768, 16): "vit_base_patch16", (768, 32): "vit_base_patch32", (1024, 14): "vit_large_patch14"}


class TeacherOptions(MethodOptions):
    """The frozen teacher of a method, and its view of the images."""

    teacher: Annotated[str | None, BeforeValidator(absolute_if_there)] = Field(
        None, description="Frozen teacher of milan and distil: timm's name, a file or a run."
    )
    teacher_normalisation: Literal["own", "infrared"] = Field(
        "own",
        description="What the teacher sees: own (its mean and std) or infrared (the student's, as MILAN's reference).",
    )


class FrozenTeacher(nn.Module):
    """Tokens and attention of a frozen ViT for the student's images; always in eval mode, never with gradients.

    Args:
        model: a timm ViT. A CLIP tower that kept its projection (``head``) gives projected tokens, as MILAN wants.
        normalisation: ``own``: images are brought from this project's normalisation (infrared mean and std) to the
            model's, grey repeated to its channels; ``infrared``: fed as they are, the reference's mistake.
    """

    def __init__(self, model: nn.Module, *, normalisation: str = "own") -> None:
        super().__init__()
        check_teacher(model)
        if normalisation not in ("own", "infrared"):
            raise ModelError(f"teacher_normalisation is {normalisation!r}; choose own or infrared.")
        self.model: Any = model
        self.watch_attention(model.blocks)
        self.requires_grad_(False).eval()
        config = getattr(model, "pretrained_cfg", None) or {}
        own = normalisation == "own"
        self.mean: Tensor
        self.std: Tensor
        for name, default, infrared in (("mean", 0.5, INFRARED_MEAN), ("std", 0.5, INFRARED_STD)):
            values = config.get(name) or (default,) * 3
            chosen = torch.tensor(values if own else (infrared,) * len(values)).float().view(1, -1, 1, 1)
            self.register_buffer(name, chosen, persistent=False)

    def watch_attention(self, blocks: Any) -> None:
        """Keep the last block's attention of each forward; the fused kernel never shows its weights."""
        self._watched: list[Tensor] = []
        blocks[-1].attn.fused_attn = False
        blocks[-1].attn.attn_drop.register_forward_hook(lambda module, inputs, output: self._watched.append(output))

    @property
    def width(self) -> int:
        """Values of a target token."""
        head = self.model.head
        return int(head.out_features) if isinstance(head, nn.Linear) else int(self.model.embed_dim)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """A teacher never trains."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens (b, 1 + patches, width), attention (b, patches)) for normalised images (b, c, h, w).

        Class token first, absent where the model has none; other prefix tokens are left out. Attention is that of the
        class token in the last block, mean over heads; without a class token, what a patch receives from all.
        """
        self._watched.clear()
        prefix = self.model.num_prefix_tokens
        tokens = self.model.head(run_blocks(self.model, embed(self.model, self.prepare(images))))
        weights = self._watched.pop().float().mean(dim=1)  # (b, queries, keys)
        attention = (weights[:, 0] if class_tokens(self.model) else weights.mean(dim=1))[:, prefix:]
        return image_and_patch_tokens(self.model, tokens), attention

    def prepare(self, images: Tensor) -> Tensor:
        """The student's images as the teacher wants them: its normalisation, channels and size."""
        channels = self.model.patch_embed.proj.in_channels
        if images.shape[1] != channels:
            images = images.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
        images = (images * INFRARED_STD + INFRARED_MEAN - self.mean) / self.std
        (rows, columns), (p, q) = grid_size(self.model), patch_size(self.model)
        if images.shape[-2:] != (rows * p, columns * q):
            images = F.interpolate(images, (rows * p, columns * q), mode="bicubic", antialias=True)
        return images


def load_teacher(
    source: str, *, grid: tuple[int, int], normalisation: str = "own", weights: bool = True
) -> FrozenTeacher:
    """A teacher by timm's name (``timm:`` before it or not), or from a file or run; its patch grid is the student's.

    Args:
        source: name or path.
        grid: (rows, columns) of the student's patches; the teacher's images are sized so that it has as many.
        normalisation: see ``FrozenTeacher``.
        weights: False where a checkpoint brings them.

    Raises:
        ModelError, WeightsError: unknown, unreadable, or no ViT.
    """
    path, name = Path(source), source.removeprefix("timm:")
    if path.exists():
        return FrozenTeacher(_from_file(path, grid), normalisation=normalisation)
    if not timm.is_model(name):
        raise WeightsError(f"`teacher={source}` is no file and no model of timm; give a path or e.g. {EXAMPLE}.")
    check_name(name)
    size = _size(name, grid)
    encoder, _ = create_encoder(name, init="timm" if weights else "random", image_size=size)
    if _projected(name):  # create_encoder leaves every head out
        encoder = timm.create_model(name, pretrained=weights, img_size=size)
    return FrozenTeacher(encoder, normalisation=normalisation)


EXAMPLE = "vit_base_patch16_clip_quickgelu_224.openai"


def _projected(name: str) -> bool:
    """Whether the model is a CLIP tower as it was trained, whose head is the projection to the shared space."""
    return "_clip_" in name and "_ft_" not in name


def _size(name: str, grid: tuple[int, int]) -> tuple[int, int]:
    with torch.device("meta"):
        model = timm.create_model(name)
    check_teacher(model)
    return _size_of(model, grid)


def check_teacher(model: nn.Module) -> None:
    """Raise ``ModelError`` for a model that gives no tokens, or whose last block has no attention to look at."""
    last = blocks_of(model)[-1]
    check_token_access(model, "`teacher`")
    if not hasattr(getattr(last, "attn", None), "attn_drop"):
        raise ModelError(f"`teacher`: a {type(last).__name__} shows no attention; choose a plain ViT, e.g. {EXAMPLE}.")


def _from_file(path: Path, grid: tuple[int, int]) -> nn.Module:
    """A teacher from a run, an exported folder or a file; OpenAI's CLIP layout has its own names."""
    if path.is_file():
        state, _ = read_weights(path)
        prefix = next((p for p in ("visual.", "") if f"{p}class_embedding" in state), None)
        if prefix is not None:
            return _clip_tower({f"visual.{n.removeprefix(prefix)}": t for n, t in state.items()}, path, grid)
    model: Any = load_encoder(path)
    size = _size_of(model, grid)
    if tuple(model.patch_embed.img_size) != size:
        model.set_input_size(img_size=size)
    return model


def _clip_tower(state: dict[str, Tensor], path: Path, grid: tuple[int, int]) -> nn.Module:
    """OpenAI's CLIP weights (``visual.*``), converted by timm, with projection and their QuickGELU."""
    try:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        name = f"{_CLIP[width, patch]}_clip_quickgelu_224"
        state = {n: t.float() for n, t in state.items() if n.startswith("visual.")}
        size = (grid[0] * patch, grid[1] * patch)
        model = timm.create_model(name, num_classes=state["visual.proj"].shape[1], img_size=size)
        model.load_state_dict(checkpoint_filter_fn(state, model))
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path} holds no CLIP ViT-B/32, B/16 or L/14 ({reason:.120}); give another.") from error
    return model


def _size_of(model: Any, grid: tuple[int, int]) -> tuple[int, int]:
    patch = patch_size(model)
    return grid[0] * patch[0], grid[1] * patch[1]
