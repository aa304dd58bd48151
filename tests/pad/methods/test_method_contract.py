"""The contract of ``method_contract``, for every method."""

import torch
from method_contract import SIDE, MethodContract, backbone

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

    def test_the_teacher_drops_nothing_and_the_student_does(self, name):
        """Scores of the same views under two seeds of dropout."""
        method, _ = self.trained(name)
        for block in method.encoder.blocks:
            torch.nn.init.normal_(block.adapter.up.weight, std=0.1)
        method.trained({key for key, parameter in method.named_parameters() if parameter.requires_grad})
        method.train()
        heard, targets = [], method._targets
        method._targets = lambda *scores: heard.append(scores) or targets(*scores)
        said = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            said.append(method(**self.arguments((3, SIDE, SIDE))).prediction)
        assert all(torch.equal(one, two) for one, two in zip(*heard, strict=True))
        assert not torch.equal(*said)
