"""``msip export-model``: what a run learnt, in the form that others read; every export is read back and compared."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from msip.errors import ModelError, OutputError, WeightsError
from msip.extras import need
from msip.files import atomic_path, make_output_folder, write_json
from pad.adapters.attach import (
    attach_adapters,
    config_of,
    count_adapter_parameters,
    detach_adapters,
    has_adapters,
    trunk_state_dict,
)
from pad.adapters.files import ADAPTER_FILE, architecture_of, load_adapters, save_adapters
from pad.data.grey import INFRARED_MEAN, INFRARED_STD
from pad.encoders import load_encoder, load_weights
from pad.encoders.fit import UNUSED
from pad.encoders.layouts import to_pad_reference
from pad.encoders.load import base_weights, fill
from pad.encoders.stored import read_stored, run_state
from pad.weights.files import save_tensors

_log = logging.getLogger(__name__)

ONNX_FILE, PAD_FILE = "model.onnx", "pad.pth"
ONNX_TOLERANCE = 1e-3
"""Largest absolute difference that onnxruntime may have to PyTorch, in features of unit scale (they are normed)."""

_REFERENCE_BLOCK = ("norm1.", "norm2.", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2.")
_REFERENCE_MODEL = ("cls_token", "pos_embed", "patch_embed.proj.", "norm.")


@dataclass(frozen=True)
class ModelExport:
    """What an export wrote.

    Attributes:
        format: of ``FORMATS``; ``folder``: where; ``files``: their names and bytes.
        model: timm's architecture; ``adapter_parameters``, ``parameters``: of the adapters, of all.
        largest_difference: between the features of what was read back and the model's, on random images; 0 is equal
            bit for bit.
    """

    format: str
    folder: str
    files: dict[str, int]
    model: str
    image_size: tuple[int, int]
    adapter_parameters: int
    parameters: int
    largest_difference: float


def export_model(run: str | Path, to: str | Path, *, format: str = "adapter") -> ModelExport:
    """Write the encoder of ``run`` (anything ``load_encoder`` reads) to the folder ``to``, and read it back.

    Formats: ``adapter``, the adapters alone with the name and hash of their base; ``timm``, a folder for
    ``timm.create_model("local-dir:...")`` and ``load_adapters``; ``pad``, the reference's key names (casiatao/PAD), for
    its segmentation and detection code; ``onnx``, images to features, adapters included.

    Raises ``MsipError`` if the run cannot be read, the format cannot hold its model, or what was written does not give
    the model's features back.
    """
    if format not in FORMATS:
        raise ModelError(f"there is no format {format!r}; choose one of {', '.join(FORMATS)}.")
    if format == "onnx":
        need("onnx")
    stored = None if str(run).startswith("timm:") else read_stored(Path(run))
    model = load_encoder(run) if stored is None else fill(stored).eval()
    folder = Path(to)
    for sentence in run_state(run):
        _log.warning(sentence)
    writes = FORMATS[format](model, str(run), base_weights(stored) if stored else None)
    make_output_folder(folder)
    files, difference = writes(folder)
    if not difference <= (ONNX_TOLERANCE if format == "onnx" else 0.0):
        raise OutputError(f"what was written to {folder} differs from {run} by {difference:.2g}; do not use it.")
    inner: Any = model
    return ModelExport(
        format=format,
        folder=str(folder),
        files={name: (folder / name).stat().st_size for name in files},
        model=str(architecture_of(model)),
        image_size=tuple(inner.patch_embed.img_size),
        adapter_parameters=count_adapter_parameters(model),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        largest_difference=difference,
    )


Writer = Callable[[Path], tuple[list[str], float]]


def _adapter(model: nn.Module, run: str, base: str | None) -> Writer:
    """Checked before anything is written, as all of these."""
    if not has_adapters(model):
        raise ModelError(f"{run} has no adapters; choose `format=timm` or `format=onnx`.")
    _refuse_lost_base(base, run)

    def write(folder: Path) -> tuple[list[str], float]:
        save_adapters(model, folder, init=base)
        twin = load_adapters(_bare(model), folder)
        return [ADAPTER_FILE, "adapter.json"], _difference(model, twin)

    return write


def _refuse_lost_base(init: str | None, run: str) -> None:
    """Adapters alone are of no use where the weights below them are nowhere else."""
    if init == "random":
        raise WeightsError(
            f"{run} began at random weights, which its adapters need and nobody else has; choose `format=timm`, which "
            "writes them too."
        )
    if init and not init.startswith("timm:") and not Path(init).exists():
        raise WeightsError(
            f"the weights that {run} began with, {init}, are not there any more, and its adapters need them; put them "
            "back, or choose `format=timm`, which writes them too."
        )


def _timm(model: nn.Module, run: str, base: str | None) -> Writer:
    def write(folder: Path) -> tuple[list[str], float]:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trunk_state_dict(model).items()}
        with atomic_path(folder / "model.safetensors") as temporary:
            save_tensors(tensors, temporary, {"format": "pt"})
        write_json(folder / "config.json", _timm_config(model))
        files = ["model.safetensors", "config.json"]
        twin = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True)
        if has_adapters(model):
            save_adapters(model, folder, init=str(folder.absolute()))
            files += [ADAPTER_FILE, "adapter.json"]
            load_adapters(twin, folder)
        return files, _difference(model, twin)

    return write


def _timm_config(model: Any) -> dict[str, Any]:
    """config.json as timm reads it from a folder or the Hugging Face hub."""
    height, width = model.patch_embed.img_size
    channels = model.patch_embed.proj.in_channels
    source = dict(model.pretrained_cfg)
    kept = {
        name: source[name] for name in ("interpolation", "crop_mode", "first_conv", "classifier") if source.get(name)
    }
    preparation = {
        "mean": [INFRARED_MEAN] * channels,
        "std": [INFRARED_STD] * channels,
        "input_size": [channels, height, width],
    }
    return {
        "architecture": architecture_of(model),
        "num_classes": 0,
        "num_features": model.num_features,
        "model_args": {"img_size": [height, width], "in_chans": channels, "depth": len(model.blocks)},
        "pretrained_cfg": {**kept, **preparation, "crop_pct": 1.0, "num_classes": 0, "fixed_input_size": True},
    }


def _pad(model: nn.Module, run: str, base: str | None) -> Writer:
    _refuse_other_than_reference(trunk_state_dict(model), run)
    whole = _adapted_throughout(model) if has_adapters(model) else model
    state = {
        name: t.detach().cpu().contiguous() for name, t in whole.state_dict().items() if not name.startswith(UNUSED)
    }

    def write(folder: Path) -> tuple[list[str], float]:
        with atomic_path(folder / PAD_FILE) as temporary:
            torch.save({"model": to_pad_reference(state)}, temporary)
        twin = _bare(model)
        if has_adapters(model):
            attach_adapters(twin, config_of(whole)).eval()
        load_weights(twin, folder / PAD_FILE)
        return [PAD_FILE], _difference(model, twin)

    return write


def _adapted_throughout(model: nn.Module) -> nn.Module:
    """A copy with an adapter in every block, as the reference has it; the new ones add zero."""
    whole = attach_adapters(_bare(model), replace(config_of(model), blocks=None))
    whole.load_state_dict(model.state_dict(), strict=False)
    return whole


def _refuse_other_than_reference(trunk: dict[str, Tensor], run: str) -> None:
    def known(name: str) -> bool:
        block, _, rest = name.removeprefix("blocks.").partition(".")
        inside = name.startswith("blocks.") and block.isdecimal() and rest.startswith(_REFERENCE_BLOCK)
        return inside or name.startswith((*_REFERENCE_MODEL, *UNUSED))

    odd = next((name for name in trunk if not known(name)), None)
    if odd or not {"cls_token", "pos_embed", "norm.weight", "blocks.0.attn.qkv.bias"} <= trunk.keys():
        found = f"has {odd}" if odd else "lacks parts of one"
        raise ModelError(
            f"`format=pad` is for a plain ViT with a class token, all that the reference code knows; the model of "
            f"{run} {found}: choose `format=timm`."
        )


class _Features(nn.Module):
    """``forward_features`` as a module's forward, for the exporter."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Images (b, c, h, w), normalised, to tokens (b, p + n, D)."""
        return self.model.forward_features(images)


def _onnx(model: nn.Module, run: str, base: str | None) -> Writer:
    import onnx
    import onnxruntime

    def write(folder: Path) -> tuple[list[str], float]:
        images = _images(model)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            draft = str(Path(temporary) / ONNX_FILE)
            torch.onnx.export(
                _Features(model).eval(),
                (images,),
                draft,
                input_names=["images"],
                output_names=["features"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            graph = onnx.load(draft)
        notes = {"model": architecture_of(model), "mean": INFRARED_MEAN, "std": INFRARED_STD, "source": run}
        onnx.helper.set_model_props(graph, {name: str(value) for name, value in notes.items()})
        with atomic_path(folder / ONNX_FILE) as path:
            onnx.save(graph, str(path))
        session = onnxruntime.InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])
        theirs = [session.run(["features"], {"images": part.numpy()})[0] for part in (images, images[:1])]
        with torch.no_grad():
            ours = _Features(model)(images)
        return [ONNX_FILE], max(
            _largest(ours - torch.from_numpy(theirs[0])), _largest(ours[:1] - torch.from_numpy(theirs[1]))
        )

    return write


FORMATS: dict[str, Callable[[nn.Module, str, str | None], Writer]] = {
    "adapter": _adapter,
    "timm": _timm,
    "pad": _pad,
    "onnx": _onnx,
}
"""What ``format`` names: looks at model, run and base weights, raises what is against them, and returns what writes."""


def _bare(model: nn.Module) -> nn.Module:
    """A copy without adapters."""
    return detach_adapters(copy.deepcopy(model)).eval()


def _images(model: Any) -> Tensor:
    """Two random images in the model's shape, (2, c, h, w)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, model.patch_embed.proj.in_channels, *model.patch_embed.img_size, generator=generator)


@torch.no_grad()
def _difference(model: Any, twin: Any) -> float:
    images = _images(model)
    return _largest(model.eval().forward_features(images) - twin.eval().forward_features(images))


def _largest(difference: Tensor) -> float:
    value = float(difference.abs().max())
    return math.inf if math.isnan(value) else value
