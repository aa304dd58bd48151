"""timm ViTs, and weights in the layouts people have."""

from __future__ import annotations

import difflib
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from msip.errors import ModelError, RunError, WeightsError
from pad.adapters import ADAPTER, PadConfig, attach_adapters, blocks_of, has_adapters, load_adapters
from pad.encoders.layouts import Parts, take_apart

__all__ = ["LoadReport", "create_encoder", "load_encoder", "load_weights", "read_tensors"]


@dataclass
class LoadReport:
    """How weights met a model.

    Attributes:
        missing: tensors of the model that the file lacks, adapters not counted.
        unexpected: tensors of the file that the model lacks.
        reshaped: tensors that were resampled, as ``name: shape -> shape``.
        head: tensors of a method's head that came along, e.g. MAE's decoder.
        layout: of the file.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    head: dict[str, Tensor] = field(default_factory=dict)
    layout: str = ""


def create_encoder(
    model_name: str, *, init: str, image_size: int | tuple[int, int], in_chans: int = 3
) -> tuple[nn.Module, LoadReport]:
    """A timm ViT without classifier, for images of ``image_size`` pixels.

    Args:
        model_name: timm's name.
        init: ``random``, ``timm`` (the model's default weights), ``timm:NAME`` (those of NAME), a file or a folder.
        image_size: side, or (height, width).
        in_chans: channels of the images.

    Raises:
        ModelError: timm does not know the model, or it is no ViT.
        WeightsError: the weights cannot be fetched, read, or do not fit.
    """
    model = _new_model(model_name, image_size, in_chans)
    if init == "random":
        return model, LoadReport()
    if init == "timm" or init.startswith("timm:"):
        tensors = _pretrained(init.partition(":")[2] or model_name)
        return model, _fit(model, take_apart(tensors, init), model_name, init)
    return model, load_weights(model, Path(init), model_name=model_name)


def _new_model(model_name: str, image_size: int | tuple[int, int], in_chans: int) -> nn.Module:
    name = model_name.removeprefix("timm:")
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.split(".")[0], timm.list_models(), 3)
        hint = f"did you mean {' or '.join(close)}?" if close else "see timm.list_models('vit_*')."
        raise ModelError(f"timm knows no model {name!r}; {hint}")
    try:
        model = timm.create_model(name, pretrained=False, num_classes=0, img_size=image_size, in_chans=in_chans)
    except (TypeError, AssertionError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{name} cannot take images of {image_size} pixels ({error}); choose a ViT, and an --image-size that is a "
            "multiple of its patch size."
        ) from error
    blocks_of(model)
    patch, size = model.patch_embed.patch_size, model.patch_embed.img_size
    if any(side % step for side, step in zip(size, patch, strict=True)):
        raise ModelError(
            f"--image-size {image_size} is no multiple of the patches of {name}, {patch[0]} px; choose e.g. "
            f"{max(1, size[0] // patch[0]) * patch[0]}."
        )
    return model


def _pretrained(name: str) -> dict[str, Tensor]:
    """State dict of a timm model with its published weights."""
    if not timm.is_model(name):
        raise ModelError(f"timm knows no model {name!r}; see timm.list_models(pretrained=True).")
    try:
        return dict(timm.create_model(name, pretrained=True, num_classes=0).state_dict())
    except Exception as error:  # whatever the download layers raise
        first = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise WeightsError(
            f"the weights of {name} cannot be fetched ({first[:160]}); give a file with --init FILE, or --init random."
        ) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors or torch file, on the CPU; nothing in the file is executed.

    Raises ``WeightsError`` for a file that is absent, broken, empty, or a pickle that wants to run code.
    """
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; give a weights file, a run folder, timm:NAME or random.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is a pickle that holds more than tensors and could run code; it is not opened: save its "
            "state_dict alone, best as safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path} is no readable weights file ({type(error).__name__}); get it again.") from error
    while isinstance(content, dict) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = next((content[key] for key in ("model", "state_dict", "teacher") if key in content), None)
        if inner is None:
            break
        content = inner
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, dict) else {}
    if not tensors:
        raise WeightsError(f"{path} holds no tensors by name; give a file with a state_dict.")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def load_weights(model: nn.Module, path: Path, *, model_name: str = "") -> LoadReport:
    """Load a file or folder into ``model``; adapters in it are loaded if the model has any. Raises ``WeightsError``."""
    if path.is_dir():
        return _fit(model, Parts(_run_tensors(path), layout="this project's run"), model_name, str(path))
    return _fit(model, take_apart(read_tensors(path), str(path)), model_name, str(path))


def _fit(model: Any, parts: Parts, model_name: str, where: str) -> LoadReport:
    own = model.state_dict()
    report = LoadReport(head=parts.head, layout=parts.layout)
    fitted = {}
    for name, tensor in parts.encoder.items():
        if name not in own:
            report.unexpected.append(name)
            continue
        if tensor.shape != own[name].shape:
            resampled = _resampled(model, name, tensor, own[name])
            if resampled is None:
                raise WeightsError(
                    f"{where}: {name} is {tuple(tensor.shape)}, but {model_name or type(model).__name__} needs "
                    f"{tuple(own[name].shape)}; choose the --model these weights are for."
                )
            report.reshaped.append(f"{name}: {tuple(tensor.shape)} -> {tuple(resampled.shape)}")
            tensor = resampled  # noqa: PLW2901
        fitted[name] = tensor
    report.missing = [name for name in own if name not in fitted and ADAPTER not in name]
    if not fitted or len(report.missing) > len(own) // 2:
        raise WeightsError(f"{where} has none or few of the tensors of {model_name}; is it a checkpoint of another model?")
    model.load_state_dict(fitted, strict=False)
    return report


def _resampled(model: Any, name: str, tensor: Tensor, like: Tensor) -> Tensor | None:
    """Positions on another grid, or patch embeddings of another number of channels; ``None`` if neither."""
    if name == "pos_embed" and tensor.ndim == 3 and tensor.shape[-1] == like.shape[-1]:
        prefix = 0 if model.no_embed_class else model.num_prefix_tokens
        side = round((tensor.shape[1] - prefix) ** 0.5)
        if side * side != tensor.shape[1] - prefix:
            return None
        grid = list(model.patch_embed.grid_size)
        return resample_abs_pos_embed(tensor, grid, [side, side], num_prefix_tokens=prefix)
    if name == "patch_embed.proj.weight" and tensor.ndim == 4 and tensor.shape[0] == like.shape[0]:
        if tensor.shape[2:] == like.shape[2:] and like.shape[1] == 1:  # a grey image through RGB weights
            return tensor.sum(dim=1, keepdim=True)
    return None


def load_encoder(path: str | Path, model: nn.Module | None = None) -> nn.Module:
    """A timm model, with adapters where the weights have them.

    Args:
        path: a run of ``msip pretrain``, a file in any known layout, or ``timm:NAME``.
        model: what to load into; needed for a bare file, made from the run's configuration otherwise. A plain model
            gets adapters when the weights bring them.

    Raises:
        WeightsError, ModelError, RunError: as their sentences say.
    """
    text = str(path)
    if text.startswith("timm:"):
        name = text.removeprefix("timm:")
        return _into(model, _pretrained(name), name, text)
    path = Path(path)
    if path.is_dir():
        return _load_run(path, model)
    if model is None:
        raise ModelError(f"{path} does not say which model it is for; pass load_encoder(path, timm.create_model(...)).")
    parts = take_apart(read_tensors(path), text)
    _attach_as(model, parts.encoder)
    _fit(model, parts, type(model).__name__, text)
    return model


def _into(model: nn.Module | None, tensors: dict[str, Tensor], name: str, where: str) -> nn.Module:
    if model is None:
        model = timm.create_model(name, pretrained=False, num_classes=0)
    _fit(model, take_apart(tensors, where), name, where)
    return model


def _load_run(run: Path, model: nn.Module | None) -> nn.Module:
    file = run / "run.yaml"
    if not file.is_file():
        raise RunError(f"{run} holds no run.yaml; give a run folder of `msip pretrain`, or a weights file.")
    config = yaml.safe_load(file.read_text())["config"]
    if model is None:
        model = _new_model(config["model"], config["image_size"], 3)
    tensors = _run_tensors(run)
    if any(ADAPTER in name for name in tensors) and not has_adapters(model):
        attach_adapters(model, PadConfig(config["down_size"], config["scale"], config["fusion"]))
    _fit(model, Parts(tensors, layout="this project's run"), config["model"], str(run))
    if (run / "adapter.safetensors").is_file() and has_adapters(model):
        load_adapters(model, run / "adapter.safetensors")
    return model


def _run_tensors(run: Path) -> dict[str, Tensor]:
    """The encoder of a run: what no step changed, and its newest whole checkpoint."""
    if (run / "encoder.safetensors").is_file():
        return read_tensors(run / "encoder.safetensors")
    from pad.checkpoints import newest_checkpoint

    checkpoint, _ = newest_checkpoint(run)
    if checkpoint is None:
        raise RunError(f"{run} has no checkpoint yet; let `msip pretrain --resume auto --out {run}` finish a step.")
    return take_apart(checkpoint.model, str(run)).encoder


def _attach_as(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Attach adapters of the widths and kind that ``tensors`` have, if they have any and the model has none."""
    names = [name for name in tensors if ADAPTER in name]
    if not names or has_adapters(model):
        return
    down = next(tensors[name] for name in names if name.endswith(".down.weight"))
    predictor = next((tensors[name] for name in names if name.endswith(".scale_predictor.weight")), None)
    blocks = tuple(sorted({int(name.split(".")[1]) for name in names}))
    if predictor is None:
        attach_adapters(model, PadConfig(down.shape[0], "fixed", blocks=blocks))
        return
    # sum, side and gside have predictors of one shape: the file cannot tell them apart, a run folder can
    fusion = "concat" if predictor.shape[1] == 2 * down.shape[1] else "sum"
    attach_adapters(model, PadConfig(down.shape[0], "patchwise", fusion, blocks=blocks))  # type: ignore[arg-type]
