"""MAE apart from the reference's numbers (test_golden.py): masks, any encoder, panels, initialisation."""

import math
import pickle

import numpy as np
import pytest
import timm
import torch

from msip.errors import ModelError, WeightsError
from pad.adapters.attach import attach_adapters
from pad.adapters.bottleneck import PadConfig
from pad.encoders.tokens import embed, run_blocks
from pad.methods import MAE
from pad.methods.patches import sincos_pos_embed

DECODER = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
MODELS = [
    ("vit_tiny_patch16_224", 64),
    ("vit_small_patch14_reg4_dinov2", 56),
    ("deit_tiny_distilled_patch16_224", 64),
    ("eva02_tiny_patch14_224", 56),
    ("vit_small_patch16_dinov3", 64),
    ("vit_small_patch16_rope_mixed_224", 64),
    ("vit_base_patch16_siglip_224", 64),
    ("vit_xsmall_patch16_clip_224", 64),
]


def vit(**options):
    return timm.create_model("vit_tiny_patch16_224", **{"img_size": 64, "depth": 2, "num_classes": 0, **options})


@pytest.mark.parametrize(("name", "size"), MODELS)
@torch.no_grad()
def test_tokens_are_the_models_own_and_positions_travel_with_them(name, size):
    encoder = timm.create_model(name, img_size=size, depth=2, num_classes=0).eval()
    images = torch.randn(2, 3, size, size)
    tokens, prefix = embed(encoder, images), encoder.num_prefix_tokens
    whole = run_blocks(encoder, tokens)
    assert torch.equal(whole, encoder.forward_features(images))
    shuffled = torch.stack([torch.randperm(16, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)])
    mixed = run_blocks(encoder, tokens.take(shuffled))
    back = torch.stack([row[prefix:][order.argsort()] for row, order in zip(mixed, shuffled, strict=True)])
    assert torch.allclose(back, whole[:, prefix:], atol=1e-4)
    assert torch.allclose(mixed[:, :prefix], whole[:, :prefix], atol=1e-4)


def test_smallest_noise_stays_visible_and_the_rest_is_not_seen():
    method = MAE(vit(), mask_ratio=0.75, **DECODER).eval()
    noise = torch.rand(2, 16)
    images = torch.randn(2, 3, 64, 64)
    output = method(images, noise=noise)
    kept = noise.argsort(dim=1)[:, :4]
    expected = torch.ones(2, 16)
    for row in range(2):
        expected[row, kept[row]] = 0
    assert torch.equal(output.mask, expected)
    hidden = output.mask.unsqueeze(-1)
    blinded = method.unpatchify(method.patchify(images) * (1 - hidden) + 7 * hidden)
    assert torch.equal(method(blinded, noise=noise).prediction, output.prediction)


def test_loss_is_the_error_on_hidden_normalised_patches():
    method = MAE(vit(), **DECODER).eval()
    images = torch.randn(2, 3, 64, 64)
    output = method(images, noise=torch.rand(2, 16))
    errors = []
    for image, prediction, mask in zip(images, output.prediction, output.mask, strict=True):
        for index in torch.nonzero(mask).flatten().tolist():
            top, left = 16 * (index // 4), 16 * (index % 4)
            patch = image[:, top : top + 16, left : left + 16].permute(1, 2, 0).flatten()
            errors.append(((patch - patch.mean()) / (patch.var() + 1e-6).sqrt() - prediction[index]).square().mean())
    assert output.loss.item() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_panel_shows_a_perfect_prediction_as_the_image(norm_pix_loss):
    method = MAE(vit(), norm_pix_loss=norm_pix_loss, **DECODER)
    images = torch.randn(2, 3, 64, 64)
    output = method(images)
    output.prediction = method.target(images)
    shown, masked, reconstruction = method.panel(images, output)
    assert torch.equal(shown, images) and torch.allclose(reconstruction, images, atol=1e-5)
    hidden = method.unpatchify(output.mask.unsqueeze(-1).expand_as(output.prediction)).bool()
    assert (masked[hidden] == 0).all() and torch.equal(masked[~hidden], images[~hidden])


def test_sampler_is_small_and_repeatable():
    sampler = pickle.loads(pickle.dumps(MAE(vit(), **DECODER).sampler()))
    assert len(pickle.dumps(sampler)) < 200
    first, again = (sampler(np.random.default_rng(3))["noise"] for _ in range(2))
    assert first.dtype == np.float32 and first.shape == (16,) and np.array_equal(first, again)


def test_position_table_has_x_first_and_zeros_for_the_prefix():
    table = sincos_pos_embed(8, (2, 3), prefix=2)
    assert table.shape == (1, 8, 8) and not table[0, :2].any()
    x, y = 2, 1
    angles = [(f, value * omega) for value in (x, y) for f in (math.sin, math.cos) for omega in (1.0, 0.01)]
    assert torch.allclose(table[0, 2 + y * 3 + x], torch.tensor([f(angle) for f, angle in angles]))


def test_start_from_scratch_is_maes_and_spares_the_adapters():
    encoder = attach_adapters(vit(), PadConfig(down_size=8))
    down = encoder.blocks[0].adapter.down.weight.clone()
    method = MAE(encoder, **DECODER)
    method.initialise_encoder()
    assert torch.equal(encoder.pos_embed, sincos_pos_embed(192, (4, 4), prefix=1))
    bound = math.sqrt(6 / (192 + 768))
    assert encoder.blocks[0].mlp.fc1.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert torch.equal(encoder.blocks[0].adapter.down.weight, down) and not encoder.blocks[0].adapter.up.weight.any()


def test_head_is_warm_started_where_it_fits():
    source, method = MAE(vit(), **DECODER), MAE(vit(), **DECODER)
    head = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("encoder.")}
    assert method.load_head(head) == ([], [])
    assert torch.equal(method.decoder_pred.weight, source.decoder_pred.weight)
    larger = MAE(vit(img_size=96), **DECODER)
    own = larger.decoder_pos_embed.clone()
    assert larger.load_head({**head, "odd": torch.zeros(1)}) == (["decoder_pos_embed"], ["decoder_pos_embed", "odd"])
    assert torch.equal(larger.decoder_pos_embed, own)


def test_half_precision_and_checkpointing():
    torch.manual_seed(0)
    method = MAE(attach_adapters(vit(), PadConfig(dropout=0.0)), **DECODER)
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    plain = method(images, noise=noise).loss
    method.encoder.set_grad_checkpointing()
    assert method(images, noise=noise).loss.item() == plain.item()
    with torch.autocast("cpu", torch.bfloat16):
        half = method(images, noise=noise)
    half.loss.backward()
    assert half.loss.dtype == torch.float32 and half.loss.item() == pytest.approx(plain.item(), rel=0.02)


@pytest.mark.slow
def test_compiled_equals_eager():
    method = MAE(attach_adapters(vit()), **DECODER).eval()
    images, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 16)
    compiled = torch.compile(method, fullgraph=True, backend="aot_eager")(images, noise=noise)
    assert compiled.loss.item() == pytest.approx(method(images, noise=noise).loss.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: MAE(vit(), mask_ratio=0.99, **DECODER), "0 of 16 patches visible"),
        (lambda: MAE(vit(), decoder_embed_dim=30, decoder_num_heads=4), "divisible"),
        (lambda: MAE(timm.create_model("beitv2_base_patch16_224", depth=1, img_size=64)), "Beit cannot .* with MAE"),
        (lambda: MAE(vit(), **DECODER)(torch.zeros(1, 3, 64, 96)), "64 x 96 px"),
    ],
)
def test_what_makes_no_sense_is_refused(make, words):
    with pytest.raises(ModelError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


def test_reference_weights_that_contradict_their_metadata_are_refused(golden):
    from safetensors import safe_open

    with safe_open(golden / "pad_mae_concat.safetensors", "pt") as file:
        metadata = file.metadata()
        state = {key[6:]: file.get_tensor(key) for key in file.keys() if key.startswith("state.")}  # noqa: SIM118
    with pytest.raises(WeightsError, match="metadata"):
        MAE.from_reference(state, {**metadata, "embed_dim": "192"})
    with pytest.raises(WeightsError, match="num_heads"):
        MAE.from_reference(state, {name: value for name, value in metadata.items() if name != "num_heads"})
    state.pop("blocks.1.norm1.weight")
    with pytest.raises(WeightsError, match=r"blocks\.1\.norm1"):
        MAE.from_reference(state, metadata)
