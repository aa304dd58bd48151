"""Weights in files: safetensors, read and written, and torch files, read without ever running code from a pickle."""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import pickletools
import re
import warnings
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from msip.errors import WeightsError

State: TypeAlias = dict[str, Tensor]

# what published checkpoints carry beside tensors; a Namespace only holds values (MAE and PAD training checkpoints)
_HARMLESS: list[Any] = [argparse.Namespace]
_NESTS = ("model", "state_dict", "module")
_PAIR = ("student", "teacher")  # DINO and iBOT: two networks in one file, kept apart by a prefix


def read_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors by name, on the CPU, and what the file says about them: safetensors metadata, or a trainer's options.

    Raises ``WeightsError`` for a file that is missing, damaged, without tensors, or a pickle that wants to run code.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist; give a weights file (.safetensors, .pth), a run folder, timm:NAME or random."
        )
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if not state:
        raise WeightsError(f"{path} holds no tensors by name; give a checkpoint that holds a model's state_dict.")
    return state, metadata


def _read_safetensors(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error)) from error


def _read_torch(path: Path) -> tuple[State, dict[str, str]]:
    try:
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols, in words for developers
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = _wanted(path)
        if not wanted:
            raise _unreadable(path, "neither torch's format nor safetensors") from error
        raise WeightsError(
            f"{path} is a pickle that holds more than tensors and could run code (it wants {wanted}); it is not "
            "opened: save its state_dict alone, best as safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError, AttributeError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split()).split(". ")[0] if path.stat().st_size else "it is empty"
        raise _unreadable(path, f"{reason:.120}") from error
    return _tensors(content), _notes(content)


def _unreadable(path: Path, reason: str) -> WeightsError:
    return WeightsError(f"{path} is no readable weights file ({reason}); get it again.")


def _wanted(path: Path) -> str:
    """What a refused pickle asks for, by name, read off its opcodes without running any; empty for nothing."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # no zip archive: a bare pickle, or torch's format before 1.6
        names = _globals_in(path)
    known = {f"{kind.__module__}.{kind.__qualname__}" for kind in _HARMLESS}
    wanted = sorted(set(names) - known)
    foreign = [name for name in wanted if not name.startswith(("torch.", "collections."))]
    return ", ".join((foreign or wanted)[:3])


def _globals_in(path: Path) -> list[str]:
    """Every ``module.name`` that the pickles in a file import, as far as they can be followed."""
    names: list[str] = []
    texts: list[str] = []
    with contextlib.suppress(ValueError, OSError), path.open("rb") as file:
        while True:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    names.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    names.append(".".join(texts[-2:]))
                elif isinstance(argument, str):
                    texts.append(argument)
    return names


def _tensors(content: Any) -> State:
    """The dict of tensors in a checkpoint, out of the nests it is usually saved in."""
    while isinstance(content, dict):
        pair = {name: content[name] for name in _PAIR if isinstance(content.get(name), dict)}
        if pair:
            return {f"{side}.{name}": tensor for side in pair for name, tensor in _tensors(pair[side]).items()}
        nest = next((name for name in _NESTS if isinstance(content.get(name), dict)), None)
        if nest is None:
            return {name: value for name, value in content.items() if isinstance(value, Tensor)}
        content = content[nest]
    return {}


def _notes(content: Any) -> dict[str, str]:
    """Of the options that MAE and PAD keep in their training checkpoints, the one that the decoder depends on."""
    options = content.get("args") if isinstance(content, dict) else None
    values = vars(options) if isinstance(options, argparse.Namespace) else options
    if not isinstance(values, dict) or "norm_pix_loss" not in values:
        return {}
    return {"norm_pix_loss": str(bool(values["norm_pix_loss"]))}


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file; what the system refuses is an ``OSError``, as from any other writer."""
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
