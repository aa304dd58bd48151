"""How blocks are called while training: compiled, recomputed, and what happens when a compiler fails."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from training_runs import heard

from pad.adapters.attach import attach_adapters
from pad.adapters.bottleneck import PadConfig
from pad.methods import MAE
from pad.training.blocks import BlockCalls, block_lists
from pad.training.paradigms import apply_paradigm


def method() -> MAE:
    torch.manual_seed(0)
    encoder = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    made = MAE(
        attach_adapters(encoder, PadConfig(down_size=8)), decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
    )
    apply_paradigm(made, "pad")
    for block in made.encoder.blocks:
        torch.nn.init.normal_(block.adapter.up.weight, std=0.1)
    return made


def gradients(made: MAE) -> list[torch.Tensor]:
    made.zero_grad()
    torch.manual_seed(3)  # dropout's
    generator = torch.Generator().manual_seed(1)
    made(torch.randn(4, 3, 32, 32, generator=generator), torch.rand(4, 16, generator=generator)).loss.backward()
    return [p.grad.clone() for p in made.parameters() if p.grad is not None]


def test_lists_are_found_by_name():
    assert [len(blocks) for blocks in block_lists(method())] == [2, 1]


def test_recomputed_gradients_are_the_same_bit_for_bit_and_memory_is_saved():
    made, kept = method().train(), []
    for recomputed in (False, True):
        saved = 0

        def pack(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with BlockCalls(made, compiled=False, recomputed=recomputed):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                made(torch.randn(4, 3, 32, 32))
            kept.append((saved, gradients(made)))
    assert all(torch.equal(a, b) for a, b in zip(kept[0][1], kept[1][1], strict=True))
    assert kept[1][0] < 0.6 * kept[0][0]


def test_compiled_blocks_give_the_same_gradients_and_leave_no_trace(monkeypatch):
    """Traced with autograd as on a GPU; the kernels are torch's plain ones, because C++ takes a minute to compile."""
    traced = partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    made = method().train()
    for block in made.encoder.blocks:
        block.adapter.dropout.p = 0.0  # a compiled mask is another one
    plain = gradients(made)
    names = set(made.state_dict())
    with heard() as said, BlockCalls(made, compiled=True, recomputed=False) as calls:
        compiled = gradients(made)
        assert calls.compiled and set(made.state_dict()) == names
    assert said == []
    for one, two in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert not any("forward" in block.__dict__ for blocks in block_lists(made) for block in blocks)


def test_the_compiler_is_asked_once_for_each_kind_of_block(monkeypatch):
    """To ask at every call took more of the CPU's time than the compiled blocks saved."""
    asked = []

    def compiler(function, **options):
        asked.append(function)
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    made = method().train()
    with BlockCalls(made, compiled=True, recomputed=False):
        for _ in range(3):
            gradients(made)
    kinds = {type(block).forward for blocks in block_lists(made) for block in blocks}
    assert len(asked) == len(kinds) and set(asked) == kinds


def test_a_compiler_that_fails_is_named_once_and_training_goes_on(monkeypatch):
    def broken(function, **options):
        def call(*args, **kwargs):
            raise RuntimeError("no working C++ compiler found\nmore")

        return call

    made = method().train()
    plain = gradients(made)
    monkeypatch.setattr(torch, "compile", broken)
    with heard() as said, BlockCalls(made, compiled=True, recomputed=False):
        again = gradients(made)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert len(said) == 1 and "no working C++ compiler found" in said[0] and "\n" not in said[0]


def test_memory_that_runs_out_while_compiled_is_no_failure_of_the_compiler(monkeypatch):
    def full(function, **options):
        def call(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return call

    made = method().train()
    monkeypatch.setattr(torch, "compile", full)
    with BlockCalls(made, compiled=True, recomputed=False), pytest.raises(torch.OutOfMemoryError):
        gradients(made)


def test_in_eval_mode_blocks_run_plainly(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *a, **k: pytest.fail("compiled"))
    made = method().eval()
    with BlockCalls(made, compiled=True, recomputed=True):
        made(torch.randn(1, 3, 32, 32))


def test_explicit_attention_gives_the_same_gradients_and_is_put_back(monkeypatch):
    made = method().train()
    fused, modules = gradients(made), [m for m in made.modules() if hasattr(m, "fused_attn")]
    assert len(modules) == 3 and all(m.fused_attn for m in modules)
    with BlockCalls(made, compiled=False, recomputed=False, explicit=True):
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: pytest.fail("fused"))
        spelt_out = gradients(made)
    assert all(m.fused_attn for m in modules)
    for one, two in zip(fused, spelt_out, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
