"""``msip export-model``: every format is read by its own reader and gives the run's features."""

import json
import shutil

import onnxruntime
import pytest
import timm
import torch
from msip_cli.main import app
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from msip.errors import ModelError, WeightsError
from pad import PadConfig, attach_adapters, load_adapters, load_encoder
from pad.adapters.attach import adapter_parameters, detach_adapters, has_adapters, trunk_state_dict
from pad.adapters.files import save_adapters
from pad.encoders.export import export_model
from pad.encoders.fit import size_text
from pad.encoders.layouts import from_pad_reference
from pad.methods import MAE

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of PAD and one that trained the trunk, both finished; scales trained from the start."""
    from training_runs import config, make_manifest, train

    folder = tmp_path_factory.mktemp("runs")
    make_manifest(folder / "data", images=16)
    torch.manual_seed(0)
    trunk = timm.create_model("test_vit", img_size=32, num_classes=0)
    torch.save({"model": trunk.state_dict()}, folder / "base.pth")
    options = {"max_steps": 4, "init": str(folder / "base.pth"), "scale_freeze": 0.0, "save_every": 2}
    train(config(folder / "data", folder / "pad", **options))
    train(config(folder / "data", folder / "full", paradigm="continual", **options))
    return folder


def msip(*arguments):
    return CliRunner().invoke(app, ["export-model", *map(str, arguments)])


@torch.no_grad()
def features(model):
    return model.eval().forward_features(IMAGES)


@torch.no_grad()
def test_adapter_alone_names_its_base_and_goes_back_on_it(runs, tmp_path):
    done = msip(runs / "pad", "--to", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert summary["largest_difference"] == 0 and set(summary["files"]) == {"adapter.safetensors", "adapter.json"}
    record = json.loads((tmp_path / "out/adapter.json").read_text())
    assert record["model"] == "test_vit" and record["init"] == str(runs / "base.pth")
    expected = features(load_encoder(runs / "pad"))
    assert torch.equal(features(load_encoder(tmp_path / "out")), expected)
    base = timm.create_model("test_vit", img_size=32, num_classes=0)
    base.load_state_dict(torch.load(runs / "base.pth")["model"])
    assert torch.equal(features(load_adapters(base, tmp_path / "out")), expected)


def test_unfinished_run_names_its_base_too(runs, tmp_path):
    last = max((runs / "pad/checkpoints").glob("step-*"))
    export_model(last, tmp_path / "out")
    assert json.loads((tmp_path / "out/adapter.json").read_text())["init"] == str(runs / "base.pth")


def test_what_is_wrong_with_a_runs_weights_is_said(runs, tmp_path):
    assert msip(runs / "pad", "--to", tmp_path / "whole").stderr == ""
    run = tmp_path / "run"
    shutil.copytree(runs / "pad", run)
    for name in ("result.json", "adapter.safetensors", "adapter.json"):  # as of a run that was stopped
        (run / name).unlink()
    assert msip(run, "--to", tmp_path / "out").stderr == f"warning: {run} is not finished (step 4 of 4).\n"
    assert msip(run / "checkpoints/step-00000002", "--to", tmp_path / "out").stderr == ""  # asked for by name
    (run / "checkpoints/step-00000004/model.safetensors").write_bytes(b"cut off")
    done = msip(run, "--to", tmp_path / "out", "--json")
    damage, unfinished = done.stderr.splitlines()
    assert "step-00000004 is corrupt" in damage and damage.endswith("step-00000002 is used instead.")
    assert unfinished == f"warning: {run} is not finished (step 2 of 4)." and json.loads(done.stdout)
    maps = CliRunner().invoke(
        app, ["scale-maps", str(run), "--images", str(runs / "data"), "--to", str(tmp_path / "m")]
    )
    assert maps.stderr == done.stderr


def test_adapters_whose_base_nobody_can_find_are_not_exported_alone(runs, tmp_path):
    from training_runs import config, train

    train(config(runs / "data", tmp_path / "random", max_steps=1))
    (tmp_path / "base.pth").write_bytes((runs / "base.pth").read_bytes())
    train(config(runs / "data", tmp_path / "moved", max_steps=1, init=str(tmp_path / "base.pth")))
    (tmp_path / "base.pth").unlink()
    for run, words in (("random", "began at random weights"), ("moved", r"base\.pth, are not there any more")):
        for place in (tmp_path / run, max((tmp_path / run / "checkpoints").glob("step-*"))):
            with pytest.raises(WeightsError, match=f"{words}.*choose `format=timm`") as error:
                export_model(place, tmp_path / "out")
            assert "\n" not in str(error.value) and not (tmp_path / "out").exists()
        export_model(tmp_path / run, tmp_path / f"{run}-timm", format="timm")
        assert torch.equal(features(load_encoder(tmp_path / f"{run}-timm")), features(load_encoder(tmp_path / run)))


def test_timm_reads_its_folder(runs, tmp_path):
    done = msip(runs / "pad", "--to", tmp_path / "out", "--format", "timm")
    assert done.exit_code == 0 and "equal bit for bit" in done.stdout
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    run = load_encoder(runs / "pad")
    assert torch.equal(features(model), features(detach_adapters(load_encoder(runs / "pad"))))
    assert torch.equal(features(load_adapters(model, tmp_path / "out")), features(run))
    assert torch.equal(features(load_encoder(tmp_path / "out")), features(run))
    data = timm.data.resolve_model_data_config(model)
    assert list(data["mean"]) == [0.3801] * 3 and list(data["std"]) == [0.1871] * 3
    assert list(data["input_size"]) == [3, 32, 32]


def test_trained_trunk_goes_to_timm_and_has_no_adapters(runs, tmp_path):
    export_model(runs / "full", tmp_path / "out", format="timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert torch.equal(features(model), features(load_encoder(runs / "full"))) and not has_adapters(model)
    with pytest.raises(ModelError, match="`format=timm` or `format=onnx`"):
        export_model(runs / "full", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_non_square_input_survives(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=(32, 64), in_chans=1, num_classes=0).eval()
    torch.save(model.state_dict(), tmp_path / "base.pth")
    save_adapters(attach_adapters(model, PadConfig(4)), tmp_path / "run", init=str(tmp_path / "base.pth"))

    save_file(
        trunk_state_dict(model),
        tmp_path / "run/encoder.safetensors",
        {"model": "test_vit", "image_size": size_text(model)},
    )
    done = export_model(tmp_path / "run", tmp_path / "out", format="timm")
    assert done.image_size == (32, 64)
    twin = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert twin.patch_embed.img_size == (32, 64) and load_encoder(tmp_path / "out").patch_embed.img_size == (32, 64)


@pytest.mark.parametrize("config", [PadConfig(8), PadConfig(8, "fixed", scale_init=0.3), PadConfig(8, "learnable")])
def test_reference_reads_its_own_key_names(golden, tmp_path, config):
    """The names are those of the reference's own checkpoint, and its reader here gives the features."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=0).eval()
    attach_adapters(model, config)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), tmp_path / "w.safetensors", {"model": "vit_tiny_patch16_224", "image_size": "64"})
    export_model(tmp_path / "w.safetensors", tmp_path / "out", format="pad")
    state = torch.load(tmp_path / "out/pad.pth", weights_only=True)["model"]
    theirs = "pad_mae_concat" if config.scale == "patchwise" else "pad_mae_fixed_scale"
    with safe_open(golden / f"{theirs}.safetensors", "pt") as file:
        names = {name.removeprefix("state.") for name in file.keys() if "decoder" not in name}  # noqa: SIM118

    def of_block_0(names):
        return {n for n in names if not n.startswith("blocks.") or n.startswith("blocks.0.")}

    encoder = {n for n in names if not n.startswith(("input.", "output.", "grad.", "mask_token"))}
    assert of_block_0(state) == of_block_0(encoder)
    parts = from_pad_reference(state)
    assert parts.encoder.keys() == model.state_dict().keys()
    assert all(torch.equal(parts.encoder[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("scale", ["patchwise", "fixed"])
def test_reference_gets_an_adapter_in_every_block(tmp_path, scale):
    """It builds them all, and would start those that a file lacks at random; what is added changes no feature."""
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    attach_adapters(model, PadConfig(8, scale, blocks=(1, 3)))
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), tmp_path / "w.safetensors", {"model": "vit_tiny_patch16_224", "image_size": "32"})
    done = export_model(tmp_path / "w.safetensors", tmp_path / "out", format="pad")
    state = torch.load(tmp_path / "out/pad.pth", weights_only=True)["model"]
    for name in [name for name in state if ".adaptmlp." in name or ".scalar_pred." in name]:
        assert all(f"blocks.{block}.{name.split('.', 2)[2]}" in state for block in range(12))
    assert sum(name.endswith(".adaptmlp.up_proj.weight") for name in state) == 12
    assert done.largest_difference == 0
    assert torch.equal(features(load_encoder(tmp_path / "out/pad.pth")), features(model))


def test_reference_takes_only_what_it_knows(tmp_path):
    model = timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, depth=2, num_classes=0)
    save_file(
        model.state_dict(), tmp_path / "w.safetensors", {"model": "vit_small_patch14_reg4_dinov2", "image_size": "56"}
    )
    with pytest.raises(ModelError, match=r"has reg_token: choose `format=timm`"):
        export_model(tmp_path / "w.safetensors", tmp_path / "out", format="pad")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_onnxruntime_gives_the_features_for_any_batch(tmp_path):
    torch.manual_seed(0)
    name = "vit_small_patch16_dinov3"  # RoPE, registers, layer scale
    model = timm.create_model(name, img_size=32, num_classes=0, depth=1).eval()
    attach_adapters(model, PadConfig(8))
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_file(model.state_dict(), tmp_path / "w.safetensors", {"model": name, "image_size": "32"})
    done = export_model(tmp_path / "w.safetensors", tmp_path / "out", format="onnx")
    assert done.largest_difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out/model.onnx"), providers=["CPUExecutionProvider"])
    for images in (IMAGES[:1], IMAGES.repeat(2, 1, 1, 1)[:3]):
        theirs = torch.from_numpy(session.run(["features"], {"images": images.numpy()})[0])
        with torch.no_grad():
            assert torch.allclose(model.forward_features(images), theirs, atol=1e-4)
    assert session.get_modelmeta().custom_metadata_map["mean"] == "0.3801"


@pytest.mark.parametrize(
    ("run", "form", "words"),
    [("nowhere", "adapter", "does not exist"), ("data", "timm", "holds no weights")],
)
def test_mistakes_write_nothing(runs, tmp_path, run, form, words):
    done = msip(runs / run, "--to", tmp_path / "out", "--format", form)
    assert words in str(done.exception) and "\n" not in str(done.exception) and not (tmp_path / "out").exists()


def test_methods_checkpoint_keeps_its_encoder(tmp_path):
    method = MAE(
        timm.create_model("test_vit", img_size=32, num_classes=0),
        decoder_embed_dim=32,
        decoder_depth=1,
        decoder_num_heads=2,
    )
    save_file(method.state_dict(), tmp_path / "w.safetensors", {"model": "test_vit", "image_size": "32"})
    export_model(tmp_path / "w.safetensors", tmp_path / "out", format="timm")
    assert torch.equal(features(load_encoder(tmp_path / "out")), features(method.encoder))
