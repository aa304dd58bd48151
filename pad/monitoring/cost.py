"""What a run costs: model FLOPs of an image, how much of the GPU they use, and how long it will take.

Model FLOPs are the multiplications and additions of all matrix products, attention and convolutions of one forward and
backward pass, as torch's ``FlopCounterMode`` sees them for this method, mask and paradigm: hidden patches that are not
encoded, and gradients that a frozen trunk does not need, cost nothing. Recomputation (fused attention, activation
checkpointing) does not count, as in PaLM's definition of MFU (arXiv 2204.02311, appendix B)::

    mfu = FLOPs of an image * images per second / (GPUs * peak FLOPs per second of a GPU)
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from msip.formatting import human_duration

TERA = 1e12

PEAK_BF16_TFLOPS: dict[str, float] = {
    "B200": 2250.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 149.7,
    "A30": 165.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "RTX A6000": 154.8,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
"""Dense bf16 matrix products with float32 sums, from NVIDIA's data sheets; the first name that the device's has."""


def count_flops(method: Any, batch: dict[str, Tensor]) -> int:
    """Model FLOPs of one image, forward and backward; ``batch``: what ``to_device`` gives, of any number of images."""
    training = method.training
    method.eval()  # a method keeps nothing of what it sees then
    try:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            method(**method.arguments(batch)).loss.backward()
    finally:
        method.train(training)
        method.zero_grad(set_to_none=True)
    return int(counter.get_total_flops()) // len(next(iter(batch.values())))


def peak_tflops(device_name: str, *, bf16: bool) -> float | None:
    """Peak of a GPU by the name that torch gives it; half of bf16's for float32 (TF32). None where unknown."""
    if "MIG" in device_name:  # a slice of a GPU
        return None
    peak = next((peak for name, peak in PEAK_BF16_TFLOPS.items() if name in device_name), None)
    return peak if peak is None or bf16 else peak / 2


@dataclass(frozen=True)
class Speed:
    """FLOPs of an image and the peak of all GPUs together, FLOP/s; ``peak`` is None on a CPU or an unknown GPU."""

    flops_per_image: int
    peak: float | None = None

    @classmethod
    def of(cls, flops_per_image: int, device: torch.device, *, bf16: bool, world: int) -> Speed:
        """For ``world`` processes with a device like this one each."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        peak = peak_tflops(name, bf16=bf16)
        return cls(flops_per_image, None if peak is None else peak * TERA * world)

    def metrics(self, images_per_s: float) -> dict[str, float]:
        """``tflops`` a second and, where the peak is known, ``mfu`` in 0 to 1."""
        rate = self.flops_per_image * images_per_s
        return {"tflops": round(rate / TERA, 4)} | ({"mfu": round(rate / self.peak, 4)} if self.peak else {})


@dataclass(frozen=True)
class Estimate:
    """How long the steps to go will take, before the first one.

    Attributes:
        steps: to go.
        compute_s: of one optimizer step: one pass of the first batch, forward and backward, timed the second time, by
            the passes of a step.
        reading_s: of one step's images: what a few took, by their number, over all reading processes.
        together: whether reading goes on beside computing.
    """

    steps: int
    compute_s: float
    reading_s: float
    together: bool

    @property
    def step_s(self) -> float:
        """Seconds of one step: the slower part, or both where this process reads for itself."""
        return max(self.compute_s, self.reading_s) if self.together else self.compute_s + self.reading_s

    @property
    def seconds(self) -> float:
        """Of all steps; saving, drawing and measuring come on top."""
        return self.steps * self.step_s

    def sentence(self) -> str:
        """For a person who decides whether to wait."""
        end = datetime.datetime.now().astimezone() + datetime.timedelta(seconds=self.seconds)
        day = "" if self.seconds < 12 * 3600 else f"{end:%a %d %b} "
        return (
            f"{self.steps:,} steps to go, about {human_duration(self.seconds)}, until {day}{end:%H:%M}: computing "
            f"{self.compute_s:.3g} s a step, reading {self.reading_s:.2g} s {'beside it' if self.together else 'more'}."
        )
