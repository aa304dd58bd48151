"""What trains under each paradigm, and how the optimizer's groups are made."""

import copy
import shutil

import pytest
import timm
import torch

from msip.errors import ModelError, RunError
from pad import load_encoder
from pad.adapters.attach import attach_adapters
from pad.adapters.bottleneck import PadConfig
from pad.adapters.lora import has_lora, merge_lora
from pad.methods import IBOT, MAE, SimMIM
from pad.training.paradigms import apply_paradigm, prepare_encoder, scales_frozen_at, set_scales_frozen

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
    decays = decays_of(method, "pad")
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


def decays_of(method, paradigm):
    """Weight decay by parameter name."""
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    groups = apply_paradigm(method, paradigm, weight_decay=0.3)
    return {names[id(parameter)]: group["weight_decay"] for group in groups for parameter in group["params"]}


@pytest.mark.parametrize("method_class", [MAE, SimMIM, IBOT])
def test_mask_tokens_decay_and_layer_decay_spares_class_token_and_positions(method_class):
    method = method_class(timm.create_model("vit_tiny_patch16_224", img_size=96, depth=1, num_classes=0))
    for paradigm, of_tokens in (("continual", 0.3), ("layer-decay", 0.0)):
        decays = decays_of(method, paradigm)
        assert decays["mask_token"] == decays["encoder.patch_embed.proj.weight"] == 0.3
        assert decays["encoder.cls_token"] == decays.get("encoder.pos_embed", of_tokens) == of_tokens  # MAE's are fixed
        assert decays["encoder.norm.weight"] == 0.0


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


def prepared(paradigm, **options):
    encoder = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=5, **options)
    method = MAE(encoder, **DECODER)
    prepare_encoder(encoder, paradigm, lora_rank=4)
    return method


def head_of(method):
    return {name for name, _ in method.named_parameters() if not name.startswith("encoder.")}


def test_bitfit_trains_the_biases_and_the_head():
    method = prepared("bitfit")
    apply_paradigm(method, "bitfit")
    biases = {
        name
        for name, _ in method.named_parameters()
        if name.startswith("encoder.") and name.endswith("bias") and not name.startswith("encoder.head.")
    }
    assert trained(method) == head_of(method) | biases and len(biases) == 1 + 3 * 6 + 1


def test_lora_trains_low_rank_updates_on_every_block_and_explora_the_last_block_whole():
    lora = prepared("lora")
    apply_paradigm(lora, "lora")
    updates = {name for name in trained(lora) if name.startswith("encoder.")}
    assert {name.split(".")[2] for name in updates} == {"0", "1", "2"} and all("lora_" in name for name in updates)
    assert trained(lora) == head_of(lora) | updates
    assert sum(p.numel() for n, p in lora.named_parameters() if n in updates) == 3 * 4 * (192 + 3 * 192)
    explora = prepared("explora")
    apply_paradigm(explora, "explora")
    inner = {name for name in trained(explora) if name.startswith("encoder.")}
    whole = {name for name, _ in explora.named_parameters() if name.startswith("encoder.blocks.2.")}
    assert {name for name in inner if "lora_" in name} == inner - whole and len(whole) == 12
    assert {name.split(".")[2] for name in inner - whole} == {"0", "1"}


LORA_BACKBONES = [
    ("vit_tiny_patch16_224", 64),
    ("vit_small_patch14_reg4_dinov2", 56),
    ("vit_small_patch16_dinov3", 64),
    ("vit_small_patch16_dinov3_qkvb", 64),
    ("eva02_tiny_patch14_224", 56),
    ("vit_base_patch16_clip_224", 64),
    ("vit_base_patch16_siglip_224", 64),
]


@pytest.mark.parametrize(("name", "size"), LORA_BACKBONES)
def test_lora_starts_as_the_identity_learns_and_merges(name, size):
    torch.manual_seed(0)
    encoder = timm.create_model(name, depth=2, img_size=size, num_classes=0).eval()
    images = torch.randn(2, 3, size, size)
    method, plain = MAE(encoder, **DECODER), copy.deepcopy(encoder)
    expected = encoder.forward_features(images)
    prepare_encoder(encoder, "lora", lora_rank=4)
    assert torch.allclose(encoder.forward_features(images), expected, atol=1e-5)
    optimizer = torch.optim.AdamW(apply_paradigm(method, "lora"), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        method(images).loss.backward()
        optimizer.step()
    assert all(p.grad.abs().max() > 0 for n, p in method.named_parameters() if "lora_" in n)
    trained_features = encoder.forward_features(images)
    assert not torch.equal(trained_features, expected)
    plain.load_state_dict(merge_lora(encoder.state_dict()))  # strict: a plain timm model again
    assert torch.allclose(plain.forward_features(images), trained_features, atol=1e-4)


def test_attention_without_a_way_in_for_lora_is_refused():
    """Where timm uses the projection's weight past the projection, LoRA would train nothing, unseen."""
    encoder = timm.create_model("vit_small_patch16_dinov3_qkvb", img_size=64, depth=2)
    del encoder.blocks[1].attn.qkv_bias_separate
    with pytest.raises(ModelError, match="choose another `paradigm`"):
        prepare_encoder(encoder, "lora", lora_rank=4)


@pytest.mark.parametrize("paradigm", ["lora", "explora", "bitfit"])
def test_runs_of_other_paradigms_resume_exactly_and_load_as_plain_models(tmp_path, paradigm):
    from training_runs import config, fingerprint, make_manifest, train

    make_manifest(tmp_path / "data", images=16)
    options = {"paradigm": paradigm, "lora_rank": 4, "max_steps": 4, "save_every": 2, "keep_checkpoints": 5}
    train(config(tmp_path / "data", tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/step-00000004")
    (tmp_path / "cut/result.json").unlink()
    train(config(tmp_path / "data", tmp_path / "cut", resume="auto", **options))
    assert fingerprint(tmp_path / "whole") == fingerprint(tmp_path / "cut")
    images = torch.randn(2, 3, 32, 32)
    finished = load_encoder(tmp_path / "whole").eval()
    unfinished = load_encoder(max((tmp_path / "whole/checkpoints").glob("step-*"))).eval()
    assert not has_lora(finished)
    assert torch.equal(finished.forward_features(images), unfinished.forward_features(images))
