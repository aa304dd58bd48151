"""``load_encoder``: whatever people have, a run, an exported folder or a checkpoint, to a timm ViT with adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
from torch import nn

from msip.errors import ModelError, MsipError, WeightsError
from pad.adapters import (
    ADAPTER,
    ADAPTER_FILE,
    attach_adapters,
    detach_adapters,
    has_adapters,
    load_adapters,
    read_record,
    recorded_config,
)
from pad.bottleneck import PadConfig
from pad.encoders.create import LoadReport, create_encoder, fit_tensors, image_size_of, lasting_init
from pad.encoders.files import State, read_weights
from pad.encoders.layouts import depth_of, take_apart

ENCODER_FILE = "encoder.safetensors"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # folders of timm and Hugging Face, beside a config.json

_PLAIN = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}


def load_encoder(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A timm ViT with the weights, and adapters if any, found at ``path``.

    Args:
        path: a run's folder (finished or not), one of its checkpoints, an exported folder, a file in any layout of
            ``pad.encoders.layouts``, or ``timm:NAME``.
        model: the timm model to load into, in place. Without it, the model is made by the name that is stored with the
            weights, or recognised by its shapes. Adapters without a trunk go on ``model`` as it is, else on the base
            weights that they name.

    Raises:
        WeightsError: nothing there can be read, or it does not fit the model.
        ModelError: the model is unknown, or takes no adapters.
    """
    if str(path).startswith("timm:"):
        return _from_timm(str(path), model)
    path = Path(path)
    if _adapters_alone(path):
        return load_adapters(_base_of(path) if model is None else model, path)
    return _load(model, path)[0]


def load_weights(model: nn.Module, path: Path) -> LoadReport:
    """Load what ``path`` holds, a file or a folder, into ``model``; adapters in it are attached.

    Raises ``WeightsError`` if it cannot be read, does not fit, or holds adapters alone.
    """
    if _adapters_alone(path):
        raise WeightsError(f"{path} holds adapters but no trunk; give the weights they were trained on instead.")
    return _load(model, path)[1]


def _from_timm(name: str, model: nn.Module | None) -> nn.Module:
    made = create_encoder(name.removeprefix("timm:"), init=name)[0] if model is None else model
    if model is not None:
        fetched = create_encoder(name.removeprefix("timm:"), init=name)[0]
        fit_tensors(model, fetched.state_dict(), {}, name)
    return made


def _load(model: nn.Module | None, path: Path) -> tuple[nn.Module, LoadReport]:
    state, metadata = find_weights(path)
    made = _model_for(state, metadata, path) if model is None else model
    config = _stored_config(path) if path.is_dir() and any(ADAPTER in name for name in state) else None
    attached = config is not None and not has_adapters(made)
    if attached:
        attach_adapters(made, config)
    try:
        report = fit_tensors(made, state, metadata, str(path))
    except MsipError:
        if attached:
            detach_adapters(made)
        raise
    if (path / ADAPTER_FILE).is_file():
        load_adapters(made, path)
    return made, report


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
    from pad.checkpoints import STATE, newest_checkpoint, read_checkpoint

    single = (path / STATE).is_file()
    checkpoint = read_checkpoint(path) if single else newest_checkpoint(path)[0]
    if checkpoint is None:
        raise WeightsError(
            f"{path} holds no weights ({ENCODER_FILE}, {ADAPTER_FILE} or a run's checkpoints); give a run, an exported "
            "folder or a weights file."
        )
    options = _run_options(_run_of(path))
    return checkpoint.model, {name: str(options[name]) for name in ("model", "image_size") if options.get(name)}


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


def _adapters_alone(path: Path) -> bool:
    """Whether ``path`` holds adapters and nothing that they sit on."""
    if path.is_dir():
        from pad.checkpoints import STATE, list_checkpoints

        trunk = (
            any((path / name).is_file() for name in (ENCODER_FILE, STATE)) or _hub_file(path) or list_checkpoints(path)
        )
        return (path / ADAPTER_FILE).is_file() and not trunk
    return path.suffix == ".safetensors" and path.is_file() and all(ADAPTER in name for name in read_weights(path)[0])


def _base_of(path: Path) -> nn.Module:
    """The base model that saved adapters name, with its weights. Raises ``WeightsError`` if they name none."""
    file = path / ADAPTER_FILE if path.is_dir() else path
    record = read_record(file, read_weights(file)[1])
    init = record.get("init") or _run_options(file.parent).get("init")
    if not record.get("model") or not init:
        raise WeightsError(
            f"{path} holds adapters of {record.get('model') or 'an unnamed model'} without its weights; create that "
            "model with its weights and pass it as model=."
        )
    height, width = record.get("image_size") or (224, 224)
    channels = record.get("in_chans") or 3
    return create_encoder(record["model"], init=init, image_size=(height, width), in_chans=channels)[0]


def base_weights_of(path: Path) -> str | None:
    """The base weights that the adapters at ``path``, or the run there, name; None if they name none."""
    file = path / ADAPTER_FILE if path.is_dir() else path
    if file.is_file() and (path.is_dir() or _adapters_alone(path)):
        return read_record(file, read_weights(file)[1]).get("init")
    options = _run_options(_run_of(path)) if path.is_dir() else {}
    return lasting_init(options["model"], options["init"]) if options.get("init") else None


def _stored_config(folder: Path) -> PadConfig | None:
    """The ``PadConfig`` written beside the weights of a folder, in adapter.json or run.yaml."""
    file = folder / ADAPTER_FILE
    if file.is_file():
        return recorded_config(read_record(file, read_weights(file)[1]), file)
    options, names = _run_options(_run_of(folder)), ("down_size", "scale", "fusion")
    if any(name not in options for name in names):
        return None
    return PadConfig(**{name: options[name] for name in names}, blocks=options.get("blocks"))


def _run_of(path: Path) -> Path:
    """The run that a folder is, or that a checkpoint's folder (RUN/checkpoints/step-*) is of."""
    from pad.checkpoints import STATE

    return path.resolve().parents[1] if (path / STATE).is_file() else path


def _run_options(folder: Path) -> dict[str, Any]:
    """The options in RUN/run.yaml, empty where there is none."""
    from pad.config import read_run

    return dict((read_run(folder) or {}).get("config", {}))


def _model_for(state: State, metadata: dict[str, str], source: Path) -> nn.Module:
    """A model of the shape of the weights: by the name stored with them, else a plain ViT recognised by its shapes."""
    encoder = take_apart(state, source).encoder
    depth, channels = depth_of(encoder), encoder["patch_embed.proj.weight"].shape[1]
    name = metadata.get("model") or _plain_name(encoder, depth, source)
    size = image_size_of(metadata) or _square_size(encoder, source)
    return create_encoder(name, init="random", image_size=size, in_chans=channels, depth=depth)[0]


def _plain_name(encoder: State, depth: int, source: Path) -> str:
    width, _, patch, _ = encoder["patch_embed.proj.weight"].shape
    odd = any(".ls1." in name or ".gamma_" in name or name in ("reg_token", "dist_token") for name in encoder)
    plain = not odd and "cls_token" in encoder and "pos_embed" in encoder
    name = f"vit_{_PLAIN.get((width, depth))}_patch{patch}_224"
    if not plain or not timm.is_model(name):
        raise ModelError(
            f"{source} does not say which model it is for (width {width}, {depth} blocks, patches of {patch} px); pass "
            "load_encoder(path, timm.create_model(...))."
        )
    return name


def _square_size(encoder: State, source: Path) -> int:
    """Pixels of a side, from the number of position embeddings; 224 for a model without."""
    if "pos_embed" not in encoder:
        return 224
    count = encoder["pos_embed"].shape[1]
    for prefix in (1, 0, 2, 5):  # class token; none; and distillation token; and four registers
        side = int(max(0, count - prefix) ** 0.5)
        if side and side * side == count - prefix:
            return side * int(encoder["patch_embed.proj.weight"].shape[-1])
    raise ModelError(f"{source} has {count} position embeddings, no square grid; pass the model as model=.")
