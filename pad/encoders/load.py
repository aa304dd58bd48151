"""``load_encoder``: whatever people have, a run, an exported folder or a checkpoint, to a timm ViT with adapters."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from msip.errors import ModelError, WeightsError
from pad.adapters.files import ADAPTER_FILE, load_adapters, read_record
from pad.encoders.create import create_encoder, lasting_init
from pad.encoders.fit import fit_found, fit_tensors, image_size_of
from pad.encoders.layouts import depth_of, take_apart
from pad.encoders.stored import adapters_alone, find_weights, run_of, run_options
from pad.weights.files import State, read_weights

_PLAIN = {(192, 12): "tiny", (384, 12): "small", (768, 12): "base", (1024, 24): "large", (1280, 32): "huge"}


def load_encoder(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A timm ViT with the weights, and adapters if any, found at ``path``, ready for features.

    A model that is made here is in evaluation mode, without dropout; call ``.train()`` to fine-tune it. One that is
    given keeps its mode.

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
    loaded = _load(path, model)
    return loaded.eval() if model is None else loaded


def _load(path: str | Path, model: nn.Module | None) -> nn.Module:
    if str(path).startswith("timm:"):
        return _from_timm(str(path), model)
    path = Path(path)
    if adapters_alone(path):
        return load_adapters(_base_of(path) if model is None else model, path)
    state, metadata = find_weights(path)
    made = _model_for(state, metadata, path) if model is None else model
    fit_found(made, state, metadata, path)
    return made


def _from_timm(name: str, model: nn.Module | None) -> nn.Module:
    made = create_encoder(name.removeprefix("timm:"), init=name)[0] if model is None else model
    if model is not None:
        fetched = create_encoder(name.removeprefix("timm:"), init=name)[0]
        fit_tensors(model, fetched.state_dict(), {}, name)
    return made


def _base_of(path: Path) -> nn.Module:
    """The base model that saved adapters name, with its weights. Raises ``WeightsError`` if they name none."""
    file = path / ADAPTER_FILE if path.is_dir() else path
    record = read_record(file, read_weights(file)[1])
    init = record.get("init") or run_options(file.parent).get("init")
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
    if file.is_file() and (path.is_dir() or adapters_alone(path)):
        return read_record(file, read_weights(file)[1]).get("init")
    options = run_options(run_of(path)) if path.is_dir() else {}
    return lasting_init(options["model"], options["init"]) if options.get("init") else None


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
