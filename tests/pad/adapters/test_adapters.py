"""Adapters on timm ViTs: what they compute, that they leave the base alone, and how they are stored."""

import copy
import json
import pickle

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from msip.errors import ModelError, WeightsError
from pad import PadConfig, attach_adapters, load_adapters, save_adapters
from pad.adapters.attach import (
    adapter_parameters,
    adapter_state_dict,
    adapters_enabled,
    count_adapter_parameters,
    detach_adapters,
    has_adapters,
    mean_scales,
    recorded_scales,
    scale_predictors,
    token_scales,
    trunk_state_dict,
)

ODD = {"embed_dim": 96, "num_heads": 3}
UNUSUAL = [
    ("vit_small_patch16_rope_mixed_224", 64, {}),
    ("beitv2_base_patch16_224", 64, ODD),
    ("vit_base_patch16_siglip_gap_224", 64, ODD),
    ("vit_base_patch14_reg4_dinov2", 56, ODD),
]


def vit(**options):
    return timm.create_model("vit_tiny_patch16_224", **{"img_size": 64, "depth": 2, "num_classes": 0, **options})


def shaken(model, scale=0.1):
    """Every adapter parameter away from its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "size", "options"), UNUSUAL)
def test_unusual_blocks_start_as_the_identity_and_learn(name, size, options):
    model = timm.create_model(name, depth=2, img_size=size, num_classes=0, **options).eval()
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        plain = model.forward_features(images)
        attach_adapters(model)
        assert torch.equal(model.forward_features(images), plain)
        assert not torch.allclose(shaken(model).forward_features(images), plain, atol=1e-2)
        with adapters_enabled(model, False):
            assert torch.equal(model.forward_features(images), plain)


def by_hand(block, config, x):
    """The block as the paper draws it, from its parts (layer scale and stochastic depth absent)."""
    adapter = block.adapter
    x = x + block.attn(block.norm1(x))
    m = block.mlp(block.norm2(x))
    centred = x - x.mean(-1, keepdim=True)
    normed = centred / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    h = adapter.up(adapter.down(normed * adapter.norm.weight + adapter.norm.bias).clamp(min=0))
    if config.scale != "patchwise":
        return x + m + adapter.scale * h
    seen = {"concat": torch.cat((m, h), -1), "sum": m + h, "side": h, "gside": m}[config.fusion]
    return x + m + h / (1 + torch.exp(-(seen @ adapter.scale_predictor.weight.T)))


@pytest.mark.parametrize(
    "config",
    [
        *(PadConfig(down_size=8, fusion=fusion) for fusion in ("concat", "sum", "side", "gside")),
        PadConfig(down_size=8, scale="learnable", scale_init=0.3),
        PadConfig(down_size=8, scale="fixed", scale_init=0.7),
    ],
    ids=lambda config: f"{config.scale}-{config.fusion}",
)
@torch.no_grad()
def test_block_computes_what_the_paper_draws(config):
    block = shaken(attach_adapters(vit().eval(), config)).blocks[0]
    x = torch.randn(2, 5, 192)
    assert torch.allclose(block(x), by_hand(block, config, x), atol=1e-5)


def test_stochastic_depth_drops_the_mlp_but_never_the_adapter():
    model = shaken(attach_adapters(vit(drop_path_rate=0.5), PadConfig(down_size=8, scale="fixed", dropout=0.0)))
    block = model.train().blocks[1]
    block.drop_path1 = nn.Identity()
    block.drop_path2.drop_prob = 1.0 - 1e-7  # every draw drops
    x = torch.randn(4, 5, 192)
    after_attention = x + block.attn(block.norm1(x))
    expected = after_attention + block.adapter(after_attention, block.mlp(block.norm2(after_attention)))
    assert torch.allclose(block(x), expected, atol=1e-5)


def test_patchwise_scale_sees_the_branch_after_layer_scale():
    model = attach_adapters(vit(init_values=1e-5).eval(), PadConfig(down_size=8, fusion="gside"))
    with torch.no_grad():
        shaken(model, 1.0)
        with recorded_scales(model):
            model.forward_features(torch.randn(1, 3, 64, 64))
    assert all((scale - 0.5).abs().max() < 1e-2 for scale in token_scales(model))


def test_base_is_bit_for_bit_there_after_training(images):
    model = vit().eval()
    plain = model.forward_features(images).detach()
    attach_adapters(model)
    optimizer = torch.optim.AdamW([parameter for _, parameter in adapter_parameters(model)], lr=1e-2)
    for _ in range(3):
        model.train()(images).square().mean().backward()
        optimizer.step()
    model.eval()
    assert not torch.equal(model.forward_features(images), plain)
    with adapters_enabled(model, False):
        assert torch.equal(model.forward_features(images), plain)
    assert not torch.equal(model.forward_features(images), plain)
    detach_adapters(model)
    assert torch.equal(model.forward_features(images), plain) and type(model.blocks[0]) is type(vit().blocks[0])


@torch.no_grad()
def test_trunk_keeps_timms_names_in_both_directions(images):
    model = shaken(attach_adapters(vit().eval()))
    plain = vit().eval()
    plain.load_state_dict(trunk_state_dict(model))  # strict
    with adapters_enabled(model, False):
        assert torch.equal(plain.forward_features(images), model.forward_features(images))
    assert set(model.state_dict()) == set(plain.state_dict()) | set(adapter_state_dict(model))
    assert model.get_submodule("blocks.0.mlp.fc1").weight is model.blocks[0].mlp.fc1.weight


@torch.no_grad()
def test_other_ways_through_the_model_agree(images):
    model = shaken(attach_adapters(vit().eval()))
    features = model.forward_features(images)
    final, layers = model.forward_intermediates(images, norm=True, output_fmt="NLC")
    assert torch.equal(final, features) and torch.equal(layers[-1], features[:, 1:])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.forward_features(images), features)


def test_gradient_checkpointing_gives_the_same_gradients(images):
    def gradients(checkpointing):
        torch.manual_seed(0)
        model = shaken(attach_adapters(vit(), PadConfig(dropout=0.0)))
        model.set_grad_checkpointing(checkpointing)
        model.forward_features(images).square().mean().backward()
        return [parameter.grad for _, parameter in adapter_parameters(model)]

    for plain, checkpointed in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(plain, checkpointed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_compiled_equals_eager(images, name):
    model = timm.create_model(name, img_size=64, depth=2, num_classes=0).eval()
    shaken(attach_adapters(model))
    compiled = torch.compile(model.forward_features, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(images), model.forward_features(images), atol=1e-6)


@torch.no_grad()
def test_scales_are_recorded_only_when_asked(images):
    model = attach_adapters(vit().eval())
    model.forward_features(images)
    assert mean_scales(model) is None
    with recorded_scales(model):
        model.forward_features(images)
    assert torch.equal(mean_scales(model), torch.tensor([0.5, 0.5]))
    assert [tuple(scale.shape) for scale in token_scales(model)] == [(2, 17, 1)] * 2
    with recorded_scales(shaken(model)):
        model.forward_features(images)
    assert torch.allclose(mean_scales(model), torch.stack([scale.mean() for scale in token_scales(model)]))
    assert (mean_scales(model) != 0.5).all()


def test_some_blocks_only():
    model = attach_adapters(vit(depth=3), PadConfig(down_size=8, blocks=[2, 0]))
    assert {name.split(".")[1] for name, _ in adapter_parameters(model)} == {"0", "2"}
    with pytest.raises(ModelError, match="blocks 0 to 2"):
        attach_adapters(vit(depth=3), PadConfig(blocks=(3,)))


@pytest.mark.parametrize(("down_size", "count"), [(16, 341_184), (32, 636_288), (128, 2_406_912), (256, 4_767_744)])
def test_counts_for_other_widths(down_size, count):
    with torch.device("meta"):
        model = attach_adapters(timm.create_model("vit_base_patch16_224"), PadConfig(down_size=down_size))
    assert count_adapter_parameters(model) == count


def test_scale_predictors_belong_to_patchwise_scales_alone():
    def count(config):
        return sum(parameter.numel() for _, parameter in scale_predictors(attach_adapters(vit(), config)))

    assert count(PadConfig()) == 2 * 2 * 192
    assert count(PadConfig(fusion="side")) == 2 * 192
    assert count(PadConfig(scale="learnable")) == 0
    assert count(PadConfig(scale="fixed")) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"down_size": 0}, "down_size is 0"),
        ({"scale": "0.5"}, "patchwise, learnable, fixed"),
        ({"fusion": "product"}, "concat, sum, side, gside"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"scale_init": float("nan")}, "scale_init is nan"),
        ({"blocks": (1, 1)}, "each adapted block once"),
    ],
)
def test_configurations_without_sense_are_refused(options, words):
    with pytest.raises(ModelError, match=words):
        PadConfig(**options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: timm.create_model("vit_small_patch16_18x2_224", depth=2), "ParallelThingsBlock"),
        (lambda: timm.create_model("resnet18"), "ResNet has no list of transformer blocks"),
        (lambda: attach_adapters(vit()), "already has adapters"),
    ],
)
def test_models_that_do_not_fit_are_refused_and_left_alone(make, words):
    model = make()
    keys = list(model.state_dict())
    with pytest.raises(ModelError, match=words):
        attach_adapters(model, PadConfig(down_size=8))
    assert list(model.state_dict()) == keys


@pytest.fixture
def saved(tmp_path):
    model = shaken(attach_adapters(vit().eval(), PadConfig(down_size=8, fusion="side", blocks=(1,))))
    return model, save_adapters(model, tmp_path / "run", init="timm:vit_tiny_patch16_224.x").parent


def base_of(model):
    plain = vit().eval()
    plain.load_state_dict(trunk_state_dict(model))
    return plain


@torch.no_grad()
def test_saved_adapters_come_back(saved, images):
    model, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["adapter.json", "adapter.safetensors"]
    record = json.loads((folder / "adapter.json").read_text())
    assert record["model"] == "vit_tiny_patch16_224" and record["parameters"] == count_adapter_parameters(model)
    for path in (folder, folder / "adapter.safetensors"):
        loaded = load_adapters(base_of(model), path)
        assert loaded.pad_config == model.pad_config
        assert torch.equal(loaded.forward_features(images), model.forward_features(images))


@torch.no_grad()
def test_the_weights_file_alone_is_enough(saved, images):
    model, folder = saved
    (folder / "adapter.json").unlink()
    loaded = load_adapters(base_of(model), folder)
    assert torch.equal(loaded.forward_features(images), model.forward_features(images))


def cut(folder):
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def without_description(folder):
    save_file(load_file(folder / "adapter.safetensors"), folder / "adapter.safetensors")
    (folder / "adapter.json").unlink()


def with_odd_config(folder):
    record = json.loads((folder / "adapter.json").read_text())
    record["config"]["down_size"] = 16
    (folder / "adapter.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("spoil", "target", "words"),
    [
        (None, lambda model: vit(embed_dim=96), "width 192, this model has width 96"),
        (None, lambda model: vit(depth=3), "depth 2, this model has depth 3"),
        (None, lambda model: vit(), "other weights"),
        (None, lambda model: attach_adapters(base_of(model)), "detach those first"),
        (cut, base_of, "no readable weights"),
        (without_description, base_of, "no description"),
        (with_odd_config, base_of, "does not hold the adapters"),
    ],
)
def test_adapters_of_another_base_are_refused_and_change_nothing(saved, spoil, target, words):
    model, folder = saved
    if spoil:
        spoil(folder)
    other = target(model)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(WeightsError, match=words) as error:
        load_adapters(other, folder)
    assert "\n" not in str(error.value)
    assert before.keys() == other.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())


def test_a_model_without_blocks_takes_no_saved_adapters(saved):
    with pytest.raises(ModelError, match="ResNet has no list of transformer blocks"):
        load_adapters(timm.create_model("resnet18"), saved[1])


def test_adapters_of_a_random_trunk_say_how_to_get_it(tmp_path):
    folder = save_adapters(attach_adapters(vit()), tmp_path, init="random").parent
    with pytest.raises(WeightsError, match="began at random: msip export-model RUN --format timm"):
        load_adapters(vit(), folder)


def test_nothing_to_save_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="no adapters"):
        save_adapters(vit(), tmp_path)
    assert not list(tmp_path.iterdir()) and not has_adapters(vit())
