"""A grey image in three channels goes through the patch embedding as one channel under the summed kernel."""

from __future__ import annotations

import pytest
import timm
import torch
from trainers import trainer_of
from training_runs import config, make_manifest

from pad.data.grey import normalise
from pad.encoders.tokens import embed


def encoder(**options):
    torch.manual_seed(0)
    return timm.create_model("test_vit", img_size=32, num_classes=0, **options)


def grey() -> torch.Tensor:
    return normalise(torch.randint(0, 256, (4, 1, 32, 32), dtype=torch.uint8), 3)


class Channels:
    """Notes how many channels each convolution sees."""

    def __init__(self, monkeypatch) -> None:
        self.seen: list[int] = []
        convolve = torch.nn.functional.conv2d
        monkeypatch.setattr(
            torch.nn.functional, "conv2d", lambda x, *a, **k: (self.seen.append(x.shape[1]), convolve(x, *a, **k))[1]
        )


def test_tokens_and_gradients_equal_those_of_three_channels(monkeypatch):
    model, images = encoder(), grey()
    assert images.stride(1) == 0 and images.shape[1] == 3
    weigh = torch.randn(4, 16, 64)
    results = []
    channels = Channels(monkeypatch)
    for batch in (images, images.contiguous()):
        model.zero_grad()
        patches = embed(model, batch).patches
        (patches * weigh[:, : patches.shape[1], : patches.shape[2]]).sum().backward()
        results.append((patches.detach(), *(p.grad.clone() for p in model.patch_embed.parameters())))
    assert channels.seen == [1, 3]
    for one, three in zip(*results, strict=True):
        assert float((one - three).abs().max()) <= 2e-6 * float(three.abs().max())
    assert results[0][1].shape[1] == 3 and torch.equal(results[0][1][:, 0], results[0][1][:, 2])


def test_colour_and_one_channel_models_are_embedded_as_ever(monkeypatch):
    channels = Channels(monkeypatch)
    model, colour = encoder(), torch.randn(2, 3, 32, 32)
    assert torch.equal(embed(model, colour).patches, model._pos_embed(model.patch_embed(colour))[:, 1:])
    embed(encoder(in_chans=1), normalise(torch.zeros(2, 1, 32, 32, dtype=torch.uint8), 1))
    assert channels.seen == [3, 3, 1]


@pytest.mark.parametrize("paradigm", ["pad", "continual"])
def test_the_training_step_takes_it_and_learns_the_same(tmp_path, monkeypatch, paradigm):
    """With the patch embedding frozen and trained: moments after a step equal those with channels copied out."""
    data = make_manifest(tmp_path / "data").root
    channels, moments = Channels(monkeypatch), []
    monkeypatch.setattr("pad.training.trainer.Watch.health", lambda self, method: {})  # calls timm's own forward
    for name in ("grey", "copied"):
        if name == "copied":
            monkeypatch.setattr("pad.data.grey.normalise", lambda image, chans: normalise(image, chans).contiguous())
        channels.seen.clear()
        trainer = trainer_of(config(data, tmp_path / name, max_steps=1, paradigm=paradigm))
        trainer.run()
        assert set(channels.seen) == ({1} if name == "grey" else {3})
        moments.append(
            {
                n: trainer.optimizer.state[p]["exp_avg"]
                for n, p in trainer.parallel.held.items()
                if p in trainer.optimizer.state
            }
        )
    assert ("encoder.patch_embed.proj.weight" in moments[0]) == (paradigm == "continual")
    assert moments[0].keys() == moments[1].keys()
    for name, one in moments[0].items():
        torch.testing.assert_close(one, moments[1][name], rtol=1e-4, atol=1e-7)
