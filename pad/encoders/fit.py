"""Tensors of any known layout into a timm ViT; what found its place, and what did not, is reported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from msip.errors import MsipError, WeightsError
from pad.adapters.attach import ADAPTER, attach_adapters, detach_adapters, has_adapters
from pad.adapters.files import architecture_of, fit_adapters
from pad.encoders.layouts import (
    Parts,
    adapter_config,
    decoder_learnt_normalised_pixels,
    depth_of,
    take_apart,
)
from pad.encoders.stored import StoredWeights, read_stored
from pad.weights.files import State

UNUSED = ("head.", "head_dist.", "fc_norm.", "attn_pool.")
"""Parts of a timm ViT after ``forward_features``: neither loaded from files with care nor trained here."""

CONSTANTS = ("relative_position_index",)
"""Ends of names in a block that hold nothing learnt; BEiT's files have them, timm makes them anew."""


@dataclass
class LoadReport:
    """What loading weights did.

    Attributes:
        source: where the weights came from; ``layout``: how they were named there.
        missing: tensors of the encoder that the source lacks; they keep their initial values. Adapters not counted.
        unexpected: tensors of the source that the encoder has no place for.
        reshaped: tensors that were resampled or converted, as ``name: shape -> shape``.
        head: tensors of a pre-training head that came along, e.g. MAE's decoder, for ``Method.load_head``.
        norm_pix_loss: whether that decoder learnt normalised pixels; None where nothing says so.
    """

    source: str = ""
    layout: str = ""
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    head: State = field(default_factory=dict, repr=False)
    norm_pix_loss: bool | None = None


def load_weights(model: nn.Module, path: Path) -> LoadReport:
    """Load what ``path`` holds, a file or a folder, into ``model``; adapters in it are attached.

    Raises ``WeightsError`` if it cannot be read, does not fit, or holds adapters alone.
    """
    stored = read_stored(path)
    if not stored.state:
        raise WeightsError(f"{path} holds adapters but no trunk; give the weights they were trained on instead.")
    return fit_stored(model, stored)


def fit_stored(model: nn.Module, stored: StoredWeights) -> LoadReport:
    """Load a stored trunk, and the adapters beside it or in it. Raises ``WeightsError``."""
    config = stored.config
    attached = config is not None and not has_adapters(model)
    if attached:
        attach_adapters(model, config)
    try:
        report = fit_tensors(model, stored.state, stored.metadata, str(stored.path))
    except MsipError:
        if attached:
            detach_adapters(model)
        raise
    if stored.adapters is not None:
        fit_adapters(model, stored.adapters)
    return report


def fit_tensors(model: Any, state: State, metadata: dict[str, str], source: str) -> LoadReport:
    """Load tensors of any known layout into ``model``, adapters attached where they bring some.

    Position embeddings are resampled to the model's grid, the patch embedding is converted to its channels. Raises
    ``WeightsError`` for another width, depth or patch size, and for blocks with other parts; the model is unchanged
    then.
    """
    parts = take_apart(state, source)
    report = LoadReport(source=source, layout=parts.layout, head=parts.head)
    report.norm_pix_loss = decoder_learnt_normalised_pixels(parts, metadata, source)
    fitted = _fitted(model, parts, metadata, report)
    bare = not has_adapters(model)
    config = adapter_config(parts.encoder, source) if bare else None
    if config is not None:
        attach_adapters(model, config)
    try:
        _refuse_odd_adapters(model, fitted, source)
    except WeightsError:
        if bare:
            detach_adapters(model)
        raise
    model.load_state_dict(fitted, strict=False)
    return report


def _fitted(model: Any, parts: Parts, metadata: dict[str, str], report: LoadReport) -> State:
    """The encoder's tensors in the model's shapes; what does not belong there goes to the report."""
    own, found = model.state_dict(), depth_of(parts.encoder)
    if found != len(model.blocks):
        raise WeightsError(
            f"{report.source} has {found} blocks, {_name(model)} has {len(model.blocks)}; choose the `model` these "
            "weights are for."
        )
    fitted: State = {}
    for name, tensor in _without_class_position(model, parts.encoder, report).items():
        if ADAPTER in name:
            fitted[name] = tensor
        elif name in own:
            fitted[name] = _reshaped(model, name, tensor, own[name], metadata, report)
        else:
            report.unexpected.append(name)
    report.missing = [n for n in own if n not in fitted and ADAPTER not in n and not n.startswith(UNUSED)]
    holes = [name for name in report.missing if name.startswith("blocks.")]
    if holes:  # a trunk that is partly random is no pretrained trunk
        raise WeightsError(
            f"{report.source} lacks {len(holes)} tensors of the blocks of {_name(model)}, e.g. {holes[0]}; choose the "
            "`model` these weights are for."
        )
    _refuse_left_out(model, report)
    return fitted


def _refuse_left_out(model: Any, report: LoadReport) -> None:
    """Blocks that lose a part of theirs, a layer scale or a position bias, would give other features, unseen."""
    lost = [n for n in report.unexpected if n.startswith("blocks.") and not n.endswith(CONSTANTS)]
    if lost:
        raise WeightsError(
            f"{report.source} has {len(lost)} tensors in its blocks that {_name(model)} has no place for, e.g. "
            f"{lost[0]}; choose the `model` these weights are for."
        )


def _without_class_position(model: Any, encoder: State, report: LoadReport) -> State:
    """For a model whose class token has no position of its own (DINOv2 with registers in timm): added to the token."""
    places, token = encoder.get("pos_embed"), encoder.get("cls_token")
    if not getattr(model, "no_embed_class", False) or places is None or token is None or places.ndim != 3:
        return encoder
    patches = places.shape[1] - 1
    if places.shape == model.pos_embed.shape or round(patches**0.5) ** 2 != patches:
        return encoder
    report.reshaped.append("cls_token: its position embedding added")
    return {**encoder, "cls_token": token + places[:, :1], "pos_embed": places[:, 1:]}


def _reshaped(
    model: Any, name: str, tensor: Tensor, own: Tensor, metadata: dict[str, str], report: LoadReport
) -> Tensor:
    fitted = tensor
    if name == "pos_embed" and tensor.ndim == 3 and tensor.shape[-1] == own.shape[-1]:
        fitted = _resampled(model, tensor, own, metadata)
    elif name == "patch_embed.proj.weight" and tensor.ndim == 4 and tensor.shape[1] == 3 != own.shape[1]:
        fitted = adapt_input_conv(own.shape[1], tensor)
    if fitted.shape != own.shape:
        raise WeightsError(
            f"{report.source}: {name} is {tuple(tensor.shape)}, but {_name(model)} needs {tuple(own.shape)}; choose "
            "the `model` these weights are for."
        )
    if fitted is not tensor:
        report.reshaped.append(f"{name}: {tuple(tensor.shape)} -> {tuple(own.shape)}")
    return fitted


def _resampled(model: Any, tensor: Tensor, own: Tensor, metadata: dict[str, str]) -> Tensor:
    """Position embedding (1, p + n, D) at the model's grid; ``tensor`` itself where it fits or cannot be made to."""
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    grid, patch, size = model.patch_embed.grid_size, model.patch_embed.patch_size, image_size_of(metadata)
    if size:
        old = (size[0] // patch[0], size[1] // patch[1])
    elif tensor.shape == own.shape:
        return tensor
    else:
        side = int(max(0, tensor.shape[1] - prefix) ** 0.5)
        old = (side, side)
    if old == tuple(grid) or tensor.shape[1] != prefix + old[0] * old[1]:
        return tensor
    return resample_abs_pos_embed(tensor, new_size=list(grid), old_size=list(old), num_prefix_tokens=prefix)


def size_text(model: Any) -> str:
    """``image_size`` of safetensors metadata: height x width in pixels, as ``image_size_of`` reads it."""
    return "x".join(map(str, model.patch_embed.img_size or ()))


def image_size_of(metadata: dict[str, str]) -> tuple[int, int] | None:
    """``image_size`` of safetensors metadata, ``224`` or ``64x96``, as (height, width) in pixels."""
    parts = metadata.get("image_size", "").split("x")
    return (int(parts[0]), int(parts[-1])) if all(part.isdecimal() for part in parts) else None


def _refuse_odd_adapters(model: Any, fitted: State, source: str) -> None:
    own = model.state_dict()
    for name in (name for name in fitted if ADAPTER in name):
        if name not in own or own[name].shape != fitted[name].shape:
            raise WeightsError(
                f"{source} holds adapters of another kind than the model's, see {name}; attach adapters of its "
                "PadConfig, or none."
            )


def _name(model: nn.Module) -> str:
    return architecture_of(model) or type(model).__name__
