"""Encoders made and loaded from what people have. Small random checkpoints stand for the published ones."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file

from msip.errors import ModelError, MsipError, WeightsError
from pad import PadConfig, attach_adapters, load_encoder, save_adapters
from pad.adapters.attach import adapter_parameters, has_adapters, trunk_state_dict
from pad.encoders import create_encoder, load_weights
from pad.encoders.layouts import to_pad_reference
from pad.methods import MAE
from pad.methods.teacher import load_teacher

SMALL = {"img_size": 64, "depth": 2, "num_classes": 0}


def vit(name="vit_tiny_patch16_224", **options):
    return timm.create_model(name, **{**SMALL, **options})


def adapted(config=None):
    model = attach_adapters(vit().eval(), config or PadConfig(down_size=8))
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.normal_(std=0.1)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_size_and_channels():
    model, report = create_encoder("vit_tiny_patch16_224", init="random", image_size=(32, 64), in_chans=1, depth=1)
    assert model.forward_features(torch.randn(1, 1, 32, 64)).shape == (1, 9, 192)
    assert report.source == "random" and not report.missing and len(model.blocks) == 1
    assert not [name for name in model.state_dict() if name.startswith("head")]


@pytest.mark.parametrize(
    "name", ["naflexvit_base_patch16_gap", "vit_base_mci_224", "vit_tiny_r_s16_p8_224", "crossvit_tiny_240"]
)
def test_models_without_plain_patches_are_refused(name):
    with torch.device("meta"), pytest.raises(ModelError, match=f"{name} is no plain ViT .* choose another") as error:
        create_encoder(name, init="random")
    assert "\n" not in str(error.value)


def test_classifier_of_a_file_is_reported_and_left_out(tmp_path, images):
    source = vit(num_classes=7).eval()
    torch.save({"state_dict": {f"module.{n}": t for n, t in source.state_dict().items()}}, tmp_path / "w.pth")
    model, report = create_encoder("vit_tiny_patch16_224", init=tmp_path / "w.pth", image_size=64, depth=2)
    assert torch.equal(model.eval().forward_features(images), source.forward_features(images))
    assert report.layout == "timm" and report.missing == [] and report.unexpected == ["head.weight", "head.bias"]


def test_training_checkpoint_of_the_reference_with_its_options(tmp_path, images):
    """Its ``args`` is an argparse.Namespace, which plain ``weights_only`` loading refuses."""
    model = adapted()
    renamed = {
        ".adapter.norm.": ".adaptmlp.adapter_layer_norm_before.",
        ".adapter.down.": ".adaptmlp.down_proj.",
        ".adapter.up.": ".adaptmlp.up_proj.",
        ".adapter.scale_predictor.": ".scalar_pred.",
    }
    state = model.state_dict()
    for ours, theirs in renamed.items():
        state = {name.replace(ours, theirs): tensor for name, tensor in state.items()}
    state |= {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 192)}
    content = {"model": state, "epoch": 99, "args": argparse.Namespace(blr=1e-4), "optimizer": {"state": {}}}
    torch.save(content, tmp_path / "checkpoint-99.pth")
    loaded = vit().eval()
    report = load_weights(loaded, tmp_path / "checkpoint-99.pth")
    assert report.layout == "PAD reference" and set(report.head) == {"mask_token", "decoder_embed.weight"}
    assert loaded.pad_config == PadConfig(down_size=8)
    assert torch.equal(loaded.forward_features(images), model.forward_features(images))


@pytest.mark.parametrize("names", [to_pad_reference, dict])
def test_segmentor_around_an_adapted_vit_brings_its_adapters(tmp_path, images, names):
    model = adapted()
    state = {f"backbone.{name}": tensor for name, tensor in names(model.state_dict()).items()}
    torch.save({"state_dict": state | {"decode_head.conv_seg.weight": torch.zeros(3)}}, tmp_path / "seg.pth")
    loaded = load_encoder(tmp_path / "seg.pth", vit().eval())
    assert loaded.pad_config == model.pad_config
    assert torch.equal(loaded.forward_features(images), model.forward_features(images))


@pytest.mark.parametrize("lost", ["gamma_1", "ls1.gamma", "attn.relative_position_bias_table"])
def test_parts_of_blocks_that_the_model_has_not_are_refused(tmp_path, lost):
    """Left out unseen they would give other features."""
    state = {f"backbone.{name}": tensor for name, tensor in adapted().state_dict().items()}
    torch.save({"state_dict": state | {f"backbone.blocks.1.{lost}": torch.ones(192)}}, tmp_path / "seg.pth")
    target = vit()
    with pytest.raises(WeightsError, match=rf"1 tensors in its blocks .* e\.g\. blocks\.1\.{lost}; choose") as error:
        load_encoder(tmp_path / "seg.pth", target)
    assert "\n" not in str(error.value) and not has_adapters(target)


def test_beit_file_with_its_index_of_positions_loads(tmp_path, images):
    """Microsoft's files hold the index beside the table; timm makes it anew."""
    source = vit("beit_base_patch16_224").eval()
    index = {f"blocks.{i}.attn.relative_position_index": torch.zeros(17, 17, dtype=torch.long) for i in range(2)}
    torch.save({"model": source.state_dict() | index}, tmp_path / "beit.pth")
    loaded = load_encoder(tmp_path / "beit.pth", vit("beit_base_patch16_224").eval())
    assert torch.equal(loaded.forward_features(images), source.forward_features(images))


@pytest.mark.parametrize("config", [PadConfig(8, "fixed", scale_init=0.3), PadConfig(8, blocks=(1,))])
def test_adapters_in_a_bare_file_are_recognised(tmp_path, images, config):
    model = adapted(config)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_encoder(tmp_path / "w.safetensors", vit().eval())
    assert loaded.pad_config == config
    assert torch.equal(loaded.forward_features(images), model.forward_features(images))


def test_ambiguous_fusion_is_asked_for(tmp_path, images):
    model = adapted(PadConfig(8, fusion="gside"))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    target = vit().eval()
    with pytest.raises(WeightsError, match="sum, side or gside"):
        load_encoder(tmp_path / "w.safetensors", target)
    assert not has_adapters(target)
    loaded = load_encoder(tmp_path / "w.safetensors", attach_adapters(target, model.pad_config).eval())
    assert torch.equal(loaded.forward_features(images), model.forward_features(images))


def test_positions_of_a_non_square_grid_are_resampled_by_the_stored_size(tmp_path):
    source = vit(img_size=(32, 128))
    with torch.no_grad():  # every column its own value: 2 x 8 patches
        source.pos_embed[:, 1:] = torch.arange(8.0).repeat(2)[None, :, None]
    save_file(source.state_dict(), tmp_path / "w.safetensors", {"image_size": "32x128"})
    model, report = create_encoder("vit_tiny_patch16_224", init=tmp_path / "w.safetensors", image_size=64, depth=2)
    grid = model.pos_embed[0, 1:, 0].reshape(4, 4)  # as many tokens, another grid
    assert torch.allclose(grid, grid[:1].expand(4, 4), atol=1e-5) and (grid[0].diff() > 1).all()
    assert len(report.reshaped) == 1


def test_colour_weights_on_one_channel_answer_grey_images_alike(tmp_path, images):
    source = vit().eval()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model, report = create_encoder(
        "vit_tiny_patch16_224", init=tmp_path / "w.safetensors", image_size=64, in_chans=1, depth=2
    )
    grey = images[:, :1]
    expected = source.forward_features(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(model.eval().forward_features(grey), expected, atol=1e-4)
    assert report.reshaped == ["patch_embed.proj.weight: (192, 3, 16, 16) -> (192, 1, 16, 16)"]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (lambda: vit(depth=3).state_dict(), "has 3 blocks"),
        (lambda: vit(patch_size=8).state_dict(), r"patch_embed\.proj\.weight"),
        (lambda: vit("deit_tiny_distilled_patch16_224").state_dict(), "pos_embed"),
        (lambda: {n: t for n, t in vit().state_dict().items() if "mlp.fc1" not in n}, r"lacks 4 tensors"),
        (lambda: vit(embed_dim=384).state_dict(), "choose the `model`"),
    ],
)
def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path, source, words):
    save_file(source(), tmp_path / "w.safetensors")
    model = vit()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=words) as error:
        load_weights(model, tmp_path / "w.safetensors")
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_plain_vit_is_recognised_without_a_model(tmp_path):
    source = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=0).eval()
    torch.save({"model": source.state_dict()}, tmp_path / "mae.pth")
    loaded = load_encoder(tmp_path / "mae.pth").eval()
    images = torch.randn(1, 3, 96, 96)
    assert torch.equal(loaded.forward_features(images), source.forward_features(images))
    torch.save(vit(init_values=1.0).state_dict(), tmp_path / "odd.pth")
    with pytest.raises(ModelError, match=r"timm\.create_model"):
        load_encoder(tmp_path / "odd.pth")


def test_folder_with_trunk_and_adapters(tmp_path, images):
    model = adapted(PadConfig(8, fusion="sum"))
    save_adapters(model, tmp_path)
    metadata = {"model": "vit_tiny_patch16_224", "image_size": "64"}
    save_file(trunk_state_dict(model), tmp_path / "encoder.safetensors", metadata)
    loaded = load_encoder(tmp_path).eval()
    assert torch.equal(loaded.forward_features(images), model.forward_features(images))


def test_adapters_alone_go_on_the_base_they_name(tmp_path, images):
    model = adapted()
    save_file(trunk_state_dict(model), tmp_path / "base.safetensors", {"image_size": "64"})
    folder = save_adapters(model, tmp_path / "exported", init=str(tmp_path / "base.safetensors")).parent
    base = vit().eval()
    base.load_state_dict(trunk_state_dict(model))
    assert torch.equal(load_encoder(folder, base).forward_features(images), model.forward_features(images))
    nameless = save_adapters(model, tmp_path / "nameless").parent
    with pytest.raises(WeightsError, match="pass it as model="):
        load_encoder(nameless)
    with pytest.raises(WeightsError, match="no trunk"):
        load_weights(vit(), nameless)


def test_run_and_its_checkpoints(tmp_path):
    from training_runs import config, make_manifest, train

    make_manifest(tmp_path / "data", images=8)
    options = config(tmp_path / "data", tmp_path / "run", max_steps=2, save_every=1, fusion="side", down_size=8)
    train(options)
    images = torch.randn(1, 3, 32, 32)
    run = load_encoder(tmp_path / "run").eval()
    assert run.pad_config.fusion == "side" and count(run) == count(adapted_like(options))
    last = load_encoder(max((tmp_path / "run" / "checkpoints").glob("step-*"))).eval()
    assert torch.equal(run.forward_features(images), last.forward_features(images))
    (tmp_path / "run" / "adapter.safetensors").unlink()
    (tmp_path / "run" / "adapter.json").unlink()
    unfinished = load_encoder(tmp_path / "run").eval()
    assert torch.equal(unfinished.forward_features(images), run.forward_features(images))


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


def adapted_like(options):
    encoder = create_encoder(options.model, init="random", image_size=options.image_size)[0]
    return attach_adapters(encoder, PadConfig(options.down_size, options.scale, options.fusion))


def test_what_is_loaded_is_ready_for_features(tmp_path, images):
    """Adapters have dropout: in training mode the same image has other features each time."""
    notes = {"model": "test_vit", "image_size": "64"}
    model = timm.create_model("test_vit", img_size=64, num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "base.safetensors", notes)
    attach_adapters(model, PadConfig(down_size=8, scale="learnable"))
    for _, parameter in adapter_parameters(model):
        torch.nn.init.normal_(parameter)
    save_file(model.state_dict(), tmp_path / "whole.safetensors", notes)
    save_adapters(model, tmp_path / "adapters", init=str(tmp_path / "base.safetensors"))
    for place in ("whole.safetensors", "adapters"):
        assert torch.equal(load_encoder(tmp_path / place).forward_features(images), model.forward_features(images))
    given = timm.create_model("test_vit", img_size=64, num_classes=0)
    assert all(module.training for module in load_encoder(tmp_path / "whole.safetensors", given).modules())


def test_method_checkpoint_in_one_file(tmp_path, images):
    method = MAE(adapted(), decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
    torch.save(method.state_dict(), tmp_path / "m.pth")
    loaded = vit().eval()
    report = load_weights(loaded, tmp_path / "m.pth")
    assert torch.equal(loaded.forward_features(images), method.encoder.forward_features(images))
    twin = MAE(loaded, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
    assert twin.load_head(report.head) == ([], [])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (load_encoder, "holds no weights"),
        (lambda path: load_encoder(path / "absent.pth"), "does not exist"),
        (lambda path: create_encoder("vit_base_patch16_224", init="timm:vit_small_patch16_224.x"), "give `model="),
        (lambda path: create_encoder("vit_bass_patch16_224", init="random"), "did you mean vit_base_patch16_224"),
        (lambda path: load_encoder("timm:test_vit.mae"), r"'mae' of test_vit; choose one of test_vit\.r160_in1k"),
        (lambda path: create_encoder("test_vit", init="timm:test_vit.mae"), "no weights 'mae' of test_vit; choose"),
        (lambda path: create_encoder("test_vit.mae", init="random"), "no weights 'mae' of test_vit; choose"),
        (lambda path: create_encoder("vit_giant_patch14_224.x", init="random"), "nor any others; leave the tag out"),
        (lambda path: load_teacher("test_vit.mae", grid=(2, 2)), "no weights 'mae' of test_vit; choose"),
    ],
)
def test_user_mistakes_are_one_sentence(tmp_path, call, words):
    with pytest.raises(MsipError, match=words) as error:
        call(tmp_path)
    assert "\n" not in str(error.value)


def test_pretrained_weights_that_cannot_be_fetched_are_one_sentence(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route\nto host")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"no route.*`init=FILE`") as error:
        create_encoder("vit_tiny_patch16_224", init="timm", image_size=64)
    assert "\n" not in str(error.value)
