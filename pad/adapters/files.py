"""Adapter files: safetensors with a record of the frozen model that the adapters belong to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from msip.errors import ModelError, WeightsError
from msip.files import write_bytes, write_json
from pad.adapters.attach import (
    ADAPTER,
    adapter_state_dict,
    attach_adapters,
    blocks_of,
    chosen_blocks,
    config_of,
    count_adapter_parameters,
    has_adapters,
    trunk_state_dict,
)
from pad.adapters.bottleneck import Adapter, PadConfig
from pad.weights.files import State, read_weights

ADAPTER_FILE = "adapter.safetensors"

RECORD_FORMAT = "pad-adapter/1"


@dataclass(frozen=True)
class SavedAdapters:
    """A file of adapters, read: its tensors by the model's names, and its safetensors metadata."""

    file: Path
    state: State = field(repr=False)
    metadata: dict[str, str] = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> SavedAdapters:
        """From a folder or a file. Raises ``WeightsError`` for one that cannot be read."""
        file = _adapter_file(Path(path))
        return cls(file, *read_weights(file))

    @cached_property
    def record(self) -> dict[str, Any]:
        """The description of the adapters: the JSON beside the file, else its metadata. Raises ``WeightsError``."""
        description = self.file.with_suffix(".json")
        try:
            record = json.loads(description.read_text() if description.is_file() else self.metadata["pad"])
            if record["format"] != RECORD_FORMAT:
                raise ValueError(record["format"])
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise WeightsError(
                f"{self.file} has no description of its adapters that can be read ({description.name}); keep the two "
                "files together."
            ) from error
        return dict(record)

    @property
    def config(self) -> PadConfig:
        """The ``PadConfig`` in the description. Raises ``WeightsError``."""
        try:
            return PadConfig(**self.record["config"])
        except (ModelError, TypeError, KeyError) as error:
            raise WeightsError(
                f"{self.file} is described by no valid adapter configuration ({error}); get it again."
            ) from error


def trunk_hash(model: nn.Module) -> str:
    """SHA-256 over the trunk's blocks and final norm: which weights the adapters belong to.

    Position and patch embeddings are left out, because they change with the image size and the number of channels.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(trunk_state_dict(model).items()):
        if name.startswith(("blocks.", "norm.")):
            digest.update(name.encode())
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def describe_base(model: nn.Module) -> dict[str, Any]:
    """What an adapter needs from its base model, as JSON values: timm's name, width, depth, input, trunk hash."""
    base: Any = model
    blocks = blocks_of(model)
    size = base.patch_embed.img_size
    return {
        "model": architecture_of(model),
        "embed_dim": base.blocks[0].norm1.weight.shape[0],
        "depth": len(blocks),
        "image_size": list(size) if size else None,
        "in_chans": base.patch_embed.proj.in_channels,
        "trunk_sha256": trunk_hash(model),
    }


def architecture_of(model: Any) -> str | None:
    """timm's architecture name, None for a model that was not made by name."""
    return (getattr(model, "pretrained_cfg", None) or {}).get("architecture")


def save_adapters(model: nn.Module, path: str | Path, *, init: str | None = None) -> Path:
    """Write the adapters to ``path`` (a folder, or a file ``*.safetensors``), with ``adapter.json`` beside it.

    The JSON names base model, trunk hash and ``PadConfig``; ``init``, where the trunk's weights came from, lets
    ``load_encoder`` find them again. The same text is in the safetensors metadata. Returns the weights' path. Raises
    ``ModelError`` without adapters and ``OutputError``.
    """
    if not has_adapters(model):
        raise ModelError("this model has no adapters to save; call attach_adapters(model) and train them first.")
    record = {
        "format": RECORD_FORMAT,
        "config": asdict(config_of(model)),
        "parameters": count_adapter_parameters(model),
        "init": init,
        **describe_base(model),
    }
    file = _adapter_file(Path(path))
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in adapter_state_dict(model).items()}
    write_bytes(file, save(tensors, {"pad": json.dumps(record, sort_keys=True)}))
    write_json(file.with_suffix(".json"), record)
    return file


def load_adapters(model: nn.Module, path: str | Path) -> nn.Module:
    """Attach the adapters saved at ``path`` (a folder or file) to ``model``, or fill those it has; returns the model.

    Raises ``WeightsError`` if they were trained on another base (width, depth, trunk weights) or with another
    ``PadConfig`` than the model's adapters, or cannot be read, and ``ModelError`` for a model that takes none; the
    model is unchanged then.
    """
    return fit_adapters(model, SavedAdapters.read(path))


def fit_adapters(model: nn.Module, saved: SavedAdapters) -> nn.Module:
    """Attach adapters that were read, as ``load_adapters`` does, whose errors it raises."""
    file, state, config = saved.file, saved.state, saved.config
    _check_base(model, saved.record, file)
    if has_adapters(model) and config_of(model) != config:
        raise WeightsError(f"{file} holds adapters of {config}, the model has {config_of(model)}; detach those first.")
    expected = _expected_shapes(model, config)
    odd = sorted(n for n in expected.keys() | state.keys() if n not in state or state[n].shape != expected.get(n))
    if odd:
        raise WeightsError(f"{file} does not hold the adapters that its description names, see {odd[0]}; get it again.")
    if not has_adapters(model):
        attach_adapters(model, config)
    model.load_state_dict(state, strict=False)
    return model


def _adapter_file(path: Path) -> Path:
    return path if path.suffix == ".safetensors" else path / ADAPTER_FILE


def _check_base(model: nn.Module, record: dict[str, Any], file: Path) -> None:
    base = describe_base(model)
    for key, what in (("embed_dim", "width"), ("depth", "depth")):
        if record.get(key) != base[key]:
            raise WeightsError(
                f"{file} was trained on {record.get('model') or 'a model'} of {what} {record.get(key)}, this model has "
                f"{what} {base[key]}; load it onto the model that its run used."
            )
    found, wanted = base["trunk_sha256"], record.get("trunk_sha256")
    if wanted and wanted != found:
        init = record.get("init")
        advice = f"load it onto the initial weights that its run used{f' ({init})' if init else ''}."
        if init == "random":
            advice = "its run began at random: msip export-model RUN --format timm writes those weights with it."
        raise WeightsError(
            f"{file} was trained on a {record.get('model') or 'trunk'} with other weights ({wanted[:12]}) than this "
            f"model's ({found[:12]}); {advice}"
        )


def _expected_shapes(model: nn.Module, config: PadConfig) -> dict[str, torch.Size]:
    base: Any = model
    with torch.device("meta"):
        tensors = Adapter(base.blocks[0].norm1.weight.shape[0], config).state_dict()
    chosen = chosen_blocks(blocks_of(model), config)
    return {f"blocks.{index}{ADAPTER}{name}": tensor.shape for index, _ in chosen for name, tensor in tensors.items()}
