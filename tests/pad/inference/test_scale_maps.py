"""``msip scale-maps``: the numbers are those the model computes, and bad images are named, not fatal."""

import csv

import cv2
import numpy as np
import pytest
import timm
import torch
from msip_cli.main import app
from safetensors.torch import save_file
from typer.testing import CliRunner

from pad import PadConfig, attach_adapters
from pad.inference.scale_maps import draw, scale_maps


@pytest.fixture
def weights(tmp_path):
    """A file with adapters whose predictors are random in blocks 1 and 3, zero elsewhere; and its model."""

    def make(**options):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", img_size=(32, 48), num_classes=0)
        attach_adapters(model, PadConfig(8, **options))
        with torch.no_grad():
            for block in (1, 3):
                if model.blocks[block].adapter.scale_predictor is not None:
                    model.blocks[block].adapter.scale_predictor.weight.normal_(std=0.1)
        file = tmp_path / "w.safetensors"
        save_file(model.state_dict(), file, {"model": "test_vit", "image_size": "32x48"})
        return file, model.eval()

    return make


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "night").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(3):
        cv2.imwrite(str(folder / "night" / f"{number}.png"), rng.integers(0, 255, (60, 80), dtype=np.uint8))
    cv2.imwrite(str(folder / "sixteen.png"), rng.integers(7000, 7400, (60, 80)).astype(np.uint16))
    (folder / "cut.png").write_bytes((folder / "sixteen.png").read_bytes()[:300])
    return folder


def test_table_maps_and_what_was_left_out(weights, images, tmp_path):
    file, model = weights()
    done = CliRunner().invoke(
        app, ["scale-maps", str(file), "--images", str(images), "--to", str(tmp_path / "out"), "--max-maps", "2"]
    )
    assert done.exit_code == 0, done.output
    assert "4 images, 2 drawn, 1 left out" in done.stdout and "cut.png" in done.stdout
    rows = list(csv.DictReader((tmp_path / "out/scales.csv").open()))
    assert [int(row["layer"]) for row in rows] == list(range(len(model.blocks)))
    moved = {int(row["layer"]) for row in rows if abs(float(row["mean"]) - 0.5) > 1e-6 or float(row["std"]) > 1e-6}
    assert moved == {1, 3}
    assert (tmp_path / "out/scales.md").read_text().count("\n") == 2 + len(rows)
    pictures = sorted((tmp_path / "out").glob("*.png"))
    assert len(pictures) == 2 and all(cv2.imread(str(path)).std() > 10 for path in pictures)


def test_globs_and_a_stride_choose_images(weights, images, tmp_path):
    file, _ = weights()
    command = ["scale-maps", str(file), "--images", str(images), "--to", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--exclude", "cut.png", "--exclude", "SIXTEEN*", "--every", "2"])
    assert done.exit_code == 0 and "2 images, 2 drawn, 0 left out" in done.stdout, done.output


def test_numbers_are_those_of_a_hand_count(weights, images, tmp_path):
    file, model = weights()
    one = images / "night" / "0.png"
    done = scale_maps(file, one, tmp_path / "out")
    seen = []
    block = model.blocks[1]
    block.adapter.scale_predictor.register_forward_hook(lambda m, i, output: seen.append(torch.sigmoid(output)))
    grey = cv2.resize(cv2.imread(str(one), cv2.IMREAD_GRAYSCALE), (48, 32), interpolation=cv2.INTER_AREA)
    batch = ((torch.from_numpy(grey).float() / 255 - 0.3801) / 0.1871).expand(1, 3, 32, 48)
    with torch.no_grad():
        model.forward_features(batch)
    prefix = model.num_prefix_tokens
    assert done.layers[1]["mean"] == pytest.approx(float(seen[0][0, prefix:].mean()), abs=1e-6)
    assert done.layers[1]["class_token"] == pytest.approx(float(seen[0][0, 0]), abs=1e-6)


def test_a_map_lies_over_its_place():
    """One patch far above its layer's mean, bottom right: only that corner turns red."""
    maps = np.zeros((1, 2, 2), np.float32)
    maps[0, 1, 1] = 0.4
    picture = cv2.imdecode(
        np.frombuffer(draw(np.full((100, 100), 128, np.uint8), maps, ["block 7"], 0.4), np.uint8), 1
    ).astype(int)
    left = picture[:, : picture.shape[1] * 45 // 100]  # without the colour bar
    red = left[..., 2] - left[..., 0] > 60
    rows, columns = np.nonzero(red)
    plain = np.abs(left - left.mean(-1, keepdims=True)).max(-1) < 12
    assert red.sum() > 500 and plain.sum() > red.sum()
    assert np.ptp(rows) < 140 and np.ptp(columns) < 140


@pytest.mark.parametrize(
    ("options", "folder", "words"),
    [
        ({"scale": "fixed"}, "images", "fixed scales"),
        ({}, "nowhere", "does not exist"),
        ({}, "empty", "holds no image"),
    ],
)
def test_mistakes_are_one_sentence(weights, images, tmp_path, options, folder, words):
    (tmp_path / "empty").mkdir()
    file, _ = weights(**options)
    done = CliRunner().invoke(
        app, ["scale-maps", str(file), "--images", str(tmp_path / folder), "--to", str(tmp_path / "out")]
    )
    assert words in str(done.exception) and "\n" not in str(done.exception) and not (tmp_path / "out").exists()
