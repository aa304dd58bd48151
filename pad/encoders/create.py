"""timm ViTs with weights from timm, from a file, or random; what was loaded is reported, never guessed over."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from timm.layers import resample_abs_pos_embed
from timm.models import PretrainedCfg, adapt_input_conv
from torch import Tensor, nn

from msip.errors import ModelError, WeightsError
from pad.adapters import ADAPTER, architecture_of, attach_adapters, blocks_of, detach_adapters, has_adapters
from pad.encoders.layouts import (
    Parts,
    State,
    adapter_config,
    decoder_learnt_normalised_pixels,
    depth_of,
    take_apart,
)

UNUSED = ("head.", "head_dist.", "fc_norm.", "attn_pool.")
"""Parts of a timm ViT after ``forward_features``: neither loaded from files with care nor trained here."""


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


def create_encoder(
    model_name: str,
    *,
    init: str | Path = "timm",
    image_size: int | tuple[int, int] = 224,
    in_chans: int = 3,
    depth: int | None = None,
) -> tuple[nn.Module, LoadReport]:
    """A timm ViT without classifier, and what was loaded into it.

    Args:
        model_name: timm's name.
        init: ``random``, ``timm`` (the model's own pretrained weights), ``timm:NAME`` (those of NAME, the same
            architecture), a file or a folder. Adapters in a file are attached.
        image_size: side in pixels, or (height, width); position embeddings are resampled to it.
        in_chans: channels of the images.
        depth: another number of blocks than the model has, for weights that have it.

    Raises:
        ModelError: timm does not know the model, or it is no ViT, or the image size does not fit its patches.
        WeightsError: the weights cannot be fetched, read, or do not fit.
    """
    init = str(init)
    options: dict[str, Any] = {"num_classes": 0, "img_size": image_size, "in_chans": in_chans}
    if depth is not None:
        options["depth"] = depth
    if init == "timm" or init.startswith("timm:"):
        name = _pretrained_name(model_name, init)
        model = _create(name, options, pretrained=True)
        return model, LoadReport(source=f"timm:{name}", layout="timm")
    model = _create(model_name, options)
    if init == "random":
        return model, LoadReport(source="random")
    from pad.encoders.load import load_weights

    return model, load_weights(model, Path(init))


def _pretrained_name(model_name: str, init: str) -> str:
    name = init.removeprefix("timm").removeprefix(":") or model_name
    architecture = name.split(".")[0]
    if architecture != model_name.split(".", maxsplit=1)[0]:
        raise WeightsError(
            f"--init {init} is of {architecture}, the model is {model_name}; give --model {architecture}."
        )
    return name


def _create(name: str, options: dict[str, Any], *, pretrained: bool = False) -> Any:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".", maxsplit=1)[0], timm.list_models(), 3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models('vit_*')."
        raise ModelError(f"timm knows no model {name!r}; {hint}")
    try:
        model = timm.create_model(name, **options)  # before any download: the arguments are looked at first
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        blocks_of(timm.create_model(name))
        reason = " ".join(str(error).split())
        raise ModelError(f"{name} cannot be made for {options} ({reason:.150}); choose another ViT or size.") from error
    blocks_of(model)
    _check_size(model, name, options["img_size"])
    return _fetch(name, options) if pretrained else model


def _check_size(model: Any, name: str, image_size: int | tuple[int, int]) -> None:
    size, patch = model.patch_embed.img_size, model.patch_embed.patch_size
    if size and any(side % step for side, step in zip(size, patch, strict=True)):
        nearest = max(1, size[0] // patch[0]) * patch[0]
        raise ModelError(
            f"--image-size {image_size} is no multiple of the patches of {name}, {patch[0]} px; choose e.g. {nearest}."
        )


def _fetch(name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # whatever the download layers raise
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise WeightsError(
            f"the weights timm:{name} cannot be fetched ({first[:160]}); give --init FILE, or --init random."
        ) from error


def fit_tensors(model: Any, state: State, metadata: dict[str, str], source: str) -> LoadReport:
    """Load tensors of any known layout into ``model``, adapters attached where they bring some.

    Position embeddings are resampled to the model's grid, the patch embedding is converted to its channels. Raises
    ``WeightsError`` for another width, depth or patch size; the model is unchanged then.
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
            f"{report.source} has {found} blocks, {_name(model)} has {len(model.blocks)}; choose the --model these "
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
            "--model these weights are for."
        )
    return fitted


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
            "the --model these weights are for."
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


def lasting_init(model_name: str, init: str) -> str:
    """``init`` as it can be found again later: timm's weights by their full name, a file by its absolute path."""
    if init == "timm":
        return f"timm:{full_name(model_name)}"
    return init if init == "random" or init.startswith("timm:") else str(Path(init).absolute())


def full_name(model_name: str) -> str:
    """timm's name with the tag of its pretrained weights, ``vit_base_patch16_224.augreg2_in21k_ft_in1k``."""
    if "." in model_name or not timm.is_model(model_name):
        return model_name
    tag = (timm.get_pretrained_cfg(model_name) or PretrainedCfg()).tag
    return f"{model_name}.{tag}" if tag else model_name


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
