"""``pad.inference.features``: the mean patch token of every image, by a model whose tokens are known."""

import cv2
import numpy as np
import pytest
import timm
import torch
from torch import nn

from msip import Manifest, build
from msip.resize import resize
from pad.data.grey import INFRARED_MEAN, INFRARED_STD
from pad.inference import features
from pad.inference.features import image_features

SIDE, PATCH, WIDTH = 32, 8, 16


@pytest.fixture
def averaging(monkeypatch):
    """A ViT whose patch tokens are (k + 1) times the mean of the patch; its class token is a thousand."""
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=SIDE, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=2, num_classes=0
    )
    scale = torch.arange(1.0, WIDTH + 1)
    with torch.no_grad():
        model.patch_embed.proj.weight.copy_(scale[:, None, None, None].expand(-1, 3, PATCH, PATCH) / (3 * PATCH**2))
        model.patch_embed.proj.bias.zero_()
        model.pos_embed.zero_()
        model.cls_token.fill_(1000)
        for block in model.blocks:  # nothing is added to the tokens
            for last in (block.attn.proj, block.mlp.fc2):
                last.weight.zero_()
                last.bias.zero_()
    model.norm = nn.Identity()
    monkeypatch.setattr(features, "load_encoder", lambda weights: {"run": model}[weights])
    return scale.numpy()


@pytest.fixture
def manifest(tmp_path):
    """Five frames: four of the model's size, one wide; all of other brightness."""
    (tmp_path / "frames").mkdir()
    for index in range(5):
        pixels = np.random.default_rng(index).integers(20 * index, 20 * index + 100, (SIDE, SIDE * (1 + index // 4)))
        cv2.imwrite(str(tmp_path / f"frames/{index}.png"), pixels.astype(np.uint8))
    build(None, tmp_path / "out", folder=tmp_path / "frames", with_rois=False)
    return Manifest.read(tmp_path / "out", ["image_id", "path"])


def expected(manifest, row, scale):
    pixels = cv2.imread(str(manifest.path(row)), cv2.IMREAD_GRAYSCALE)
    if pixels.shape != (SIDE, SIDE):
        pixels = resize(pixels, (SIDE, SIDE))  # the whole image, squashed
    return scale * (pixels.mean() / 255 - INFRARED_MEAN) / INFRARED_STD


def test_mean_patch_token_in_the_manifests_order(averaging, manifest, monkeypatch):
    monkeypatch.setattr(features, "_BATCH", 2)
    seen = []
    found = image_features("run", manifest, progress=lambda *told: seen.append(told))
    assert found.shape == (5, WIDTH) and found.dtype == np.float32
    for row in range(5):
        assert np.allclose(found[row], expected(manifest, row, averaging), rtol=1e-4)
    assert found[0, 0] < found[1, 0] < found[4, 0]  # brightness, so no image stands in another's place
    assert seen == [("features", done, 5) for done in (0, 2, 2, 1)]


def test_some_of_the_images(averaging, manifest):
    """``--max-samples``: the same numbers as for all, of the chosen ones."""
    assert np.allclose(image_features("run", manifest.limited(3)), image_features("run", manifest)[[0, 2, 4]])


def test_images_that_cannot_be_read_are_zero(averaging, manifest):
    whole = image_features("run", manifest)
    manifest.path(1).write_bytes(manifest.path(1).read_bytes()[:40])
    manifest.path(3).unlink()
    found = image_features("run", manifest)
    assert not found[[1, 3]].any() and np.array_equal(found[[0, 2, 4]], whole[[0, 2, 4]])
