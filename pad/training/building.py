"""The SSL method around its encoder: starting weights, adapters and teacher, and what of them found no place."""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch

from msip.errors import RunError
from pad.adapters.attach import attach_adapters, config_of, has_adapters
from pad.adapters.bottleneck import PadConfig
from pad.config.options import option
from pad.config.presets import PRESETS
from pad.config.pretraining import RUN_FILE, PretrainConfig
from pad.encoders import LoadReport, create_encoder
from pad.encoders.layouts import ENCODER
from pad.encoders.stored import run_state
from pad.encoders.tokens import grid_size
from pad.methods import METHODS, Method
from pad.methods.teacher import EXAMPLE, FrozenTeacher, load_teacher
from pad.training.paradigms import PARADIGMS, prepare_encoder

_log = logging.getLogger(__name__)

LISTED = 10  # so many names are printed; longer lists are in run.yaml
METHOD_OPTIONS = (
    *("mask_ratio", "norm_pix_loss", "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "teacher"),
    *("out_dim", "local_crops", "local_size", "ema"),
)
ADAPTER_OPTIONS = ("down_size", "scale", "fusion", "blocks")


def check_options(config: PretrainConfig, *, load: bool = True) -> None:
    """Refuse names that are none, and options that do not go together; ``load`` as for ``build_method``.

    Raises ``RunError``.
    """
    method_class = METHODS.get(config.method)
    if method_class is None:
        raise RunError(f"there is no method {config.method!r}; choose one of {', '.join(METHODS)}.")
    taken = inspect.signature(method_class).parameters
    preset = PRESETS.get(config.preset or "", {})
    for name in METHOD_OPTIONS:
        unused = preset.get(name, PretrainConfig.model_fields[name].default)  # as run.yaml then holds it
        if name in config.explicit and name not in taken and getattr(config, name) != unused:
            raise RunError(f"--method {config.method} has no {option(name)}; leave it out.")
    if config.paradigm not in PARADIGMS:
        raise RunError(f"there is no paradigm {config.paradigm!r}; choose one of {', '.join(PARADIGMS)}.")
    if load and config.preset == "pad-milan" and config.init is None and config.paradigm != "scratch":
        raise RunError(
            "--preset pad-milan starts from MILAN's weights, which timm does not have; give --init FILE, e.g. "
            f"MMSelfSup's {METHODS['milan'].published}, as in the paper."
        )


def build_method(config: PretrainConfig, *, load: bool = True) -> tuple[Method, dict[str, Any]]:
    """The SSL method around its encoder, and what became of the initial weights, for run.yaml.

    ``load=False`` where a checkpoint brings the weights. Raises ``MsipError``.
    """
    check_options(config, load=load)
    method_class = METHODS[config.method]
    taken = inspect.signature(method_class).parameters
    torch.manual_seed(config.seed)
    init = init_of(config) if load else "random"
    for source in (init, config.teacher) if load else ():
        for sentence in run_state(source) if source else ():
            _log.warning(sentence)
    encoder, report = create_encoder(config.model, init=init, image_size=config.image_size)
    if PARADIGMS[config.paradigm].adapters:
        adapters = PadConfig(config.down_size, config.scale, config.fusion, blocks=config.blocks)
        if has_adapters(encoder):
            _check_loaded_adapters(config, adapters, config_of(encoder), report.source)
        else:
            attach_adapters(encoder, adapters)
    options = {name: getattr(config, name) for name in METHOD_OPTIONS if name in taken}
    if "teacher" in taken:
        options["teacher"] = _teacher(config, encoder, load=load)
    method = method_class(encoder, **options)
    weights: dict[str, Any] = {}
    if init == "random":
        method.initialise_encoder()
    else:
        weights = _load_head(method, report)
        _warn_of_decoder(method, config, report, weights["missing"])
    prepare_encoder(encoder, config.paradigm, lora_rank=config.lora_rank)
    return method, weights


def _check_loaded_adapters(config: PretrainConfig, wanted: PadConfig, loaded: PadConfig, source: str) -> None:
    """Adapters that came with the weights are trained as they are; an option cannot reshape them."""
    for name in ADAPTER_OPTIONS:
        mine, its = (getattr(adapters, name) or "all" for adapters in (wanted, loaded))
        if name in config.explicit and mine != its:
            raise RunError(
                f"{option(name)} is {mine}, but {source} brings adapters with {its}; leave it out to train those, or "
                "give --init weights without adapters."
            )
    shape = ", ".join(f"{option(name)} {getattr(loaded, name) or 'all'}" for name in ADAPTER_OPTIONS)
    _log.info(f"{source} brings adapters ({shape}), which are trained.")


def as_built(config: PretrainConfig, encoder: Any) -> PretrainConfig:
    """The options with those of the adapters that are there, which may have come with the weights."""
    if not has_adapters(encoder):
        return config
    return config.model_copy(update={name: getattr(config_of(encoder), name) for name in ADAPTER_OPTIONS})


def _teacher(config: PretrainConfig, encoder: Any, *, load: bool) -> FrozenTeacher:
    if config.teacher is None:
        raise RunError(
            f"--method {config.method} learns from a frozen teacher; give --teacher NAME (of timm, e.g. {EXAMPLE}) or "
            "--teacher FILE."
        )
    grid, normalisation = grid_size(encoder), config.teacher_normalisation
    return load_teacher(config.teacher, grid=grid, normalisation=normalisation, weights=load)


def init_of(config: PretrainConfig) -> str:
    """``init``, by default timm's own weights, or none for training from scratch."""
    return config.init or ("random" if config.paradigm == "scratch" else "timm")


def _load_head(method: Method, report: LoadReport) -> dict[str, Any]:
    """Warm-start the decoder where the weights bring one; name every tensor that did not find its place, here too."""
    missing, unexpected, reshaped = list(report.missing), list(report.unexpected), list(report.reshaped)
    tables = {name: tuple(buffer.shape) for name, buffer in method.named_buffers() if not name.startswith(ENCODER)}
    odd = [n for n, tensor in report.head.items() if n in tables and tuple(tensor.shape) != tables[n]]
    reshaped += [f"{name}: made anew, {tables[name]}" for name in odd]  # a fixed table, for another grid
    head_missing, left = method.load_head({name: t for name, t in report.head.items() if name not in odd})
    head_missing = [name for name in head_missing if name not in tables]
    if report.head:
        loaded = len(report.head) - len(left) - len(odd)
        _log.info(f"{report.source}: {loaded} tensors beside the encoder loaded, {len(head_missing)} missing.")
    weights = {"missing": missing + head_missing, "unexpected": unexpected + left, "reshaped": reshaped}
    for what, names in (("missing", missing + head_missing if report.head else missing), *list(weights.items())[1:]):
        if names:
            shown = ", ".join(names if len(names) <= LISTED else names[:3])
            more = "" if len(names) <= LISTED else f" ... (all in {RUN_FILE})"
            _log.info(f"{report.source}: {len(names)} {what} tensors: {shown}{more}.")
    return {"source": report.source, "layout": report.layout, **weights}


def _warn_of_decoder(method: Method, config: PretrainConfig, report: LoadReport, missing: list[str]) -> None:
    """What the weights mean for a head that starts with them, or without them."""
    frozen = [name for name in missing if name.startswith(method.frozen_with_adapters or ("\0",))]
    if frozen and PARADIGMS[config.paradigm].adapters:
        _log.warning(
            f"{report.source} brings no {frozen[0].split('.')[0]}, which --paradigm {config.paradigm} keeps "
            f"frozen as the paper does, so it stays random; better give --init a full {type(method).__name__} file "
            f"with its decoder{f', e.g. {method.published}' if method.published else ''}."
        )
    if (
        report.norm_pix_loss is not None
        and hasattr(method, "norm_pix_loss")
        and (report.norm_pix_loss != config.norm_pix_loss)
    ):
        learnt, flag = ("normalised", "") if report.norm_pix_loss else ("raw", "no-")
        _log.warning(
            f"the decoder of {report.source} learnt to paint {learnt} pixels, this run has norm_pix_loss "
            f"{'on' if config.norm_pix_loss else 'off'}; give --{flag}norm-pix-loss, or other weights."
        )
