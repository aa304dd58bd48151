from __future__ import annotations

import json
import weakref

import pytest
import torch
from torch import nn

from msip.errors import OutputError, RunError
from pad.training.parallel import SingleProcess
from pad.training.step import make_optimizer
from pad.weights import files as weight_files
from pad.weights.checkpoints import (
    list_checkpoints,
    newest_checkpoint,
    optimizer_tensors,
    read_checkpoint,
    restore,
    save_checkpoint,
    write_frozen,
)


class Toy(nn.Module):
    """An encoder with a frozen layer and an adapter, a head, and a buffer."""

    def __init__(self, seed: int = 0, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.encoder = nn.ModuleDict({"trunk": nn.Linear(width, width), "adapter": nn.Linear(width, width)})
        self.head = nn.Linear(width, 1)
        self.fixed_head = nn.Linear(width, 1)
        self.register_buffer("centre", torch.randn(3))
        for frozen in (self.encoder["trunk"], self.fixed_head):
            frozen.requires_grad_(False)


def parts(method, optimizer):
    alone = SingleProcess(method, optimizer, torch.device("cpu"))
    return alone.frozen(), alone.changing()[0]


def toy(seed: int = 0, steps: int = 2) -> tuple[Toy, torch.optim.AdamW]:
    method = Toy(seed)
    optimizer = make_optimizer([{"params": [p for p in method.parameters() if p.requires_grad], "lr_scale": 1.0}])
    for _ in range(steps):
        optimizer.zero_grad()
        method.head(method.encoder["adapter"](torch.randn(5, 4))).square().mean().backward()
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
    return method, optimizer


def save(run, step: int, *, seed: int = 0, keep: int = 2):
    method, optimizer = toy(seed, steps=step)
    frozen, changing = parts(method, optimizer)
    digest = write_frozen(run, frozen)
    return save_checkpoint(
        run,
        {"step": step},
        changing,
        optimizer_tensors(dict(method.named_parameters()), optimizer),
        frozen_sha256=digest,
        keep=keep,
    )


def test_restored_training_goes_on_bit_for_bit(tmp_path):
    method, optimizer = toy(steps=3)
    path = save(tmp_path, 3)
    other, its_optimizer = toy(seed=9, steps=1)
    restore(read_checkpoint(path), other, its_optimizer)
    for (name, one), two in zip(method.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    images = torch.randn(5, 4)
    for model, its in ((method, optimizer), (other, its_optimizer)):
        its.zero_grad()
        model.head(model.encoder["adapter"](images)).square().mean().backward()
        its.param_groups[0]["lr"] = 0.1
        its.step()
    assert all(torch.equal(a, b) for a, b in zip(method.parameters(), other.parameters(), strict=True))


def test_a_restored_checkpoint_holds_no_memory(tmp_path):
    checkpoint = read_checkpoint(save(tmp_path, 3))
    method, optimizer = toy(seed=9)
    held = [weakref.ref(tensor) for tensor in checkpoint.model.values()]
    moments = sum(tensor.numel() for tensor in checkpoint.optimizer.values())
    restore(checkpoint, method, optimizer)
    assert checkpoint.step == 3 and len(held) > 3 and not any(tensor() is not None for tensor in held)
    assert not checkpoint.optimizer
    assert sum(t.numel() for state in optimizer.state.values() for t in state.values()) == moments


def test_only_the_frozen_trunk_is_left_out_of_every_checkpoint(tmp_path):
    method, optimizer = toy()
    frozen, changing = parts(method, optimizer)
    assert set(frozen) == {"encoder.trunk.weight", "encoder.trunk.bias"}
    assert {"centre", "fixed_head.weight", "head.weight", "encoder.adapter.weight"} <= set(changing)


def test_parameters_that_never_had_a_gradient_have_no_moments(tmp_path):
    method, optimizer = toy()
    assert not any(
        "fixed_head" in name or "trunk" in name
        for name in optimizer_tensors(dict(method.named_parameters()), optimizer)
    )
    assert "head.weight/exp_avg" in optimizer_tensors(dict(method.named_parameters()), optimizer)


def test_files_hold_no_pickle(tmp_path):
    path = save(tmp_path, 1)
    assert sorted(file.name for file in path.iterdir()) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert json.loads((path / "state.json").read_text())["step"] == 1


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10):
        save(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000002"]
    assert newest_checkpoint(tmp_path)[0].step == 10


@pytest.mark.parametrize("damage", ["truncated", "bit", "no state", "no weights", "half a state"])
def test_damaged_newest_falls_back_with_a_warning(tmp_path, damage):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    model, state = newest / "model.safetensors", newest / "state.json"
    data = model.read_bytes()
    if damage == "truncated":
        model.write_bytes(data[:-7])
    elif damage == "bit":
        model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "no state":
        state.unlink()
    elif damage == "no weights":
        model.unlink()
    else:
        state.write_text(state.read_text()[:40])
    checkpoint, warnings = newest_checkpoint(tmp_path)
    assert checkpoint.step == 1
    assert len(warnings) == 1 and "step-00000002" in warnings[0] and "\n" not in warnings[0]


def test_all_damaged_is_one_sentence(tmp_path):
    for step in (1, 2):
        (save(tmp_path, step) / "model.safetensors").write_bytes(b"")
    with pytest.raises(RunError, match="another `out`") as error:
        newest_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_no_checkpoint_is_none(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])


def test_failed_write_leaves_the_one_before(tmp_path, monkeypatch):
    save(tmp_path, 1)
    real = weight_files.save_file

    def full(tensors, path, metadata=None):
        if "optimizer" in str(path):
            raise OSError(28, "No space left on device")
        real(tensors, path, metadata)

    monkeypatch.setattr(weight_files, "save_file", full)
    with pytest.raises(OutputError, match="disk is full"):
        save(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()] == ["step-00000001"]
    assert newest_checkpoint(tmp_path)[0].step == 1


def test_left_over_of_a_killed_write_is_ignored_and_removed(tmp_path):
    save(tmp_path, 1)
    left = tmp_path / "checkpoints" / ".tmp-step-00000002-999"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert newest_checkpoint(tmp_path)[0].step == 1
    save(tmp_path, 2)
    assert not left.exists()


def test_checkpoint_after_a_damaged_later_one_replaces_it(tmp_path):
    """A run that fell back to step 1 makes step 2 again; a stale later one must not win, nor push out the new."""
    save(tmp_path, 1)
    (save(tmp_path, 3) / "model.safetensors").write_bytes(b"")
    save(tmp_path, 2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000002", "step-00000001"]


def test_checkpoint_of_another_model_is_one_sentence(tmp_path):
    path = save(tmp_path, 1)
    other = Toy(width=6)
    optimizer = make_optimizer([{"params": list(other.parameters()), "lr_scale": 1.0}])
    with pytest.raises(RunError, match="does not fit") as error:
        restore(read_checkpoint(path), other, optimizer)
    assert "\n" not in str(error.value)
