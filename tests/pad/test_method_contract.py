"""The contract of ``method_contract``, for every method."""

import torch
from method_contract import MethodContract, backbone

from pad.methods import MAE, MILAN
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
