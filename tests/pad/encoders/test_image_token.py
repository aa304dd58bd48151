"""The image token is the class token or the mean of the patches, never a register."""

import pytest
import timm
import torch

from pad.encoders.tokens import class_tokens, image_and_patch_tokens, image_token
from pad.methods import IBOT, MILAN, Distillation
from pad.methods.teacher import FrozenTeacher

SMALL = {"num_classes": 0, "img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
MODELS = {  # name: class tokens, prefix tokens
    "vit_tiny_patch16_224": (1, 1),
    "vit_base_patch16_siglip_gap_224": (0, 0),
    "vit_medium_patch16_reg4_gap_256": (0, 4),
    "vit_little_patch16_reg1_gap_256": (0, 1),
    "vit_small_patch14_reg4_dinov2": (1, 5),
    "deit_tiny_distilled_patch16_224": (1, 2),
}


def small(name):
    torch.manual_seed(0)
    return timm.create_model(name, **SMALL)


@pytest.mark.parametrize("name", MODELS)
def test_registers_are_no_image_token(name):
    model = small(name)
    count, prefix = MODELS[name]
    assert (class_tokens(model), model.num_prefix_tokens) == (count, prefix)
    tokens = torch.randn(2, prefix + 16, 48)
    expected = tokens[:, 0] if count else tokens[:, prefix:].mean(1)
    assert torch.equal(image_token(model, tokens), expected)
    assert image_and_patch_tokens(model, tokens).shape == (2, count + 16, 48)


@pytest.mark.parametrize("name", [name for name, (count, _) in MODELS.items() if not count])
def test_methods_never_see_a_register_as_the_image(name):
    """Registers that are changed after the blocks change no target, no prediction and no score."""
    images = torch.randn(2, 3, 32, 32)
    teacher = FrozenTeacher(small(name))
    tokens, attention = teacher(images)
    assert tokens.shape[1] == attention.shape[1] == 16
    student = small(name)
    output = Distillation(student, teacher=teacher).forward(images)
    assert output.prediction.shape[1] == 16
    milan = MILAN(small(name), teacher=teacher, decoder_embed_dim=24, decoder_depth=1, decoder_num_heads=2)
    assert milan.forward(images).prediction.shape[1] == 16
    ibot = IBOT(small(name), out_dim=32, local_crops=0).eval()
    scores = ibot.forward(images[None]).prediction
    encoded = ibot.encoder.forward_features(images)
    assert scores.shape == (2, 32)
    mean = encoded[:, ibot.encoder.num_prefix_tokens :].mean(1)
    masks = torch.zeros(1, 2, 16)
    torch.testing.assert_close(
        ibot.forward(images[None], masks=masks).prediction, ibot.head(mean), atol=1e-5, rtol=1e-4
    )
