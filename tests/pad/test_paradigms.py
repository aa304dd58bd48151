"""What trains under each paradigm, and how the optimizer's groups are made."""

import pytest
import timm
import torch

from msip.errors import RunError
from pad.adapters import attach_adapters
from pad.bottleneck import PadConfig
from pad.methods import MAE
from pad.paradigms import apply_paradigm, scales_frozen_at, set_scales_frozen

DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}


def mae(adapters=True, **options):
    encoder = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2, num_classes=5, **options)
    return MAE(attach_adapters(encoder, PadConfig(down_size=8)) if adapters else encoder, **DECODER)


def trained(method):
    return {name for name, parameter in method.named_parameters() if parameter.requires_grad}


def test_pad_trains_adapters_and_decoder_but_not_its_embedding():
    method = mae()
    apply_paradigm(method, "pad")
    expected = {
        name
        for name, _ in method.named_parameters()
        if ".adapter." in name or name.startswith(("mask_token", "decoder_blocks", "decoder_norm", "decoder_pred"))
    }
    assert trained(method) == expected and len(expected) > 20


def test_frozen_trains_the_head_alone():
    method = mae(adapters=False)
    apply_paradigm(method, "frozen")
    assert trained(method) == {name for name, _ in method.named_parameters() if not name.startswith("encoder.")}


@pytest.mark.parametrize("paradigm", ["continual", "layer-decay", "scratch"])
def test_full_paradigms_train_all_that_is_used_but_the_position_table(paradigm):
    method = mae(adapters=False)
    apply_paradigm(method, paradigm)
    untrained = {name for name, _ in method.named_parameters()} - trained(method)
    assert untrained == {"encoder.pos_embed", "encoder.head.weight", "encoder.head.bias"}
    method(torch.randn(2, 3, 64, 64)).loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters() if parameter.requires_grad)


def test_full_mae_on_vit_b_trains_as_many_parameters_as_the_reference():
    with torch.device("meta"):
        method = MAE(timm.create_model("vit_base_patch16_224", num_classes=0))
    groups = apply_paradigm(method, "continual")
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == 111_655_680


def test_decay_is_on_matrices_and_tokens_and_on_nothing_else():
    method = mae()
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    decays = {}
    for group in apply_paradigm(method, "pad", weight_decay=0.3):
        decays.update({names[id(parameter)]: group["weight_decay"] for parameter in group["params"]})
    assert decays["mask_token"] == decays["encoder.blocks.0.adapter.scale_predictor.weight"] == 0.3
    for name, decay in decays.items():
        odd = name.endswith(".bias") or "norm" in name
        assert decay == (0.0 if odd else 0.3), name
    assert set(decays) == trained(method)
    learnable = MAE(
        attach_adapters(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=2), PadConfig(scale="learnable")),
        **DECODER,
    )
    without = [group for group in apply_paradigm(learnable, "pad") if group["weight_decay"] == 0]
    scales = {id(block.adapter.scale) for block in learnable.encoder.blocks}
    assert scales <= {id(parameter) for group in without for parameter in group["params"]}


def test_layer_decay_has_14_ids_on_vit_b():
    with torch.device("meta"):
        method = MAE(timm.create_model("vit_base_patch16_224", num_classes=0))
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    scales = {}
    for group in apply_paradigm(method, "layer-decay", layer_decay=0.7):
        scales.update({names[id(parameter)]: group["lr_scale"] for parameter in group["params"]})
    assert len(set(scales.values())) == 14
    assert scales["encoder.cls_token"] == scales["encoder.patch_embed.proj.weight"] == pytest.approx(0.7**13)
    assert scales["encoder.blocks.0.attn.qkv.weight"] == pytest.approx(0.7**12)
    assert scales["encoder.blocks.11.mlp.fc1.bias"] == pytest.approx(0.7)
    assert scales["encoder.norm.weight"] == scales["decoder_pred.weight"] == scales["mask_token"] == 1


def test_frozen_scales_are_neither_moved_nor_decayed():
    method = mae()
    optimizer = torch.optim.AdamW(apply_paradigm(method, "pad", weight_decay=0.5), lr=1e-2)
    predictor = method.encoder.blocks[0].adapter.scale_predictor.weight
    with torch.no_grad():
        predictor.fill_(0.1)

    def step():
        optimizer.zero_grad()
        method(torch.randn(2, 3, 64, 64)).loss.backward()
        optimizer.step()

    step()
    moved = predictor.detach().clone()
    set_scales_frozen(method, True)
    step()
    assert torch.equal(predictor, moved) and predictor.grad is None
    set_scales_frozen(method, False)
    step()
    assert not torch.equal(predictor, moved)


@pytest.mark.parametrize(("epochs", "fraction", "frozen"), [(100, 0.6, 61), (5, 0.5, 3), (3, 0.5, 3), (10, 0, 0)])
def test_scales_are_frozen_up_to_and_including_the_rounded_epoch(epochs, fraction, frozen):
    assert sum(scales_frozen_at(epoch, epochs, fraction) for epoch in range(epochs)) == frozen


@pytest.mark.parametrize(
    ("method", "paradigm", "words"),
    [
        (lambda: mae(adapters=False), "pad", "has no adapters"),
        (mae, "continual", "has adapters"),
        (mae, "lora2", "choose one of pad, continual"),
    ],
)
def test_paradigms_that_do_not_fit_are_refused(method, paradigm, words):
    with pytest.raises(RunError, match=words):
        apply_paradigm(method(), paradigm)
