"""What lies at a path, read once: a weights file, a run, one of its checkpoints or an export."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msip.errors import WeightsError
from pad.adapters.attach import ADAPTER
from pad.adapters.bottleneck import PadConfig
from pad.adapters.files import ADAPTER_FILE, SavedAdapters
from pad.config.pretraining import RESULT, read_run
from pad.weights.checkpoints import FROZEN, MODEL, STATE, list_checkpoints, newest_checkpoint, read_checkpoint
from pad.weights.files import State, read_weights

ENCODER_FILE = "encoder.safetensors"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # folders of timm and Hugging Face, beside a config.json


@dataclass(frozen=True)
class StoredWeights:
    """Weights and all that is said of them beside.

    Attributes:
        path: where they were found.
        state: tensors by the names they have there; empty where there are adapters alone.
        metadata: ``model``, ``image_size`` and ``norm_pix_loss``, as far as file, folder or run name them.
        adapters: those in a file of their own.
        options: of the run that the path is, or is a checkpoint of; empty for none.
    """

    path: Path
    state: State = field(default_factory=dict, repr=False)
    metadata: dict[str, str] = field(default_factory=dict)
    adapters: SavedAdapters | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> PadConfig | None:
        """The ``PadConfig`` written beside the tensors, in adapter.json or run.yaml; None without adapters in them."""
        if not any(ADAPTER in name for name in self.state):
            return None
        if self.adapters is not None:
            return self.adapters.config
        names = ("down_size", "scale", "fusion")
        if any(name not in self.options for name in names):
            return None
        return PadConfig(**{name: self.options[name] for name in names}, blocks=self.options.get("blocks"))


def read_stored(path: Path) -> StoredWeights:
    """Read what lies at ``path``: a file, a folder with a trunk, with adapters or with both, a run, or a checkpoint.

    Raises ``WeightsError`` where there are no weights, or none that can be read.
    """
    if not path.is_dir():
        state, metadata = read_weights(path)
        if _adapters_only(path, state):
            return StoredWeights(path, adapters=SavedAdapters(path, state, metadata), options=run_options(path.parent))
        return StoredWeights(path, state, metadata)
    adapters = SavedAdapters.read(path) if (path / ADAPTER_FILE).is_file() else None
    options = run_options(_run_of(path))
    trunk = _trunk_file(path)
    if trunk is not None:
        state, metadata = read_weights(trunk)
        notes = {} if trunk.name == ENCODER_FILE else _hub_notes(path)
        return StoredWeights(path, state, {**notes, **metadata}, adapters, options)
    checkpoint = read_checkpoint(path) if (path / STATE).is_file() else newest_checkpoint(path)[0]
    if checkpoint is not None:
        notes = {name: str(options[name]) for name in ("model", "image_size") if options.get(name)}
        return StoredWeights(path, checkpoint.model, notes, adapters, options)
    if adapters is None:
        raise WeightsError(
            f"{path} holds no weights ({ENCODER_FILE}, {ADAPTER_FILE} or a run's checkpoints); give a run, an exported "
            "folder or a weights file."
        )
    return StoredWeights(path, adapters=adapters, options=options)


def weight_files(path: Path) -> list[Path]:
    """The files that decide which tensors ``read_stored`` gives, or, of adapters alone, theirs; empty for none."""
    if path.is_file():
        return [path]
    trunk = _trunk_file(path)
    if trunk is not None:
        return [trunk]
    steps = [path] if (path / STATE).is_file() else list_checkpoints(path)[:1]
    if not steps and (path / ADAPTER_FILE).is_file():
        return [path / ADAPTER_FILE]
    return [file for step in steps for file in (step / MODEL, step.parent / FROZEN)]


def _trunk_file(folder: Path) -> Path | None:
    """The file with the trunk in an exported folder, ours or of timm and Hugging Face; None in another folder."""
    names = (ENCODER_FILE, *(_HUB_FILES if (folder / "config.json").is_file() else ()))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _adapters_only(file: Path, state: State) -> bool:
    return file.suffix == ".safetensors" and all(ADAPTER in name for name in state)


def _hub_notes(folder: Path) -> dict[str, str]:
    """Model, image size and pixel normalisation in the config.json of timm or Hugging Face, as far as it names them."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    arguments = {**(config.get("pretrained_cfg") or {}), **(config.get("model_args") or {})}
    size = arguments.get("img_size") or (arguments.get("input_size") or [0])[1:] or config.get("image_size")
    sides = [size] * 2 if isinstance(size, int) else list(size or [])
    notes = {"model": config.get("architecture"), "norm_pix_loss": config.get("norm_pix_loss")}
    notes["image_size"] = "x".join(map(str, sides)) or None
    return {name: str(value) for name, value in notes.items() if value is not None}


def run_state(path: str | Path) -> list[str]:
    """Sentences on a run whose weights are not what its user may take them for; none where all is well, or no run.

    A run that is not finished has the weights of its newest checkpoint that can be read. Raises ``RunError`` if there
    are checkpoints, but none can be read.
    """
    run = Path(path)
    stored = read_run(run)
    if stored is None or (run / RESULT).is_file():  # a finished run's weights lie beside its checkpoints
        return []
    checkpoint, damages = newest_checkpoint(run)
    if checkpoint is None:
        return []
    used = [f"{damage} {checkpoint.path.name} is used instead." for damage in damages[-1:]]
    return [*damages[:-1], *used, f"{path} is not finished (step {checkpoint.step:,} of {stored['plan']['steps']:,})."]


def _run_of(path: Path) -> Path:
    """The run that a folder is, or that a checkpoint's folder (RUN/checkpoints/step-*) is of."""
    return path.resolve().parents[1] if (path / STATE).is_file() else path


def run_options(folder: Path) -> dict[str, Any]:
    """The options in RUN/run.yaml, empty where there is none."""
    return dict((read_run(folder) or {}).get("config", {}))
