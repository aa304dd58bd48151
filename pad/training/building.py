"""The SSL method around its encoder: starting weights, adapters and teacher, and what of them found no place."""

from __future__ import annotations

import logging
from typing import Any

import torch
from pydantic import ValidationError

from msip.errors import RunError
from pad.adapters.attach import attach_adapters, config_of, has_adapters
from pad.adapters.bottleneck import PadConfig
from pad.config.options import explain, option, suggestion
from pad.config.presets import PRESETS
from pad.config.pretraining import RUN_FILE, PretrainConfig, over_preset
from pad.encoders import LoadReport, create_encoder
from pad.encoders.layouts import ENCODER
from pad.encoders.stored import run_state
from pad.encoders.tokens import grid_size
from pad.methods import MILAN, Method, methods
from pad.methods.teacher import EXAMPLE, FrozenTeacher, TeacherOptions, load_teacher
from pad.training.paradigms import PARADIGMS, prepare_encoder

_log = logging.getLogger(__name__)

LISTED = 10  # so many names are printed; longer lists are in run.yaml
ADAPTER_OPTIONS = ("down_size", "scale", "fusion", "blocks")


def complete(config: PretrainConfig, *, load: bool = True) -> PretrainConfig:
    """Return the options of a run with all that its method adds: recipe, preset of its name, checked own options.

    ``load`` as for ``build_method``. Raises ``RunError`` for names that are none, and options that do not go together.
    """
    known = methods()
    upstream = config.preset if config.preset in known and config.preset not in PRESETS else None
    if config.preset is not None and config.preset not in PRESETS and upstream is None:
        raise RunError(f"`preset` is {config.preset!r}; choose one of {', '.join([*PRESETS, *known])}.")
    name = upstream if upstream and "method" not in config.explicit else config.method
    if name not in known:
        raise RunError(f"there is no method {name!r}; choose one of {', '.join(known)}.")
    if config.paradigm not in PARADIGMS:
        raise RunError(f"there is no paradigm {config.paradigm!r}; choose one of {', '.join(PARADIGMS)}.")
    if load and config.preset == "pad-milan" and config.init is None and config.paradigm != "scratch":
        raise RunError(
            "`preset=pad-milan` starts from MILAN's weights, which timm does not have; give `init`, a file, e.g. "
            f"MMSelfSup's {MILAN.published}, as in the paper."
        )
    given = {field: getattr(config, field) for field in config.model_fields_set - {"options"}} | config.options
    preset = known[upstream].upstream if upstream else {}
    values = {**known[name].recipe, **over_preset(preset, given), "method": name}
    own = {option: values.pop(option) for option in list(values) if option not in PretrainConfig.model_fields}
    try:
        options = known[name].options(**_taken(own, name, config)).model_dump()
    except ValidationError as error:
        raise RunError(explain(error)) from None
    return PretrainConfig(**values, options=options).asked_as(config)


def _taken(own: dict[str, Any], method: str, config: PretrainConfig) -> dict[str, Any]:
    """Return the options that ``method`` has; another method's may stand there with the value it has by default.

    So they do in the ``run.yaml`` of version 0.1, and where a preset serves several methods. Raises ``RunError``.
    """
    everyones = [other.options.model_fields for other in methods().values()]
    for name in sorted(own.keys() - methods()[method].options.model_fields.keys()):
        defaults = [fields[name].default for fields in everyones if name in fields]
        if not defaults:
            known = set(PretrainConfig.model_fields).union(*everyones) - {"options"}
            raise RunError(f"there is no option {name!r}{suggestion(name, known)}")
        if name in config.explicit and own[name] not in [*defaults, PRESETS.get(config.preset or "", {}).get(name)]:
            raise RunError(f"`method={method}` has no `{name}`; leave it out.")
    return {name: value for name, value in own.items() if name in methods()[method].options.model_fields}


def build_method(config: PretrainConfig, *, load: bool = True) -> tuple[Method, dict[str, Any]]:
    """The SSL method around its encoder, and what became of the initial weights, for run.yaml.

    ``load=False`` where a checkpoint brings the weights. Raises ``MsipError``.
    """
    config = complete(config, load=load)
    options = dict(config.options)
    torch.manual_seed(config.seed)
    init = init_of(config) if load else "random"
    for source in (init, options.get("teacher")) if load else ():
        for sentence in run_state(source) if source else ():
            _log.warning(sentence)
    encoder, report = create_encoder(config.model, init=init, image_size=config.image_size)
    if PARADIGMS[config.paradigm].adapters:
        adapters = PadConfig(config.down_size, config.scale, config.fusion, blocks=config.blocks)
        if has_adapters(encoder):
            _check_loaded_adapters(config, adapters, config_of(encoder), report.source)
        else:
            attach_adapters(encoder, adapters)
    if issubclass(methods()[config.method].options, TeacherOptions):
        normalisation = options.pop("teacher_normalisation")
        options["teacher"] = _teacher(config.method, options["teacher"], normalisation, encoder, load=load)
    method = methods()[config.method](encoder, **options)
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


def _teacher(method: str, source: str | None, normalisation: str, encoder: Any, *, load: bool) -> FrozenTeacher:
    if source is None:
        raise RunError(
            f"`method={method}` learns from a frozen teacher; give `teacher`, a file or timm's name, e.g. {EXAMPLE}."
        )
    return load_teacher(source, grid=grid_size(encoder), normalisation=normalisation, weights=load)


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
    if report.norm_pix_loss is not None and report.norm_pix_loss != getattr(
        method, "norm_pix_loss", report.norm_pix_loss
    ):
        learnt, here, other = ("normalised", "off", "True") if report.norm_pix_loss else ("raw", "on", "False")
        _log.warning(
            f"the decoder of {report.source} learnt to paint {learnt} pixels, here their normalisation is {here}; "
            f"give `norm_pix_loss={other}`, or other weights."
        )
