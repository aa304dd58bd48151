"""``load_encoder``: whatever people have, a run, an exported folder or a checkpoint, to a timm ViT with adapters."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import nn

from msip.errors import ModelError, WeightsError
from pad.adapters.files import SavedAdapters, fit_adapters
from pad.encoders.create import create_encoder, lasting_init
from pad.encoders.fit import fit_stored, fit_tensors, image_size_of
from pad.encoders.layouts import depth_of, take_apart
from pad.encoders.stored import StoredWeights, read_stored
from pad.weights.files import State

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
    named = str(path).startswith("timm:")
    loaded = _from_timm(str(path), model) if named else fill(read_stored(Path(path)), model)
    return loaded.eval() if model is None else loaded


def fill(stored: StoredWeights, model: nn.Module | None = None) -> nn.Module:
    """A timm ViT, ``model`` or one that is made, with stored weights; the errors are those of ``load_encoder``."""
    if stored.adapters is not None and not stored.state:
        return fit_adapters(_base_of(stored, stored.adapters) if model is None else model, stored.adapters)
    made = _model_for(stored) if model is None else model
    fit_stored(made, stored)
    return made


def _from_timm(name: str, model: nn.Module | None) -> nn.Module:
    made = create_encoder(name.removeprefix("timm:"), init=name)[0] if model is None else model
    if model is not None:
        fetched = create_encoder(name.removeprefix("timm:"), init=name)[0]
        fit_tensors(model, fetched.state_dict(), {}, name)
    return made


def _base_of(stored: StoredWeights, adapters: SavedAdapters) -> nn.Module:
    """The base model that saved adapters name, with its weights. Raises ``WeightsError`` if they name none."""
    record = adapters.record
    init = record.get("init") or stored.options.get("init")
    if not record.get("model") or not init:
        raise WeightsError(
            f"{stored.path} holds adapters of {record.get('model') or 'an unnamed model'} without its weights; create "
            "that model with its weights and pass it as model=."
        )
    height, width = record.get("image_size") or (224, 224)
    channels = record.get("in_chans") or 3
    return create_encoder(record["model"], init=init, image_size=(height, width), in_chans=channels)[0]


def base_weights(stored: StoredWeights) -> str | None:
    """The base weights that stored adapters, or the run that they are of, name; None if they name none."""
    if stored.adapters is not None:
        return stored.adapters.record.get("init")
    options = stored.options
    return lasting_init(options["model"], options["init"]) if options.get("init") else None


def _model_for(stored: StoredWeights) -> nn.Module:
    """A model of the shape of the weights: by the name stored with them, else a plain ViT recognised by its shapes."""
    source, metadata = stored.path, stored.metadata
    encoder = take_apart(stored.state, source).encoder
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
