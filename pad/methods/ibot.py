"""iBOT (Zhou et al., arXiv 2111.07832; bytedance/ibot) with DINO's loss inside, on a trunk that both networks share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

import torch
import torch.distributed as dist
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from msip.errors import ModelError
from pad.adapters.attach import ADAPTER, has_adapters
from pad.data.views import MultiCrop
from pad.encoders.fit import UNUSED
from pad.encoders.layouts import ENCODER, TEACHER
from pad.encoders.tokens import check_token_access, embed, grid_size, image_token, run_blocks
from pad.methods.base import Method, MethodOptions, MethodOutput
from pad.methods.patches import initialise_vit

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURE = (0.04, 0.07)
WARMUP_EPOCHS = 30
CENTRE_MOMENTUM = 0.9


class ProjectionHead(nn.Module):
    """DINO's head: three linear layers with GELU, L2 norm, and prototypes of length one (``norm_last_layer``)."""

    def __init__(self, embed_dim: int, out_dim: int, hidden: int = 2048, bottleneck: int = 256) -> None:
        super().__init__()
        widths = (embed_dim, hidden, hidden, bottleneck)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        self.mlp = nn.Sequential(layers[0], nn.GELU(), layers[1], nn.GELU(), layers[2])
        self.prototypes = nn.Parameter(torch.empty(out_dim, bottleneck))
        for layer in layers:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.prototypes, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) to scores (..., out_dim), cosines with the prototypes."""
        return F.linear(F.normalize(self.mlp(tokens), dim=-1), F.normalize(self.prototypes, dim=-1))


class Branch(nn.Module):
    """Encoder, mask token and head of the student; the teacher is the same with other tensors put in."""

    def __init__(self, encoder: nn.Module, head: nn.Module, mask_token: nn.Parameter) -> None:
        super().__init__()
        self.encoder, self.head, self.mask_token = encoder, head, mask_token

    def forward(self, views: Tensor, masks: Tensor | None = None, *, patches: bool = True) -> tuple[Tensor, Tensor]:
        """Scores of the image (n, out_dim) and of its patches (n, patches, out_dim; empty without ``patches``)."""
        tokens = embed(self.encoder, views, mask=masks, mask_token=self.mask_token, any_size=True)
        encoded = run_blocks(self.encoder, tokens)
        prefix = encoded.shape[1] - tokens.patches.shape[1]
        return self.head(image_token(self.encoder, encoded)), self.head(
            encoded[:, prefix:] if patches else encoded[:, :0]
        )


class IBOTOptions(MethodOptions):
    """Options of ``--method ibot``."""

    out_dim: int = Field(8192, description="Prototypes of the head.", ge=2)
    local_crops: int = Field(10, description="Small crops of an image beside the two global ones.", ge=0)
    local_size: int = Field(96, description="Side of the small crops, in pixels.", ge=16)
    mask_ratio: float = Field(0.3, description="Share of hidden patches.", gt=0, lt=1)
    ema: float = Field(0.996, description="Momentum of the teacher at the start; it ends at 1.", gt=0, le=1)


class IBOT(Method):
    """Self-distillation of views, and of hidden patches, from a teacher that is the student's moving average.

    The teacher keeps copies of what trains and nothing else: with adapters these and the head; the frozen trunk is
    one and the same. One head scores images and patches (``shared_head``).

    Args:
        encoder: a timm ViT, with adapters or without.
        out_dim: prototypes of the head.
        local_crops, local_size, mask_ratio: of the views, see ``MultiCrop``.
        ema: the teacher's momentum at the start; it rises to 1 by a half cosine.

    Raises:
        ModelError: an encoder whose tokens cannot be reached.
    """

    options = IBOTOptions
    recipe = MappingProxyType(  # bytedance/ibot main_ibot.py: AdamW (0.9, 0.999), clip 3, weight decay 0.04 to 0.4
        {"beta2": 0.999, "clip_grad": 3.0, "weight_decay": 0.04, "weight_decay_end": 0.4}
    )
    upstream = MappingProxyType(  # its README: 1024 images, lr 5e-4 for 256, ten local crops, warm-up 10 epochs
        {"epochs": 400, "warmup_epochs": 10.0, "effective_batch": 1024, "blr": 5e-4}
    )
    can_be_sharded = False  # the teacher's tensors take the student's places in the blocks

    def __init__(
        self,
        encoder: nn.Module,
        *,
        out_dim: int = 8192,
        local_crops: int = 10,
        local_size: int = 96,
        mask_ratio: float = 0.3,
        ema: float = 0.996,
    ) -> None:
        super().__init__(encoder)
        check_token_access(encoder, "iBOT")
        patch = self.encoder.patch_embed.patch_size
        if local_crops and (local_size % patch[0] or local_size % patch[1]):
            local = max(1, round(local_size / patch[0])) * patch[0]
            raise ModelError(f"`local_size={local_size}` is no multiple of the patches, {patch[0]} px; choose {local}.")
        self.head = ProjectionHead(self.encoder.embed_dim, out_dim)
        self.mask_token = nn.Parameter(torch.zeros(self.encoder.embed_dim))
        self._views = MultiCrop(grid_size(encoder), local_crops, local_size, mask_ratio)
        self.ema, self.momentum = ema, ema
        for name, value in (("temperature", TEACHER_TEMPERATURE[0]), ("last_layer_trains", 1.0)):
            self.register_buffer(name, torch.tensor(value), persistent=False)
        for name in ("centre", "patch_centre"):
            self.register_buffer(name, torch.zeros(out_dim))
            self.register_buffer(f"{name}_sum", torch.zeros(out_dim), persistent=False)
        self._seen = 0
        self.temperature: Tensor
        self.last_layer_trains: Tensor
        self.head.prototypes.register_hook(lambda gradient: gradient * self.last_layer_trains)
        self._branch = [Branch(encoder, self.head, self.mask_token)]  # in a list: its parts are registered already
        own = (ADAPTER,) if has_adapters(encoder) else ("",)
        encoders = {n for n, _ in encoder.named_parameters() if own[0] in n and not n.startswith(UNUSED)}
        self.trained({ENCODER + name for name in encoders} | {f"head.{n}" for n, _ in self.head.named_parameters()})

    def trained(self, names: set[str]) -> None:
        """Let the teacher follow these parameters, from now on its own copies; all others are shared."""
        for name in [name for name in self._buffers if name.startswith(TEACHER)]:
            delattr(self, name)
        parameters = dict(self.named_parameters())
        for name in sorted(names - {"mask_token"}):  # the teacher sees no masks
            self.register_buffer(TEACHER + name.replace(".", "/"), parameters[name].detach().clone())

    def teacher_tensors(self) -> dict[str, Tensor]:
        """The teacher's own tensors by the student's names."""
        taken = {name: buffer for name, buffer in self._buffers.items() if name.startswith(TEACHER)}
        return {n.removeprefix(TEACHER).replace("/", "."): b for n, b in taken.items() if b is not None}

    def initialise_encoder(self) -> None:
        """MAE's start from scratch, for both networks."""
        initialise_vit(self.encoder, grid_size(self.encoder))
        self.trained(set(self.teacher_tensors()))

    def views(self) -> MultiCrop:
        """Two global views, local ones, masks."""
        return self._views

    def arguments(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Views first, samples second."""
        return {name: value.transpose(0, 1) for name, value in batch.items()}

    def begin_step(self, epoch: float, epochs: float) -> None:
        """Temperature and momentum of this step; prototypes are held in the first pass, as ``freeze_last_layer``."""
        low, high = TEACHER_TEMPERATURE
        self.temperature.fill_(low + (high - low) * min(1.0, epoch / min(WARMUP_EPOCHS, max(1.0, 0.3 * epochs))))
        self.momentum = 1 - (1 - self.ema) * (math.cos(math.pi * epoch / epochs) + 1) / 2
        self.last_layer_trains.fill_(float(epoch >= 1 or epochs <= 2))

    @torch.no_grad()
    def end_step(self, applied: Tensor) -> None:
        """Move the teacher towards the student, and the centres towards what it said in this step."""
        parameters = dict(self.named_parameters())
        for name, tensor in self.teacher_tensors().items():
            step = torch.where(applied, 1 - self.momentum, 0.0).to(tensor.dtype)
            tensor.lerp_(parameters[name].detach(), step)
        for name in ("centre", "patch_centre"):
            total, centre = getattr(self, f"{name}_sum"), getattr(self, name)
            if dist.is_initialized():
                dist.all_reduce(total, dist.ReduceOp.SUM)
                total /= dist.get_world_size()
            moved = centre * CENTRE_MOMENTUM + total / max(self._seen, 1) * (1 - CENTRE_MOMENTUM)
            centre.copy_(torch.where(applied, moved, centre))
            total.zero_()
        self._seen = 0

    def forward(
        self, global_views: Tensor, local_views: Tensor | None = None, masks: Tensor | None = None
    ) -> MethodOutput:
        """Loss for views (views, b, c, h, w), normalised; the prediction is the student's scores of the global ones.

        ``masks`` (views, b, patches), 1 = hidden; drawn from torch's generator when omitted, ``mask_ratio`` of them.
        """
        count, batch = global_views.shape[:2]
        views = global_views.flatten(0, 1)
        cells = grid_size(self.encoder)[0] * grid_size(self.encoder)[1]
        if masks is None:
            masks = (torch.rand(count, batch, cells, device=views.device) < self._views.mask_ratio).float()
        masks = masks.flatten(0, 1)
        with torch.no_grad(), self._without_dropout():
            targets = self._targets(*functional_call(self._branch[0], self.teacher_tensors(), (views,)))
        student = self._branch[0]
        image, patches = student(views, masks)
        scores = image.view(count, batch, -1)
        if local_views is not None and len(local_views):
            local = student(local_views.flatten(0, 1), patches=False)[0]
            scores = torch.cat((scores, local.view(len(local_views), batch, -1)))
        loss = self._image_loss(scores, targets[0].view(count, batch, -1)) + _patch_loss(patches, targets[1], masks)
        return MethodOutput(loss, image, masks)

    @contextmanager
    def _without_dropout(self) -> Iterator[None]:
        """Inside, the encoder drops nothing: the teacher's word on an image is always the same, as in the reference."""
        self.encoder.eval()
        try:
            yield
        finally:
            self.encoder.train(self.training)

    def _targets(self, image: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's probabilities, centred and sharpened; its means are kept for the next centres."""
        image, patches = image.float(), patches.float()
        if self.training:
            self.get_buffer("centre_sum").add_(image.mean(0))
            self.get_buffer("patch_centre_sum").add_(patches.mean((0, 1)))
            self._seen += 1
        centre, patch_centre = self.get_buffer("centre"), self.get_buffer("patch_centre")
        return ((image - centre) / self.temperature).softmax(-1), ((patches - patch_centre) / self.temperature).softmax(
            -1
        )

    @staticmethod
    def _image_loss(scores: Tensor, targets: Tensor) -> Tensor:
        """DINO: cross-entropy between each global view of the teacher and each other view of the student."""
        logs = (scores.float() / STUDENT_TEMPERATURE).log_softmax(-1)
        crossed = -torch.einsum("qbk,vbk->qv", targets, logs) / targets.shape[1]
        other = 1 - torch.eye(len(targets), len(scores), device=crossed.device)
        return (crossed * other).sum() / other.sum()


def _patch_loss(scores: Tensor, targets: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy on hidden patches, mean over those of a view, then over views (n, patches, out_dim)."""
    logs = (scores.float() / STUDENT_TEMPERATURE).log_softmax(-1)
    crossed = -(targets * logs).sum(-1)
    return ((crossed * masks).sum(-1) / masks.sum(-1).clamp_min(1)).mean()
