"""Every layout that ViT weights come in. Small random checkpoints stand for the published ones, key for key."""

import argparse
import json
import re

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from training_runs import heard

from msip.errors import WeightsError
from pad import load_encoder
from pad.encoders import create_encoder, load_weights
from pad.methods import MAE
from pad.training.building import build_method
from pad.training.pretrain import pretrain

DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def vit(name="vit_tiny_patch16_224", **options):
    return timm.create_model(name, **{"img_size": 64, "depth": 2, "num_classes": 0, **options}).eval()


def mae(**options):
    torch.manual_seed(0)
    return MAE(vit(**options), **DECODER).eval()


def flat(method):
    """A method's tensors as Facebook's MAE names them."""
    return {name.removeprefix("encoder."): tensor for name, tensor in method.state_dict().items()}


def open_mmlab(method):
    """As MMSelfSup and MMPretrain name them, by the pairs that the reference's converter names."""
    pairs = [(r"^norm\.", "backbone.ln1."), (r"^decoder_norm\.", "neck.ln1.")]
    pairs += [(r"^(cls_token|pos_embed|patch_embed|blocks)", r"backbone.\1"), (r"^(decoder_|mask_token)", r"neck.\1")]
    pairs += [(r"^backbone\.blocks", "backbone.layers"), (r"\.mlp\.fc1\.", ".ffn.layers.0.0.")]
    pairs += [
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
        (r"\.norm(\d)\.", r".ln\1."),
        (r"patch_embed\.proj", "patch_embed.projection"),
    ]
    return {renamed(name, pairs): tensor for name, tensor in flat(method).items()}


def renamed(name, pairs):
    for pattern, replacement in pairs:
        name = re.sub(pattern, replacement, name)
    return name


def hugging_face(method):
    """As transformers before 5 named its ViTMAE."""
    pairs = [(r"^norm\.", "vit.layernorm."), (r"^(cls_token)", r"vit.embeddings.\1"), (r"^blocks", "vit.encoder.layer")]
    pairs += [(r"^pos_embed", "vit.embeddings.position_embeddings"), (r"^decoder_blocks", "decoder.decoder_layers")]
    pairs += [
        (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
        (r"^mask_token", "decoder.mask_token"),
    ]
    pairs += [(r"^decoder_(norm|embed|pred|pos_embed)", r"decoder.decoder_\1"), (r"\.norm1\.", ".layernorm_before.")]
    pairs += [(r"\.norm2\.", ".layernorm_after."), (r"\.attn\.proj\.", ".attention.output.dense.")]
    pairs += [(r"\.mlp\.fc1\.", ".intermediate.dense."), (r"\.mlp\.fc2\.", ".output.dense.")]
    state = {}
    for name, tensor in flat(method).items():
        if ".qkv." in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[renamed(name.replace("attn.qkv", f"attention.attention.{part}"), pairs)] = third.contiguous()
        else:
            state[renamed(name, pairs)] = tensor
    return state


@pytest.mark.parametrize(
    ("layout", "content"),
    [
        ("Facebook MAE with decoder", lambda method: {"model": flat(method)}),
        ("MMSelfSup or MMPretrain", lambda method: {"meta": {"epoch": 1600}, "state_dict": open_mmlab(method)}),
        ("Hugging Face", hugging_face),
    ],
)
def test_mae_with_its_decoder(tmp_path, layout, content):
    method = mae()
    torch.save(content(method), tmp_path / "w.pth")
    encoder, report = create_encoder("vit_tiny_patch16_224", init=tmp_path / "w.pth", image_size=64, depth=2)
    assert (report.layout, report.missing, report.unexpected, report.reshaped) == (layout, [], [], [])
    twin = MAE(encoder, **DECODER).eval()
    assert twin.load_head(report.head) == ([], [])
    noise = torch.rand(2, 16)
    assert torch.equal(twin(IMAGES, noise=noise).prediction, method(IMAGES, noise=noise).prediction)


def test_milan_of_mmselfsup_keeps_prompting_decoder_and_names_its_teacher(tmp_path):
    state = open_mmlab(mae())
    block = "neck.decoder_blocks.0.attn."
    for end in ("weight", "bias"):  # q and kv apart: the prompting decoder
        joined = state.pop(f"{block}qkv.{end}")
        state |= {f"{block}q.{end}": joined[:32], f"{block}kv.{end}": joined[32:]}
    state["target_generator.tokenizer.visual.class_embedding"] = torch.zeros(8)
    torch.save({"state_dict": state}, tmp_path / "milan.pth")
    report = load_weights(vit(), tmp_path / "milan.pth")
    assert report.layout == "MMSelfSup or MMPretrain" and not report.missing
    assert report.unexpected == ["target_generator.tokenizer.visual.class_embedding"]
    assert {n for n in report.head if ".attn." in n and "proj" not in n} == {
        f"decoder_blocks.0.attn.{part}.{end}" for part in ("q", "kv") for end in ("weight", "bias")
    }


def test_backbone_alone_of_open_mmlab(tmp_path):
    method = mae()
    state = {n.removeprefix("backbone."): t for n, t in open_mmlab(method).items() if n.startswith("backbone.")}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    loaded = vit()
    report = load_weights(loaded, tmp_path / "w.pth")
    assert report.missing == report.unexpected == []
    assert torch.equal(loaded.forward_features(IMAGES), method.encoder.forward_features(IMAGES))


def dino(backbone, **head):
    """A full checkpoint of DINO or iBOT: both networks, DDP's prefix on the student, options beside them."""
    other = vit()
    student = {f"module.backbone.{n}": t for n, t in other.state_dict().items()}
    student |= {"module.head.mlp.0.weight": torch.ones(4, 192), "module.backbone.masked_embed": torch.zeros(1, 192)}
    teacher = {f"backbone.{n}": t for n, t in backbone.state_dict().items()} | {
        "head.mlp.0.weight": torch.zeros(4, 192)
    }
    teacher |= {f"head.last_layer.weight_{part}": torch.zeros(2, 4) for part in "gv"}
    loss = {"center": torch.zeros(1, 4)}
    return {"student": student, "teacher": teacher, "epoch": 3, "args": argparse.Namespace(lr=1.0), "ibot_loss": loss}


def test_dino_and_ibot_full_checkpoints_give_the_teacher_and_both_heads(tmp_path):
    source = vit()
    torch.save(dino(source), tmp_path / "checkpoint.pth")
    loaded = vit()
    report = load_weights(loaded, tmp_path / "checkpoint.pth")
    assert report.layout == "DINO or iBOT with heads" and report.missing == report.unexpected == []
    assert torch.equal(loaded.forward_features(IMAGES), source.forward_features(IMAGES))
    assert {"teacher.head.mlp.0.weight", "student.head.mlp.0.weight", "student.backbone.masked_embed"} <= set(
        report.head
    )
    assert not any("blocks" in name for name in report.head)


def test_dinov2_with_registers_as_facebook_names_it(tmp_path):
    """Positions include the class token's, which timm adds to the token itself; blocks may come in chunks."""
    name = "vit_small_patch14_reg4_dinov2"
    source = vit(name, img_size=56)
    with torch.no_grad():
        source.cls_token.normal_(), source.reg_token.normal_()
    state = source.state_dict()
    own = torch.randn(1, 1, 384)
    theirs = {re.sub(r"^blocks\.(\d)", r"blocks.0.\1", n): t for n, t in state.items() if n != "reg_token"}
    theirs |= {"register_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384)}
    theirs |= {"cls_token": state["cls_token"] - own, "pos_embed": torch.cat((own, state["pos_embed"]), 1)}
    torch.save(theirs, tmp_path / "w.pth")
    loaded = vit(name, img_size=56)
    report = load_weights(loaded, tmp_path / "w.pth")
    assert report.layout == "timm" and report.unexpected == ["mask_token"] and not report.missing
    assert report.reshaped == ["cls_token: its position embedding added"]
    images = torch.randn(1, 3, 56, 56)
    assert torch.allclose(loaded.forward_features(images), source.forward_features(images), atol=1e-4)


def test_backbone_of_a_segmentor(tmp_path):
    source = vit()
    state = {f"backbone.{n}": t for n, t in source.state_dict().items()} | {"decode_head.conv.weight": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    loaded = vit()
    assert load_weights(loaded, tmp_path / "w.pth").unexpected == ["decode_head.conv.weight"]
    assert torch.equal(loaded.forward_features(IMAGES), source.forward_features(IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["ViTForImageClassification", "ViTModel", "ViTMAEModel", "Dinov2Model", "Dinov2WithRegistersModel"]
)
def test_models_that_transformers_saves_answer_alike(tmp_path, kind):
    """Their own library writes the files, and its outputs are the expected ones."""
    import transformers

    shape = {"hidden_size": 192, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 64, "patch_size": 16}
    shape["layer_norm_eps"] = 1e-6  # timm's; theirs is 1e-12 for ViT and ViTMAE
    if "Dinov2" not in kind:
        shape["intermediate_size"] = 768
    if "MAE" in kind:
        shape["mask_ratio"] = 0.0
    model_class = getattr(transformers, kind)
    torch.manual_seed(0)
    theirs = model_class(model_class.config_class(**shape)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # nothing is zero or one, so that nothing can be swapped unseen
            parameter.add_(0.05 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    options = {"init_values": 1.0} if "Dinov2" in kind else {}
    options |= {"reg_tokens": 4, "no_embed_class": True} if "Registers" in kind else {}
    loaded = vit(**options)
    report = load_weights(loaded, tmp_path)
    assert report.layout == "Hugging Face" and not report.missing
    body = theirs.vit if hasattr(theirs, "vit") else theirs
    inputs = {"noise": torch.arange(16.0).repeat(2, 1)} if "MAE" in kind else {}
    with torch.no_grad():
        expected, found = body(IMAGES, **inputs).last_hidden_state, loaded.forward_features(IMAGES)
    assert (found - expected).abs().max() < 2e-5


def run_options(tmp_path, **options):
    from training_runs import config

    small = {"model": "vit_tiny_patch16_224", "image_size": 64, **DECODER}
    return config(tmp_path / "data", tmp_path / "run", **{**small, **options})


@pytest.mark.parametrize(
    ("name", "content", "learnt"),
    [
        ("mae_visualize_vit_base.pth", lambda state: {"model": state}, False),
        ("mae_pretrain_vit_base_full.pth", lambda state: {"model": state}, True),
        ("w.pth", lambda state: {"model": state, "args": argparse.Namespace(norm_pix_loss=False)}, False),
        ("w.pth", lambda state: {"model": state}, None),
    ],
)
def test_decoder_of_other_pixels_is_warned_of(tmp_path, name, content, learnt):
    torch.save(content(flat(mae(depth=12))), tmp_path / name)
    for norm_pix_loss in (True, False):
        with heard() as said:
            build_method(run_options(tmp_path, init=str(tmp_path / name), norm_pix_loss=norm_pix_loss))
        warnings = [line for line in said if "learnt to paint" in line]
        assert len(warnings) == (learnt is not None and learnt != norm_pix_loss)
        if warnings:
            assert f"`norm_pix_loss={learnt}`" in warnings[0]


def test_config_beside_hugging_face_weights_says_what_its_decoder_learnt(tmp_path):
    save_file(hugging_face(mae()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"norm_pix_loss": False, "image_size": 64}))
    assert load_weights(vit(), tmp_path).norm_pix_loss is False


def test_run_lists_every_tensor_that_found_no_place(tmp_path):
    from training_runs import make_manifest

    make_manifest(tmp_path / "data", images=8)
    state = flat(mae(depth=12, img_size=96))
    state |= {f"odd.{number}": torch.zeros(1) for number in range(12)} | {"head.weight": torch.zeros(2, 192)}
    del state["decoder_norm.bias"]
    torch.save({"model": state}, tmp_path / "w.pth")
    with heard() as said:
        pretrain(run_options(tmp_path, init=str(tmp_path / "w.pth"), max_steps=1))
    weights = yaml.safe_load((tmp_path / "run/run.yaml").read_text())["weights"]
    assert weights["missing"] == ["decoder_norm.bias"] and len(weights["unexpected"]) == 13
    assert weights["layout"] == "Facebook MAE with decoder" and weights["source"] == str(tmp_path / "w.pth")
    assert weights["reshaped"] == [
        "pos_embed: (1, 37, 192) -> (1, 17, 192)",
        "decoder_pos_embed: made anew, (1, 17, 32)",
    ]
    text = "\n".join(said)
    assert "1 missing tensors: decoder_norm.bias." in text and "13 unexpected tensors: odd.0, odd.1, odd.2 ..." in text
    assert not any(line.startswith("warning") for line in said)
    assert json.loads((tmp_path / "run/adapter.json").read_text())["init"] == str(tmp_path / "w.pth")
    assert load_encoder(tmp_path / "run/adapter.safetensors").patch_embed.img_size == (64, 64)


def test_encoder_without_decoder_is_warned_of_where_its_embedding_stays_frozen(tmp_path):
    torch.save({"model": vit(depth=12).state_dict()}, tmp_path / "w.pth")
    teacher = tmp_path / "teacher.safetensors"
    save_file(vit("test_vit", depth=6).state_dict(), teacher, {"model": "test_vit", "image_size": "64"})
    milan = {"method": "milan", "teacher": str(teacher)}
    for options, advice in (
        ({"paradigm": "pad"}, "full MAE file with its decoder, e.g. mae_pretrain_vit_base_full.pth"),
        ({"paradigm": "pad", **milan}, "full MILAN file with its decoder, e.g. milan_vit-base-p16_16xb256-amp"),
        ({"paradigm": "continual"}, None),
    ):
        with heard() as said:
            build_method(run_options(tmp_path, init=str(tmp_path / "w.pth"), **options))
        warnings = [line for line in said if "decoder_embed" in line and line.startswith("warning")]
        assert len(warnings) == (advice is not None) and all(advice in line for line in warnings)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: {n: t for n, t in state.items() if "attention.key" not in n}, "lacks 4 tensors"),
        (lambda state: {n: t[..., :96] if t.ndim > 1 else t for n, t in state.items()}, "choose the `model`"),
        (lambda state: {"bert.embeddings.word_embeddings.weight": torch.zeros(3)}, "no known layout"),
    ],
)
def test_spoilt_layouts_are_refused_in_one_sentence(tmp_path, spoil, words):
    torch.save(spoil(hugging_face(mae())), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=words) as error:
        load_weights(vit(), tmp_path / "w.pth")
    assert "\n" not in str(error.value)
