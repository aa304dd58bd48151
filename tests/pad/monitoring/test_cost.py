"""FLOPs, utilisation and the time a run will take, against formulas written out by hand."""

import math

import pytest
import torch
from method_contract import backbone
from training_runs import config, heard, make_manifest

from msip.formatting import human_duration
from pad.config.pretraining import read_run
from pad.methods import MAE, SimMIM
from pad.monitoring.cost import TERA, Estimate, Speed, count_flops, peak_tflops
from pad.monitoring.monitor import read_metrics
from pad.training.paradigms import apply_paradigm
from pad.training.pretrain import pretrain

WIDTH, DOWN, PATCHES, PIXELS = 32, 8, 16, 8 * 8 * 3  # of the contract's plain ViT: 32 px, patches of 8


def linear(tokens, inside, outside):
    return 2 * tokens * inside * outside


def attention(tokens, width):
    """Its projections, and the two products of queries, keys and values."""
    return linear(tokens, width, 4 * width), 2 * linear(tokens, width, tokens)


def block(tokens, width):
    """(weights' products, attention's products) of one pass."""
    projections, products = attention(tokens, width)
    return projections + linear(tokens, width, 8 * width), products


def adapter(tokens):
    return linear(tokens, WIDTH, 2 * DOWN) + linear(tokens, 2 * WIDTH, 1)


def method(kind, paradigm, **options):
    made = kind(backbone("vit", adapters=paradigm == "pad"), **options)
    apply_paradigm(made, paradigm)
    return made


def counted(made):
    return count_flops(made, {"images": torch.randn(3, 3, 32, 32)})


def test_flops_of_a_whole_model_follow_from_its_shapes():
    """Backward costs twice forward: each product gives a gradient to either side, but to no image."""
    tokens = PATCHES + 1
    embed, head = linear(PATCHES, PIXELS, WIDTH), linear(PATCHES, WIDTH, PIXELS)
    expected = 2 * embed + 3 * (2 * sum(block(tokens, WIDTH)) + head)
    assert counted(method(SimMIM, "continual")) == expected


def test_hidden_patches_and_a_frozen_trunk_cost_less():
    """PAD-MAE: 4 of 16 patches are encoded; the trunk's weights get no gradient, nothing passes the first block's."""
    seen, everything, width = 4 + 1, PATCHES + 1, 16
    made = method(MAE, "pad", decoder_embed_dim=width, decoder_depth=1, decoder_num_heads=2)
    products, scores = block(seen, WIDTH)
    forward = linear(PATCHES, PIXELS, WIDTH) + 2 * (products + scores + adapter(seen))
    first, second = 2 * adapter(seen), products + 2 * scores + 2 * adapter(seen)
    embedded, own = linear(seen, WIDTH, width), sum(block(everything, width)) + linear(everything, width, PIXELS)
    decoder = embedded + own + embedded + 2 * own  # decoder_embed is frozen: a gradient passes through it
    assert counted(made) == forward + first + second + decoder
    whole = method(MAE, "continual", decoder_embed_dim=width, decoder_depth=1, decoder_num_heads=2)
    assert counted(made) < 0.75 * counted(whole)


def test_counting_leaves_nothing_behind():
    made = method(SimMIM, "pad").train()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert counted(made) == counted(made)
    assert made.training and all(parameter.grad is None for parameter in made.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in made.state_dict().items())


def test_utilisation_is_the_share_of_the_peak():
    assert peak_tflops("NVIDIA H100 80GB HBM3", bf16=True) == 989
    assert peak_tflops("NVIDIA H100 PCIe", bf16=True) == 756
    assert peak_tflops("NVIDIA A100-SXM4-80GB", bf16=False) == 156
    assert peak_tflops("NVIDIA L40S", bf16=True) == 362
    assert peak_tflops("NVIDIA L4", bf16=True) == 121
    assert peak_tflops("NVIDIA H100 80GB HBM3 MIG 1g.10gb", bf16=True) is None
    assert peak_tflops("Radeon", bf16=True) is None
    assert Speed(20 * 10**9, 2 * 989 * TERA).metrics(10_000) == {"tflops": 200.0, "mfu": 0.1011}
    assert Speed.of(10**9, torch.device("cpu"), bf16=False, world=1).metrics(100) == {"tflops": 0.1}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(41.6, "42 s"), (249.7, "4 min 10 s"), (3 * 3600 + 299, "3 h 05 min"), (52 * 3600 + 60, "2 d 4 h")],
)
def test_durations_are_for_people(seconds, text):
    assert human_duration(seconds) == text


def test_estimate_is_the_slower_part_or_both():
    assert Estimate(100, 0.5, 0.2, together=True).seconds == 50
    assert Estimate(100, 0.2, 0.5, together=True).seconds == 50
    alone = Estimate(10, 0.5, 0.2, together=False)
    assert math.isclose(alone.seconds, 7)
    assert "10 steps to go, about 7 s" in alone.sentence() and "reading 0.2 s more" in alone.sentence()


def test_a_run_says_its_cost_before_and_while_it_runs(tmp_path):
    data = make_manifest(tmp_path / "data").root
    with heard() as said:
        result = pretrain(config(data, tmp_path / "run"))
    assert any(line.startswith("9 steps to go, about") for line in said)
    assert result.estimated_s is not None
    flops = read_run(tmp_path / "run")["flops_per_image"]
    assert flops > 1e6
    for line in read_metrics(tmp_path / "run"):
        assert line["tflops"] == pytest.approx(flops * line["images_per_s"] / TERA, rel=0.02, abs=1e-4)
        assert line["seconds"] > 0 and "mfu" not in line
