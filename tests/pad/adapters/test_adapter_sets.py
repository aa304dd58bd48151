"""Several adapters on one trunk; and every backbone family: counts, switching, and the base model bit for bit."""

import copy

import pytest
import timm
import torch

from msip.errors import ModelError, WeightsError
from pad import PadConfig, attach_adapters, load_adapters, save_adapters
from pad.adapters.attach import (
    adapter_parameters,
    adapters_enabled,
    count_adapter_parameters,
    detach_adapters,
    has_adapters,
)
from pad.adapters.sets import AdapterSets

FAMILIES = [  # one of each family that timm has, at two blocks and a small width where the width can be chosen
    ("vit_tiny_patch16_224", 64, {}),
    ("vit_small_patch16_rope_224", 64, {}),
    ("deit_tiny_patch16_224", 64, {}),
    ("deit_tiny_distilled_patch16_224", 64, {}),
    ("deit3_small_patch16_224", 64, {}),
    ("vit_small_patch14_dinov2", 56, {}),
    ("vit_small_patch14_reg4_dinov2", 56, {}),
    ("vit_small_patch16_dinov3", 64, {}),
    ("vit_small_patch16_dinov3_qkvb", 64, {}),
    ("eva02_tiny_patch14_224", 56, {}),
    ("beitv2_base_patch16_224", 64, {"embed_dim": 96, "num_heads": 3}),
    ("vit_base_patch16_clip_224", 64, {"embed_dim": 96, "num_heads": 3}),
    ("vit_base_patch16_clip_quickgelu_224", 64, {"embed_dim": 96, "num_heads": 3}),
    ("vit_base_patch16_siglip_224", 64, {"embed_dim": 96, "num_heads": 3}),
    ("vit_pe_core_tiny_patch16_384", 64, {}),
]


def shaken(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(("name", "size", "options"), FAMILIES, ids=[name for name, *_ in FAMILIES])
@torch.no_grad()
def test_off_is_the_base_and_a_saved_adapter_comes_back_bit_for_bit(tmp_path, name, size, options):
    torch.manual_seed(0)
    base = timm.create_model(name, depth=2, img_size=size, num_classes=0, **options).eval()
    images = torch.randn(2, 3, size, size)
    expected = base.forward_features(images)
    model = shaken(attach_adapters(copy.deepcopy(base), PadConfig(down_size=8, fusion="gside")), 1)
    adapted = model.forward_features(images)
    assert not torch.equal(adapted, expected)
    with adapters_enabled(model, False):
        assert torch.equal(model.forward_features(images), expected)
    save_adapters(model, tmp_path, init="timm:x")
    assert torch.equal(load_adapters(copy.deepcopy(base), tmp_path).forward_features(images), adapted)
    other = copy.deepcopy(base)
    next(other.blocks[1].parameters()).add_(1e-6)
    with pytest.raises(WeightsError, match="other weights"):
        load_adapters(other, tmp_path)
    assert not has_adapters(other)
    assert torch.equal(detach_adapters(model).forward_features(images), expected)


@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [
        ("vit_tiny_patch16_224", 192, 12),
        ("vit_small_patch16_224", 384, 12),
        ("vit_base_patch16_224", 768, 12),
        ("vit_large_patch16_224", 1024, 24),
        ("vit_huge_patch14_224", 1280, 32),
        ("vit_large_patch14_dinov2", 1024, 24),
        ("vit_large_patch16_dinov3", 1024, 24),
        ("eva02_large_patch14_224", 1024, 24),
        ("vit_large_patch14_clip_224", 1024, 24),
        ("vit_so400m_patch14_siglip_224", 1152, 27),
    ],
)
def test_counts_from_tiny_to_huge(name, width, depth):
    """LayerNorm 2D + Down Dd + d + Up dD + D + scale predictor 2D, a block; nothing of the base is counted."""
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
        before = sum(p.numel() for p in model.parameters())
        attach_adapters(model)
    expected = depth * (2 * width + (width * 64 + 64) + (64 * width + width) + 2 * width)
    assert count_adapter_parameters(model) == expected
    assert sum(p.numel() for p in model.parameters()) - before == expected


def test_default_adapters_of_vit_b_are_a_file_of_5_mb(tmp_path):
    model = attach_adapters(timm.create_model("vit_base_patch16_224", num_classes=0))
    size = save_adapters(model, tmp_path).stat().st_size
    assert 4 * 1_226_496 < size < 4 * 1_226_496 + 20_000


def vit():
    torch.manual_seed(3)
    return timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=0).eval()


@pytest.fixture
def saved(tmp_path):
    """Two adapters of different shapes on one trunk, and the features that each gives."""
    features, images = {}, torch.randn(1, 3, 64, 64)
    for seed, (name, config) in enumerate({"day": PadConfig(8), "night": PadConfig(4, "fixed", blocks=(2,))}.items()):
        model = shaken(attach_adapters(vit(), config), seed)
        save_adapters(model, tmp_path / name)
        features[name] = model.forward_features(images).detach()
    return tmp_path, images, features


@torch.no_grad()
def test_switching_between_adapters_on_one_trunk(saved):
    folder, images, features = saved
    model = vit()
    plain, weight = model.forward_features(images), model.blocks[0].mlp.fc1.weight
    sets = AdapterSets(model)
    for name in features:
        sets.add(name, folder / name)
    assert sets.names == ["day", "night"] and sets.active == "night"
    for name in ("day", "night", None, "night", "day", None):
        sets.use(name)
        assert torch.equal(model.forward_features(images), plain if name is None else features[name])
    assert model.blocks[0].mlp.fc1.weight is weight and not has_adapters(model)


def test_adapters_at_rest_keep_their_training(saved):
    folder, images, features = saved
    model = load_adapters(vit(), folder / "day")
    sets = AdapterSets(model)
    assert sets.active == "default"
    sets.add("night", folder / "night")
    sets.use("default")
    model.blocks[0].adapter.up.bias.data.add_(1.0)
    changed = model.forward_features(images)
    sets.use("night")
    assert torch.equal(model.forward_features(images), features["night"])
    sets.use("default")
    assert torch.equal(model.forward_features(images), changed)


def test_sets_refuse_what_does_not_fit_and_stay_as_they_were(saved, tmp_path):
    folder, images, features = saved
    sets = AdapterSets(vit())
    sets.add("day", folder / "day")
    other = attach_adapters(timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=0))
    save_adapters(other, tmp_path / "other")
    for act, error, words in [
        (lambda: sets.add("other", tmp_path / "other"), WeightsError, "other weights"),
        (lambda: sets.add("day", folder / "night"), ModelError, "already are"),
        (lambda: sets.use("noon"), ModelError, "there are day"),
    ]:
        with pytest.raises(error, match=words):
            act()
        assert sets.active == "day" and sets.names == ["day"]
        assert torch.equal(sets.model.forward_features(images), features["day"])
