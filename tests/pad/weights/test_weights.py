"""Weights in and out: layouts, refusals, round trips. Small random checkpoints stand for the published ones."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from msip.errors import ModelError, WeightsError
from pad import PadConfig, attach_adapters, load_adapters, load_encoder, save_adapters
from pad.encoders import create_encoder
from pad.methods import MAE

SMALL = {"depth": 2, "img_size": 64, "num_classes": 0}


def vit(**options):
    return timm.create_model("vit_tiny_patch16_224", **{**SMALL, **options})


class Hostile:
    def __reduce__(self):
        return (print, ("code ran",))


def test_adapters_round_trip_and_refuse_another_base(tmp_path):
    torch.manual_seed(0)
    model = attach_adapters(vit(), PadConfig(down_size=8)).eval()
    trunk = {name: tensor for name, tensor in model.state_dict().items() if ".adapter." not in name}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".adapter." in name:
                parameter.normal_(std=0.1)
    save_adapters(model, tmp_path / "adapter.safetensors")
    other = vit().eval()
    other.load_state_dict(trunk)
    images = torch.randn(1, 3, 64, 64)
    load_adapters(other, tmp_path / "adapter.safetensors").eval()
    assert torch.equal(other.forward_features(images), model.forward_features(images))
    with pytest.raises(WeightsError, match="other weights"):
        load_adapters(vit(), tmp_path / "adapter.safetensors")
    assert (tmp_path / "adapter.safetensors").stat().st_size < 60_000


def test_mae_file_with_decoder_loads_and_reports(tmp_path):
    method = MAE(vit(), decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2)
    tensors = {name.removeprefix("encoder."): tensor for name, tensor in method.state_dict().items()}
    torch.save({"model": tensors, "epoch": 3}, tmp_path / "full.pth")
    model = vit()
    from pad.encoders import load_weights

    report = load_weights(model, tmp_path / "full.pth")
    assert report.layout == "Facebook MAE with decoder" and not report.missing and not report.unexpected
    assert torch.equal(model.blocks[0].attn.qkv.weight, method.encoder.blocks[0].attn.qkv.weight)
    assert "decoder_pred.weight" in report.head


def test_positions_are_resampled_and_reported(tmp_path):
    save_file(vit(img_size=96).state_dict(), tmp_path / "w.safetensors")
    from pad.encoders import load_weights

    report = load_weights(vit(), tmp_path / "w.safetensors")
    assert report.reshaped == ["pos_embed: (1, 37, 192) -> (1, 17, 192)"]


def test_pad_reference_checkpoint_brings_its_adapters(golden):
    from safetensors import safe_open

    with safe_open(golden / "pad_mae_concat.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    state = {key.removeprefix("state."): value for key, value in tensors.items() if key.startswith("state.")}
    path = golden.parent / "pad.pth"
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, embed_dim=96, depth=3, num_heads=3, num_classes=0)
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pad.pth"
        torch.save({"model": state}, path)
        features = load_encoder(path, model).eval().forward_features(tensors["input.images"])
    assert (features - tensors["output.features"]).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (
            lambda path: path.write_bytes(pickle.dumps({"model": Hostile()})),
            r"could run code \(it wants builtins\.print\)",
        ),
        (lambda path: path.write_bytes(pickle.dumps(Hostile(), 2)), r"it wants __builtin__\.print"),
        (lambda path: torch.save({"model": Hostile()}, path), r"it wants builtins\.print|it wants __builtin__\.print"),
        (lambda path: torch.save(Hostile(), path, _use_new_zipfile_serialization=False), "could run code"),
        (lambda path: path.write_bytes(b"PK\x03\x04 cut"), "no readable weights"),
        (lambda path: path.write_bytes(b""), r"no readable weights file \(it is empty\)"),
        (
            lambda path: path.write_text("<!DOCTYPE html> 404"),
            r"\(neither torch's format nor safetensors\); get it again",
        ),
        (lambda path: path.write_bytes(pickle.dumps(torch.hub.load)), r"it wants torch\.hub\.load"),
        (lambda path: torch.save({"a.b": torch.zeros(2)}, path), "no known layout"),
        (lambda path: torch.save(vit(embed_dim=96).state_dict(), path), "choose the `model`"),
        (lambda path: None, "does not exist"),
    ],
)
def test_unusable_files_are_refused_in_one_sentence(tmp_path, capsys, write, words):
    write(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=words) as error:
        create_encoder("vit_tiny_patch16_224", init=str(tmp_path / "w.pth"), image_size=64)
    assert "\n" not in str(error.value) and "code ran" not in capsys.readouterr().out


def test_unknown_models_are_refused():
    with pytest.raises(ModelError, match="vit_tiny_patch16_224"):
        create_encoder("vit_tiny_patch16_242", init="random", image_size=64)
    with pytest.raises(ModelError, match="transformer blocks"):
        create_encoder("resnet18", init="random", image_size=64)
    with pytest.raises(ModelError, match="multiple"):
        create_encoder("vit_tiny_patch16_224", init="random", image_size=70)
