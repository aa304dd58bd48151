"""Grey uint8 images to normalised float tensors on the device, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from msip.storage import INFRARED_MEAN, INFRARED_STD


def to_device(batch: dict[str, Any], device: torch.device, in_chans: int) -> dict[str, Tensor]:
    """A batch's ``images`` and inputs on the device; what is uint8 are grey images and is normalised there."""
    named = {**({"images": batch["image"]} if "image" in batch else {}), **batch["inputs"]}
    moved = {name: value.to(device, non_blocking=True) for name, value in named.items()}
    return {n: normalise(value, in_chans) if value.dtype == torch.uint8 else value for n, value in moved.items()}


def normalise(image: Tensor, in_chans: int) -> Tensor:
    """Grey uint8 (..., 1, h, w) to float32 (..., in_chans, h, w) around 0; the channels are views of one."""
    grey = image.float().div_(255).sub_(INFRARED_MEAN).div_(INFRARED_STD)
    return grey.expand(*grey.shape[:-3], in_chans, *grey.shape[-2:])


def denormalise(image: Tensor) -> NDArray[np.uint8]:
    """Inverse of ``normalise``: float (b, c, h, w) to uint8 (b, h, w), the channels' mean, clipped."""
    grey = image.float().mean(1).mul(INFRARED_STD).add(INFRARED_MEAN).mul(255)
    return grey.round().clamp(0, 255).byte().cpu().numpy()
