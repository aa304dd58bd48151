"""The reference code's own numbers, and the parameter counts of the paper."""

import pytest
import timm
import torch
from golden_numbers import FILES, differences

from pad.adapters.attach import PadConfig, adapters_enabled, attach_adapters, count_adapter_parameters, detach_adapters
from pad.methods import MAE
from pad.training.paradigms import apply_paradigm, scales_frozen_at


@pytest.mark.parametrize(("name", "gradients"), [(FILES[0], 21), (FILES[1], 12), (FILES[2], 21)])
def test_methods_equal_the_reference(golden, name, gradients):
    found = differences(golden, name)
    assert found["loss"] <= 1e-5 and found["prediction"] <= 1e-5 and found["mask"] == 0
    assert found["gradient"] <= 1e-4 and found["gradients"] == gradients
    assert ("features" in found) or name == "pad_milan_concat"
    assert found.get("features", 0.0) <= 1e-5


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (PadConfig(), 1_226_496),
        (PadConfig(scale="fixed"), 1_208_064),
        (PadConfig(scale="learnable"), 1_208_076),
        (PadConfig(down_size=16), 341_184),
        (PadConfig(down_size=256), 4_767_744),
    ],
)
def test_parameter_counts_on_vit_b(config, count):
    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
        attach_adapters(model, config)
    assert count_adapter_parameters(model) == count


def test_trained_parameters_of_a_whole_mae_on_vit_b():
    with torch.device("meta"):
        method = MAE(timm.create_model("vit_base_patch16_224", num_classes=0))
    assert sum(p.numel() for group in apply_paradigm(method, "continual") for p in group["params"]) == 111_655_680


def test_trained_parameters_of_pad_mae_on_vit_b():
    with torch.device("meta"):
        method = MAE(attach_adapters(timm.create_model("vit_base_patch16_224", num_classes=0)))
    groups = apply_paradigm(method, "pad")
    trained = sum(parameter.numel() for group in groups for parameter in group["params"])
    assert trained == 1_226_496 + 25_614_592
    assert not any(parameter.requires_grad for parameter in method.decoder_embed.parameters())


BACKBONES = [
    ("vit_tiny_patch16_224", 64),
    ("vit_small_patch14_reg4_dinov2", 56),
    ("vit_small_patch16_dinov3", 64),
    ("eva02_tiny_patch14_224", 56),
    ("deit_tiny_distilled_patch16_224", 64),
    ("vit_base_patch16_siglip_224", 64),
    ("vit_base_patch16_clip_224", 64),
]


@pytest.mark.parametrize(("name", "size"), BACKBONES)
def test_adapters_start_as_the_identity_and_come_off_again(name, size):
    torch.manual_seed(0)
    model = timm.create_model(name, depth=2, img_size=size, num_classes=0).eval()
    images = torch.randn(2, 3, size, size)
    keys = list(model.state_dict())
    with torch.no_grad():
        plain = model.forward_features(images)
        attach_adapters(model, PadConfig(down_size=8)).eval()
        assert torch.equal(model.forward_features(images), plain)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.shape[-1] == 8:
                parameter.add_(0.3)
        assert not torch.equal(model.forward_features(images), plain)
        with adapters_enabled(model, False):
            assert torch.equal(model.forward_features(images), plain)
        detach_adapters(model)
        assert torch.equal(model.forward_features(images), plain) and list(model.state_dict()) == keys


@pytest.mark.parametrize(("name", "size"), BACKBONES)
def test_mae_trains_the_adapters_of_every_backbone_and_nothing_else(name, size):
    torch.manual_seed(0)
    model = attach_adapters(timm.create_model(name, depth=2, img_size=size, num_classes=0), PadConfig(down_size=8))
    method = MAE(model, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
    optimizer = torch.optim.AdamW(apply_paradigm(method, "pad"), lr=1e-2)
    frozen = {n: p.clone() for n, p in method.named_parameters() if not p.requires_grad}
    images = torch.randn(2, 3, size, size)
    for _ in range(3):
        optimizer.zero_grad()
        method(images).loss.backward()
        optimizer.step()
    for key, parameter in method.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, key
        else:
            assert parameter.grad is None and torch.equal(parameter, frozen[key]), key


def test_scales_are_frozen_for_61_of_100_epochs():
    assert [epoch for epoch in range(100) if scales_frozen_at(epoch, 100, 0.6)] == list(range(61))
    assert not scales_frozen_at(0, 100, 0.0)


def test_other_input_shapes():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=(32, 64), in_chans=1, num_classes=0)
    method = MAE(model, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
    images = torch.randn(2, 1, 32, 64)
    output = method(images)
    assert output.prediction.shape == (2, 8, 256) and output.mask.sum(1).tolist() == [6, 6]
    assert torch.equal(method.unpatchify(method.patchify(images)), images)
