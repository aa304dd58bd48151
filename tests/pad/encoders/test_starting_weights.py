"""Runs that begin with weights from elsewhere: what they train, what they record, and whether they can be continued."""

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from training_runs import config, fingerprint, heard, make_manifest, stopped_after, train

from msip.errors import RunError
from pad import PadConfig, load_encoder
from pad.adapters.attach import config_of, count_adapter_parameters
from pad.config.pretraining import PretrainConfig
from pad.encoders.export import export_model
from pad.training.pretrain import pretrain


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data"), images=16).root


@pytest.fixture(scope="module")
def narrow(data, tmp_path_factory):
    """A finished run with narrow adapters on one block only."""
    run = tmp_path_factory.mktemp("runs") / "narrow"
    train(config(data, run, max_steps=1, down_size=8, fusion="side", blocks=(1,)))
    return run


def test_adapters_that_the_weights_bring_are_trained_recorded_and_continued(data, narrow, tmp_path):
    options = {"init": str(narrow), "max_steps": 4}
    train(config(data, tmp_path / "whole", **options))
    with stopped_after(2):
        assert train(config(data, tmp_path / "cut", **options)).status == "stopped"
    recorded = yaml.safe_load((tmp_path / "cut/run.yaml").read_text())["config"]
    assert (recorded["down_size"], recorded["fusion"], recorded["blocks"]) == (8, "side", [1])
    unfinished = load_encoder(tmp_path / "cut")
    assert config_of(unfinished) == PadConfig(8, fusion="side", blocks=(1,))
    assert count_adapter_parameters(unfinished) == count_adapter_parameters(load_encoder(narrow))
    again = pretrain(PretrainConfig(data=data, out=tmp_path / "cut", resume="auto"))
    assert again.status == "finished" and fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")


def test_weights_of_an_unfinished_run_are_named_as_such(data, narrow, tmp_path):
    with stopped_after(1):
        train(config(data, tmp_path / "cut", max_steps=3))
    for options in ({"init": str(tmp_path / "cut")}, {"method": "distil", "teacher": str(tmp_path / "cut")}):
        options |= {"out": tmp_path / f"from-{next(iter(options))}", "max_steps": 2}
        with heard() as said:
            with stopped_after(1):
                pretrain(config(data, **options))
            pretrain(config(data, **options, resume="auto"))  # what it began with is behind it
        assert [line for line in said if "warning" in line] == [
            f"warning: {tmp_path / 'cut'} is not finished (step 1 of 3)."
        ]
    with heard() as said:
        pretrain(config(data, tmp_path / "whole", init=str(narrow), max_steps=1))
    assert not any("warning" in line for line in said)


def test_options_that_agree_with_the_adapters_in_the_weights_are_taken(data, narrow, tmp_path):
    agreeing = {"down_size": 8, "scale": "patchwise", "fusion": "side", "blocks": (1,)}
    with heard() as said:
        result = pretrain(config(data, tmp_path / "run", init=str(narrow), max_steps=1, **agreeing))
    assert result.status == "finished" and any("brings adapters (--down-size 8, " in line for line in said)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"down_size": 16}, "--down-size is 16, but .* brings adapters with 8"),
        ({"scale": "fixed"}, "--scale is fixed, but .* brings adapters with patchwise"),
        ({"fusion": "concat"}, "--fusion is concat, but .* brings adapters with side"),
        ({"blocks": (0, 1)}, r"--blocks is \(0, 1\), but .* brings adapters with \(1,\)"),
    ],
)
def test_options_cannot_reshape_adapters_that_the_weights_bring(data, narrow, tmp_path, options, words):
    with pytest.raises(RunError, match=words) as error:
        train(config(data, tmp_path / "run", init=str(narrow), max_steps=1, **options))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_preset_of_another_method_is_continued(data, tmp_path):
    """What the preset has for its own method, here a teacher, is nobody's option."""
    with stopped_after(1):
        options = {"preset": "pad-milan", "method": "mae", "max_steps": 2, "effective_batch": 8}
        assert train(config(data, tmp_path / "run", **options)).status == "stopped"
    assert train(PretrainConfig(data=data, out=tmp_path / "run", resume="auto")).status == "finished"


def test_options_that_the_method_has_not_are_refused_beside_a_preset_too(data, tmp_path):
    options = {"preset": "pad-milan", "method": "mae", "max_steps": 1, "effective_batch": 8, "teacher": "test_vit"}
    with pytest.raises(RunError, match="`method=mae` has no `teacher`"):
        train(config(data, tmp_path / "run", **options))


def test_weights_by_relative_paths_are_found_from_another_folder(data, tmp_path, monkeypatch):
    """A teacher for the run that goes on, initial weights for what is exported of an unfinished one."""
    files = tmp_path / "files"
    files.mkdir()
    tensors = timm.create_model("test_vit", img_size=32, num_classes=0).state_dict()
    save_file(tensors, files / "w.safetensors", {"model": "test_vit", "image_size": "32"})
    options = {"method": "distil", "teacher": "w.safetensors", "init": "w.safetensors", "max_steps": 2}
    monkeypatch.chdir(files)
    with stopped_after(1):
        train(config(data, tmp_path / "run", **options))
    monkeypatch.chdir(tmp_path)
    export_model(tmp_path / "run", tmp_path / "export")
    images = torch.randn(1, 3, 32, 32)
    exported, unfinished = load_encoder(tmp_path / "export").eval(), load_encoder(tmp_path / "run").eval()
    assert torch.equal(exported.forward_features(images), unfinished.forward_features(images))
    again = {"out": tmp_path / "run", "resume": "auto"}
    assert train(PretrainConfig(data=data, init="w.safetensors", **again)).status == "finished"  # as typed before
    assert train(PretrainConfig(data=data, **again)).status == "already finished"
    with pytest.raises(RunError, match="--teacher other differs from the"):
        train(PretrainConfig(data=data, teacher="other", **again))


def test_the_papers_milan_asks_for_its_weights(data, tmp_path):
    """timm has none, and others would make a hybrid without a word."""
    small = {"model": "test_vit", "image_size": 32, "device": "cpu"}
    with pytest.raises(RunError, match=r"give `init`, a file, .* milan_vit-base-p16_.*\.pth") as error:
        train(PretrainConfig(data=data, out=tmp_path / "run", preset="pad-milan", max_steps=1, **small))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_other_weights_of_the_same_file_name_are_no_way_to_continue(data, tmp_path):
    for seed, folder in enumerate(("mine", "other")):
        torch.manual_seed(seed)
        (tmp_path / folder).mkdir()
        save_file(
            timm.create_model("test_vit", img_size=32, num_classes=0).state_dict(), tmp_path / folder / "w.safetensors"
        )
    with stopped_after(1):
        train(config(data, tmp_path / "run", init=str(tmp_path / "mine/w.safetensors"), max_steps=2))
    with pytest.raises(RunError, match=r"--init .*other/w\.safetensors differs from the"):
        train(
            PretrainConfig(data=data, out=tmp_path / "run", resume="auto", init=str(tmp_path / "other/w.safetensors"))
        )
