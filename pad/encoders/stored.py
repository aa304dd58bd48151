"""What lies at a path: a weights file, a run, one of its checkpoints or an export, and what it says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msip.errors import WeightsError
from pad.adapters.attach import ADAPTER
from pad.adapters.bottleneck import PadConfig
from pad.adapters.files import ADAPTER_FILE, read_record, recorded_config
from pad.config.pretraining import RESULT, read_run
from pad.weights.checkpoints import FROZEN, MODEL, STATE, list_checkpoints, newest_checkpoint, read_checkpoint
from pad.weights.files import State, read_weights

ENCODER_FILE = "encoder.safetensors"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # folders of timm and Hugging Face, beside a config.json


def find_weights(path: Path) -> tuple[State, dict[str, str]]:
    """Tensors and metadata at ``path``: a file, a folder with ``encoder.safetensors``, a run or one of its checkpoints.

    Raises ``WeightsError`` where there are none.
    """
    if not path.is_dir():
        return read_weights(path)
    if (path / ENCODER_FILE).is_file():
        return read_weights(path / ENCODER_FILE)
    hub = _hub_file(path)
    if hub:
        state, metadata = read_weights(hub)
        return state, {**_hub_notes(path), **metadata}
    single = (path / STATE).is_file()
    checkpoint = read_checkpoint(path) if single else newest_checkpoint(path)[0]
    if checkpoint is None:
        raise WeightsError(
            f"{path} holds no weights ({ENCODER_FILE}, {ADAPTER_FILE} or a run's checkpoints); give a run, an exported "
            "folder or a weights file."
        )
    options = run_options(run_of(path))
    return checkpoint.model, {name: str(options[name]) for name in ("model", "image_size") if options.get(name)}


def weight_files(path: Path) -> list[Path]:
    """The files that decide which tensors ``find_weights`` gives, or, of adapters alone, theirs; empty for none."""
    if path.is_file():
        return [path]
    if adapters_alone(path):
        return [path / ADAPTER_FILE]
    if (path / ENCODER_FILE).is_file():
        return [path / ENCODER_FILE]
    hub = _hub_file(path)
    if hub:
        return [hub]
    steps = [path] if (path / STATE).is_file() else list_checkpoints(path)[:1]
    return [file for step in steps for file in (step / MODEL, step.parent / FROZEN)]


def _hub_file(folder: Path) -> Path | None:
    """The weights in a folder as timm and Hugging Face write it, None for another folder."""
    files = [folder / name for name in _HUB_FILES] if (folder / "config.json").is_file() else []
    return next((file for file in files if file.is_file()), None)


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


def adapters_alone(path: Path) -> bool:
    """Whether ``path`` holds adapters and nothing that they sit on."""
    if path.is_dir():
        trunk = (
            any((path / name).is_file() for name in (ENCODER_FILE, STATE)) or _hub_file(path) or list_checkpoints(path)
        )
        return (path / ADAPTER_FILE).is_file() and not trunk
    return path.suffix == ".safetensors" and path.is_file() and all(ADAPTER in name for name in read_weights(path)[0])


def stored_config(folder: Path) -> PadConfig | None:
    """The ``PadConfig`` written beside the weights of a folder, in adapter.json or run.yaml."""
    file = folder / ADAPTER_FILE
    if file.is_file():
        return recorded_config(read_record(file, read_weights(file)[1]), file)
    options, names = run_options(run_of(folder)), ("down_size", "scale", "fusion")
    if any(name not in options for name in names):
        return None
    return PadConfig(**{name: options[name] for name in names}, blocks=options.get("blocks"))


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


def run_of(path: Path) -> Path:
    """The run that a folder is, or that a checkpoint's folder (RUN/checkpoints/step-*) is of."""
    return path.resolve().parents[1] if (path / STATE).is_file() else path


def run_options(folder: Path) -> dict[str, Any]:
    """The options in RUN/run.yaml, empty where there is none."""
    return dict((read_run(folder) or {}).get("config", {}))
