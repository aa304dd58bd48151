"""timm ViTs with weights from timm, from a file, or random; what was loaded is reported, never guessed over."""

from __future__ import annotations

import difflib
from pathlib import Path
from textwrap import shorten
from typing import Any

import timm
from timm.layers import PatchEmbed
from timm.models import PretrainedCfg
from torch import nn

from msip.errors import ModelError, WeightsError
from pad.adapters.attach import blocks_of
from pad.encoders.fit import LoadReport, load_weights


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
        ModelError: timm does not know the model or the tag of its name, or it is no plain ViT, or the image size does
            not fit its patches.
        WeightsError: the weights cannot be fetched, read, or do not fit.
    """
    init = str(init)
    check_name(model_name)
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
    return model, load_weights(model, Path(init))


def _pretrained_name(model_name: str, init: str) -> str:
    name = init.removeprefix("timm").removeprefix(":") or model_name
    architecture = name.split(".")[0]
    if architecture != model_name.split(".", maxsplit=1)[0]:
        raise WeightsError(
            f"`init={init}` is of {architecture}, the model is {model_name}; give `model={architecture}`."
        )
    return name


def check_name(name: str) -> None:
    """Raise ``ModelError`` where timm has no model of that name, or has it, but no weights of the name's tag."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(name):
        close = difflib.get_close_matches(architecture, timm.list_models(), 3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models('vit_*')."
        raise ModelError(f"timm knows no model {name!r}; {hint}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        others = timm.list_pretrained(f"{architecture}.*")
        advice = f"; choose one of {', '.join(others)}" if others else ", nor any others; leave the tag out"
        raise ModelError(f"timm has no weights {tag!r} of {architecture}{advice}.") from None


def _create(name: str, options: dict[str, Any], *, pretrained: bool = False) -> Any:
    check_name(name)
    try:
        model = timm.create_model(name, **options)  # before any download: the arguments are looked at first
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        blocks_of(timm.create_model(name))
        reason = " ".join(str(error).split())
        raise ModelError(f"{name} cannot be made for {options} ({reason:.150}); choose another ViT or size.") from error
    blocks_of(model)
    _check_patches(model, name)
    _check_size(model, name, options["img_size"])
    return _fetch(name, options) if pretrained else model


def _check_patches(model: Any, name: str) -> None:
    """Masks, crops and feature maps need patches of known size: no convolutions before them, no packed sequences."""
    embedding = getattr(model, "patch_embed", None)
    if not isinstance(embedding, PatchEmbed):
        kind = type(embedding)
        found = (
            "it has no patch_embed" if embedding is None else f"its patches come from {kind.__module__}.{kind.__name__}"
        )
        raise ModelError(f"{name} is no plain ViT ({found}); choose another one, e.g. vit_base_patch16_224.")


def _check_size(model: Any, name: str, image_size: int | tuple[int, int]) -> None:
    size, patch = model.patch_embed.img_size, model.patch_embed.patch_size
    if size and any(side % step for side, step in zip(size, patch, strict=True)):
        nearest = max(1, size[0] // patch[0]) * patch[0]
        raise ModelError(
            f"`image_size={image_size}` is no multiple of the patches of {name}, {patch[0]} px; choose e.g. {nearest}."
        )


def _fetch(name: str, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # whatever the download layers raise
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        reason = shorten(first, 160, placeholder=" ...")
        raise WeightsError(
            f"the weights timm:{name} cannot be fetched ({reason}); give `init=FILE`, or `init=random`."
        ) from error


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
