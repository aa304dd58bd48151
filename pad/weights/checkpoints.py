"""Checkpoints that are whole or absent, checked when read, and free of pickle.

RUN/checkpoints/frozen.safetensors          what no step changes, written once
RUN/checkpoints/step-00000100/
    model.safetensors                       what training changes
    optimizer.safetensors                   AdamW's moments, keys `<parameter>/<moment>`
    state.json                              step, position in the data, sha256 of the files
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from msip.errors import RunError
from msip.files import atomic_path, sha256_file, sync_file, sync_folder, write_errors, write_json
from pad.weights.files import save_tensors

FOLDER = "checkpoints"
FROZEN = "frozen.safetensors"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
TEMPORARY_PREFIX = ".tmp-"


@dataclass
class Checkpoint:
    """One checkpoint in memory.

    Attributes:
        path: its folder.
        state: the contents of state.json.
        model: the tensors that training changes and those it does not, by name in the method.
        optimizer: AdamW's state, by `<parameter>/<moment>`.
    """

    path: Path
    state: dict[str, Any]
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self.state["step"])


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, newest first; they may still turn out corrupt."""
    return sorted((run / FOLDER).glob("step-*"), reverse=True)


def drop_checkpoints_from(run: Path, step: int) -> None:
    """Remove the checkpoints of ``step`` and later ones: those that a run resumed before them could not read."""
    for path in list_checkpoints(run):
        if path.name >= f"step-{step:08d}":
            shutil.rmtree(path)


def write_frozen(run: Path, tensors: dict[str, Tensor]) -> str:
    """Write what no step changes; returns its SHA-256."""
    path = run / FOLDER / FROZEN
    with atomic_path(path) as temporary:
        save_tensors(_plain(tensors), temporary)
    return sha256_file(path)


def save_checkpoint(
    run: Path,
    state: dict[str, Any],
    model: dict[str, Tensor],
    optimizer: dict[str, Tensor],
    *,
    frozen_sha256: str,
    keep: int,
    keep_every: int | None = None,
) -> Path:
    """Write one checkpoint and drop all but the ``keep`` newest, and every ``keep_every``-th step's.

    A kill at any moment leaves the previous one.

    Raises ``OutputError`` when the disk is full or not writable.
    """
    folder = run / FOLDER
    target = folder / f"step-{state['step']:08d}"
    temporary = folder / f"{TEMPORARY_PREFIX}{target.name}-{os.getpid()}"
    with write_errors(target):
        _drop_temporaries(folder)
        temporary.mkdir(parents=True)
        try:
            _write_files(temporary, state, model, optimizer, frozen_sha256)
            drop_checkpoints_from(run, state["step"])
            temporary.replace(target)
            sync_folder(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in list_checkpoints(run)[keep:]:
            if not keep_every or int(old.name.removeprefix("step-")) % keep_every:
                shutil.rmtree(old, ignore_errors=True)
    return target


def _write_files(
    folder: Path, state: dict[str, Any], model: dict[str, Tensor], optimizer: dict[str, Tensor], frozen_sha256: str
) -> None:
    sha256 = {f"../{FROZEN}": frozen_sha256}
    for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
        save_tensors(_plain(tensors), folder / name)
        sync_file(folder / name)
        sha256[name] = sha256_file(folder / name)
    write_json(folder / STATE, {**state, "sha256": sha256})
    sync_folder(folder)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _drop_temporaries(folder: Path) -> None:
    for left in folder.glob(f"{TEMPORARY_PREFIX}*"):  # of a process that was killed while it wrote
        shutil.rmtree(left, ignore_errors=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read and check one checkpoint folder. Raises ``RunError`` if anything is missing or altered."""
    try:
        state = json.loads((path / STATE).read_text())
        for name, expected in state["sha256"].items():
            if sha256_file(path / name) != expected:
                raise RunError(
                    f"the checkpoint {path} is corrupt ({Path(name).name} has changed since it was written)."
                )
        model = {**load_file(path / f"../{FROZEN}"), **load_file(path / MODEL)}
        return Checkpoint(path, state, model, load_file(path / OPTIMIZER))
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise RunError(f"the checkpoint {path} is not complete ({error}).") from error


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that can be read, and a sentence for each newer one that cannot.

    Raises ``RunError`` if there are checkpoints, but none can be read.
    """
    warnings: list[str] = []
    for path in list_checkpoints(run):
        try:
            return read_checkpoint(path), warnings
        except RunError as error:
            warnings.append(str(error))
    if warnings:
        raise RunError(f"{warnings[0][:-1]}, and no older one can be read; start anew with another `out`.")
    return None, warnings


def frozen_names(method: Any, optimizer: Optimizer) -> set[str]:
    """Names of what no step changes: the parameters of encoder and frozen teacher that the optimizer does not hold.

    Everything else (adapters, decoder, buffers, a teacher that follows the student) goes into every checkpoint.
    """
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    holders = (method.encoder, getattr(method, "teacher", None))
    trunk = {id(parameter) for module in holders if module is not None for parameter in module.parameters()} - held
    return {name for name, parameter in method.named_parameters() if id(parameter) in trunk}


def optimizer_tensors(held: Mapping[str, Tensor], optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as `<parameter>/<moment>`, for what it holds by name; what was never updated has none."""
    return {
        f"{name}/{key}": value
        for name, parameter in held.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def restore(checkpoint: Checkpoint, method: nn.Module, optimizer: Optimizer) -> None:
    """Move a checkpoint's tensors into a method and its optimizer: it keeps none, which would fill memory all run long.

    Raises ``RunError`` if they do not fit.
    """
    parameters = dict(method.named_parameters())
    try:
        method.load_state_dict(checkpoint.model)
        groups = optimizer.state_dict()["param_groups"]
        places = {
            id(p): i
            for group, saved in zip(optimizer.param_groups, groups, strict=True)
            for p, i in zip(group["params"], saved["params"], strict=True)
        }
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in checkpoint.optimizer.items():
            parameter, key = name.rsplit("/", 1)
            state.setdefault(places[id(parameters[parameter])], {})[key] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": groups})
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"the checkpoint {checkpoint.path} does not fit this model ({reason:.200}); "
            f"resume it with the options of its run."
        ) from error
    checkpoint.model.clear()
    checkpoint.optimizer.clear()
