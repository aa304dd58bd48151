"""The contract of ``method_contract``, for every method."""

import torch
from method_contract import MethodContract, backbone

from pad.methods import IBOT, MAE, MILAN, Distillation, SimMIM
from pad.methods.teacher import FrozenTeacher

DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}


def with_noise(arguments, patch=8):
    images = arguments["images"]
    patches = images.shape[-2] // patch * (images.shape[-1] // patch)
    generator = torch.Generator().manual_seed(3)
    return {**arguments, "noise": torch.rand(images.shape[0], patches, generator=generator)}


def teacher_for(encoder, name="vit"):
    """Another ViT with the same patch grid, in three channels whatever the student has."""
    return FrozenTeacher(backbone(name, adapters=False, seed=7, img_size=encoder.patch_embed.img_size))


class TestMAE(MethodContract):
    def make(self, encoder):
        return MAE(encoder, **DECODER)

    def arguments(self, shape, **options):
        return with_noise(super().arguments(shape, **options))


class TestMILAN(MethodContract):
    def make(self, encoder):
        return MILAN(encoder, teacher=teacher_for(encoder), **DECODER)

    def arguments(self, shape, **options):
        return with_noise(super().arguments(shape, **options))


class TestSimMIM(MethodContract):
    def make(self, encoder):
        return SimMIM(encoder)


class TestDistillation(MethodContract):
    def make(self, encoder):
        return Distillation(encoder, teacher=teacher_for(encoder, "dinov2"))


class TestIBOT(MethodContract):
    def make(self, encoder):
        return IBOT(encoder, out_dim=32, local_crops=2, local_size=16, ema=0.9)

    def arguments(self, shape, *, batch=4, seed=0):
        generator = torch.Generator().manual_seed(seed)
        small = (shape[0], shape[1] // 2, shape[2] // 2)
        masks = (torch.rand(2, batch, shape[1] // 8 * (shape[2] // 8), generator=generator) < 0.4).float()
        views = {"global_views": shape, "local_views": small}
        made = {name: torch.randn(2, batch, *size, generator=generator) for name, size in views.items()}
        return {**made, "masks": masks}
