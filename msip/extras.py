"""Packages that only some commands need: which extra brings them, and the sentence for who lacks one.

They are imported where they are used, after ``need``. pyproject.toml lists the same extras with their versions.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass

from msip.errors import MissingExtra


@dataclass(frozen=True)
class Extra:
    """An extra of the package msip-pad.

    Attributes:
        serves: what needs it.
        modules: what it brings, by the names they are imported by.
    """

    serves: str
    modules: tuple[str, ...]


_ARCHIVES = ("py7zr", "rarfile", *(("backports.zstd",) if sys.version_info < (3, 14) else ()))

EXTRAS: dict[str, Extra] = {
    "plots": Extra(
        "`msip stats`, `msip scale-maps`, `msip demo`, and report.html and loss.png of a run", ("matplotlib",)
    ),
    "tensorboard": Extra("a run's curves in TensorBoard", ("tensorboard",)),
    "evaluate": Extra(
        "`msip evaluate` and `msip compare`",
        ("torchvision", "segmentation_models_pytorch", "torchmetrics", "scipy", "matplotlib"),
    ),
    "download": Extra("`msip download`", ("requests", "gdown", "huggingface_hub", *_ARCHIVES)),
    "archives": Extra("archives of 7z, rar and tar.zst", _ARCHIVES),
    "kaggle": Extra("sources on Kaggle", ("kagglehub",)),
    "clahe": Extra("the 16-bit mapping `agc=clahe`", ("skimage",)),
    "remote": Extra("raw trees and shards behind a URL", ("fsspec", "upath")),
    "s3": Extra("raw trees and shards on s3://", ("fsspec", "upath", "s3fs")),
    "ray": Extra("`engine=ray`", ("ray",)),
    "lora": Extra("LoRA (paradigms lora and explora of `msip pretrain`, `--mode lora` of `msip evaluate`)", ("peft",)),
    "onnx": Extra("`msip export-model --format onnx`", ("onnx", "onnxruntime", "onnxscript")),
    "wandb": Extra("runs on Weights & Biases (`wandb`)", ("wandb",)),
    "umap": Extra("the map of `msip inspect --embeddings`, which is made by PCA without it", ("umap",)),
}


def missing(extra: str) -> list[str]:
    """The modules of an extra that are not installed."""
    return [module for module in EXTRAS[extra].modules if not _found(module)]


def need(extra: str) -> None:
    """Make sure that an extra is installed, before anything is written. Raises ``MissingExtra`` where it is not."""
    if absent := missing(extra):
        raise MissingExtra(
            f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed, needed for "
            f"{EXTRAS[extra].serves}: {how_to_get(extra)}."
        )


def how_to_get(extra: str) -> str:
    """The line that installs an extra."""
    return f"pip install 'msip-pad[{extra}]'"


def _found(module: str) -> bool:
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there either
        return False
