"""Frozen teachers by timm's name, from folders and files: the tokens are those of the model itself.

timm's registry is pointed at a small random file in place of the hub, so that names load as they do for a user.
"""

import dataclasses

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import _registry
from training_runs import config, make_manifest, train

from msip.errors import ModelError, WeightsError
from pad.data.grey import INFRARED_MEAN, INFRARED_STD
from pad.encoders.export import export_model
from pad.methods.teacher import load_teacher

CLIP, PLAIN = "vit_xsmall_patch16_clip_224.tinyclip_yfcc15m", "test_vit.r160_in1k"


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Random weights behind a name of timm; returns the model that holds them."""

    def publish(name):
        torch.manual_seed(3)
        model = timm.create_model(name).eval()
        file = tmp_path / f"{name}.safetensors"
        save_file(model.state_dict(), file)
        published = dataclasses.replace(timm.get_pretrained_cfg(name), file=str(file), hf_hub_id=None, url="")
        monkeypatch.setitem(_registry._model_pretrained_cfgs, name, published)
        return model

    return publish


@pytest.fixture
def images():
    return torch.randn(2, 1, 224, 224, generator=torch.Generator().manual_seed(0))


def in_its_own(images, model):
    """The student's grey images in the teacher's normalisation, by its published mean and std."""
    grey = images * INFRARED_STD + INFRARED_MEAN
    mean, std = (torch.tensor(model.pretrained_cfg[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    return (grey - mean) / std


@torch.no_grad()
def test_clip_tower_gives_projected_tokens_in_its_own_normalisation(named, images):
    source = named(CLIP)
    teacher = load_teacher(f"timm:{CLIP}", grid=(14, 14))
    tokens, attention = teacher(images)
    assert teacher.width == 512 and tokens.shape == (2, 197, 512) and attention.shape == (2, 196)
    expected = source.head(source.forward_features(in_its_own(images, source)))
    assert (tokens - expected).abs().max() <= 1e-5
    assert torch.all(attention > 0) and torch.all(attention.sum(1) < 1)


@torch.no_grad()
def test_teacher_may_see_the_students_normalisation_as_the_references_does(named, images):
    source = named(CLIP)
    tokens, _ = load_teacher(CLIP, grid=(14, 14), normalisation="infrared")(images)
    expected = source.head(source.forward_features(images.expand(-1, 3, -1, -1)))
    own = source.head(source.forward_features(in_its_own(images, source)))
    assert (tokens - expected).abs().max() <= 1e-5 and (tokens - own).abs().max() > 1e-2


@torch.no_grad()
def test_another_vit_by_name_gives_its_own_tokens(named):
    source = named(PLAIN)
    teacher, images = load_teacher(PLAIN, grid=(10, 10)), torch.randn(1, 3, 160, 160)
    tokens, _ = teacher(images)
    assert teacher.width == 64 and tokens.shape == (1, 101, 64)
    mixed = (images * INFRARED_STD + INFRARED_MEAN - 0.5) / 0.5
    assert (tokens - source.forward_features(mixed)).abs().max() <= 1e-5


def test_teacher_takes_the_students_grid(named):
    named(PLAIN)
    tokens, attention = load_teacher(PLAIN, grid=(4, 6))(torch.randn(1, 1, 32, 48))
    assert tokens.shape == (1, 25, 64) and attention.shape == (1, 24)


@pytest.mark.parametrize("method", ["milan", "distil"])
def test_run_with_a_teacher_by_name_and_from_an_exported_folder(named, tmp_path, method):
    source = named(PLAIN)
    data = make_manifest(tmp_path / "data").root
    for key, teacher in (("name", f"timm:{PLAIN}"), ("folder", str(tmp_path / "teacher"))):
        if key == "folder":
            export_model(tmp_path / "name", tmp_path / "teacher", format="timm")
        options = {"method": method, "teacher": teacher, "epochs": 1}
        assert train(config(data, tmp_path / key, **options)).status == "finished"
    from safetensors.torch import load_file

    frozen = load_file(tmp_path / "name/checkpoints/frozen.safetensors")
    taught = {n: t for n, t in frozen.items() if n.startswith("teacher.model.blocks.")}
    assert taught and all(
        torch.equal(t, source.state_dict()[n.removeprefix("teacher.model.")]) for n, t in taught.items()
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet18", "ResNet has no list of transformer blocks"),
        ("vit_small_patch16_18x2_224", "a ParallelThingsBlock shows no attention"),
        ("beit_base_patch16_224", "Beit cannot be used with `teacher`"),
    ],
)
def test_a_model_that_cannot_teach_is_refused_before_its_weights_are_fetched(name, words):
    with pytest.raises(ModelError, match=words) as error:
        load_teacher(name, grid=(2, 2))
    assert "\n" not in str(error.value)


def test_a_name_that_is_none_is_refused_in_one_sentence():
    with pytest.raises(WeightsError, match=r"no file and no model of timm; give a path or e\.g\.") as error:
        load_teacher("timm:clip_b16", grid=(2, 2))
    assert "\n" not in str(error.value)
