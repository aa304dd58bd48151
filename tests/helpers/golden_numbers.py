"""How far the methods are from the reference code's own numbers; run it to print the table of docs/methods.md.

python tests/pad/golden_numbers.py ../shared/golden
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from pad.encoders.layouts import from_pad_reference
from pad.methods import MAE, MILAN

FILES = ("pad_mae_concat", "pad_mae_fixed_scale", "pad_milan_concat")
MILAN_INPUTS = {"teacher": "teacher_tokens", "teacher_attention": "teacher_cls_attention", "order": "ids_shuffle"}


def read(golden: Path, name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    with safe_open(golden / f"{name}.safetensors", "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def largest(tensor: Tensor) -> float:
    return float(tensor.detach().abs().max())


def differences(golden: Path, name: str) -> dict[str, float]:
    """Largest absolute differences; ``mask``: of 0 and 1; ``gradient``: the worst, of its own largest value."""
    metadata, tensors = read(golden, name)
    milan = "milan" in name
    method = (MILAN if milan else MAE).from_reference(part(tensors, "state."), metadata).eval()
    given = MILAN_INPUTS if milan else {"noise": "noise"}
    images = tensors["input.images"]
    output = method(images, **{own: tensors[f"input.{theirs}"] for own, theirs in given.items()})
    output.loss.backward()
    found = {
        "loss": largest(output.loss - tensors["output.loss"]),
        "prediction": largest(output.prediction - tensors["output.pred"]),
        "mask": largest(output.mask - tensors["output.mask"]),
    }
    if "output.features" in tensors:
        with torch.no_grad():
            found["features"] = largest(method.encoder.forward_features(images) - tensors["output.features"])
    gradients = from_pad_reference(part(tensors, "grad.")).encoder
    parameters = dict(method.encoder.named_parameters())
    worst = [largest(parameters[key].grad - gradient) / largest(gradient) for key, gradient in gradients.items()]
    assert len(worst) == len(part(tensors, "grad."))
    return {**found, "gradient": max(worst), "gradients": len(worst)}


if __name__ == "__main__":
    print("| golden file | loss | prediction | features | worst gradient, relative | gradients |")  # noqa: T201
    print("|---|---:|---:|---:|---:|---:|")  # noqa: T201
    for file in FILES:
        row = differences(Path(sys.argv[1]), file)
        cells = [f"{row[key]:.1e}" if key in row else "-" for key in ("loss", "prediction", "features", "gradient")]
        print(f"| {file} | {' | '.join(cells)} | {row['gradients']} |")  # noqa: T201
