"""What every self-supervised method must do, on every kind of backbone; a method's test class fills in the rest."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from pad.adapters.attach import attach_adapters, has_adapters
from pad.adapters.bottleneck import PadConfig
from pad.adapters.files import load_adapters, save_adapters
from pad.methods import Method
from pad.training.paradigms import apply_paradigm, set_scales_frozen

SIDE = 32
NARROW = {"embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
BACKBONES = {
    "vit": ("vit_tiny_patch16_224", {"patch_size": 8}),
    "dinov2": ("vit_small_patch14_reg4_dinov2", {"patch_size": 8, "init_values": 0.1}),  # LayerScale and registers
    "dinov3": ("vit_small_patch16_dinov3", {"patch_size": 8, "init_values": 0.1}),  # RoPE, registers, no positions
    "eva02": ("eva02_tiny_patch14_224", {"patch_size": 8}),  # RoPE, SwiGLU
    "siglip": ("vit_base_patch16_siglip_224", {"patch_size": 8}),  # no class token
}


def backbone(name: str, *, adapters: bool = True, seed: int = 0, **options: Any) -> nn.Module:
    model, own = BACKBONES[name]
    torch.manual_seed(seed)
    encoder = timm.create_model(model, **{**NARROW, "img_size": SIDE, **own, **options})
    return attach_adapters(encoder, PadConfig(down_size=8)) if adapters else encoder


class MethodContract:
    """A subclass says how to make the method around an encoder, and what its forward takes."""

    def make(self, encoder: nn.Module) -> Method:
        raise NotImplementedError

    def arguments(self, shape: tuple[int, int, int], *, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
        """Forward's arguments for images of (channels, height, width)."""
        generator = torch.Generator().manual_seed(seed)
        return {"images": torch.randn(batch, *shape, generator=generator)}

    def built(self, name: str, **options: Any) -> Method:
        encoder = backbone(name, **options)
        torch.manual_seed(1)
        return self.make(encoder)

    def trained(self, name: str, **options: Any) -> tuple[Method, torch.optim.AdamW]:
        method = self.built(name, **options)
        groups = apply_paradigm(method, "pad")
        set_scales_frozen(method, False)
        return method, torch.optim.AdamW(groups, lr=1e-2)

    def step(self, method: Method, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        torch.manual_seed(100 + number)
        method.begin_step(number, 4.0)
        optimizer.zero_grad()
        loss = method(**self.arguments((3, SIDE, SIDE), seed=number)).loss
        loss.backward()
        optimizer.step()
        method.end_step(torch.tensor(True))
        return loss.detach()

    @pytest.fixture(params=tuple(BACKBONES))
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def test_loss_is_finite(self, name: str) -> None:
        output = self.built(name)(**self.arguments((3, SIDE, SIDE)))
        assert output.loss.ndim == 0 and torch.isfinite(output.loss)

    def test_all_that_trains_gets_a_gradient_and_nothing_frozen_moves(self, name: str) -> None:
        method, optimizer = self.trained(name)
        frozen = {n: p.detach().clone() for n, p in method.named_parameters() if not p.requires_grad}
        assert any(".adapter." in n for n, p in method.named_parameters() if p.requires_grad)
        for number in range(3):  # two updates; at the identity start Down and the predictors rightly get zero
            self.step(method, optimizer, number)
        for key, parameter in method.named_parameters():
            if key in frozen:
                assert parameter.grad is None and torch.equal(parameter, frozen[key]), key
            else:
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, key

    def test_first_step_is_that_of_the_model_without_adapters(self, name: str) -> None:
        arguments = self.arguments((3, SIDE, SIDE))
        adapted, plain = self.built(name).eval(), self.built(name, adapters=False).eval()
        plain.load_state_dict({k: v for k, v in adapted.state_dict().items() if ".adapter." not in k}, strict=False)
        torch.manual_seed(5)
        one = adapted(**arguments)
        torch.manual_seed(5)
        two = plain(**arguments)
        assert torch.equal(one.loss, two.loss) and torch.equal(one.prediction, two.prediction)

    def test_seed_decides_all(self, name: str) -> None:
        runs = []
        for _ in range(2):
            method, optimizer = self.trained(name)
            runs.append([self.step(method, optimizer, number) for number in range(2)])
        assert torch.equal(torch.stack(runs[0]), torch.stack(runs[1]))

    def test_resumed_equals_uninterrupted(self, name: str) -> None:
        method, optimizer = self.trained(name)
        for number in range(2):
            self.step(method, optimizer, number)
        state = copy.deepcopy((method.state_dict(), optimizer.state_dict()))
        losses = [self.step(method, optimizer, number) for number in (2, 3)]
        again, optimizer = self.trained(name, seed=9)
        again.load_state_dict(state[0])
        optimizer.load_state_dict(state[1])
        assert [self.step(again, optimizer, number) for number in (2, 3)] == losses
        for key, tensor in method.state_dict().items():
            assert torch.equal(again.state_dict()[key], tensor), key

    def test_saved_adapters_give_the_same_features(self, name: str, tmp_path: Any) -> None:
        method, optimizer = self.trained(name)
        for number in range(2):
            self.step(method, optimizer, number)
        save_adapters(method.encoder, tmp_path)
        other = load_adapters(backbone(name, adapters=False), tmp_path).eval()
        assert has_adapters(other)
        images = torch.randn(2, 3, SIDE, SIDE)
        assert torch.equal(other.forward_features(images), method.encoder.eval().forward_features(images))

    @pytest.mark.parametrize(("channels", "size"), [(1, (SIDE, SIDE)), (3, (SIDE, 2 * SIDE))])
    def test_one_channel_and_images_that_are_not_square(self, name: str, channels: int, size: tuple[int, int]) -> None:
        method = self.built(name, in_chans=channels, img_size=size)
        method(**self.arguments((channels, *size))).loss.backward()
        assert method.encoder.blocks[0].adapter.up.weight.grad.abs().max() > 0

    @pytest.mark.slow
    def test_compiled_equals_eager(self, name: str) -> None:
        method, arguments = self.built(name).eval(), self.arguments((3, SIDE, SIDE))
        torch.manual_seed(5)
        eager = method(**arguments)
        torch.manual_seed(5)
        compiled = torch.compile(method, backend="aot_eager")(**arguments)
        assert compiled.loss.item() == pytest.approx(eager.loss.item(), rel=1e-5)
        assert torch.allclose(compiled.prediction, eager.prediction, atol=1e-5)
