"""The machine a run works on: device, precision, memory, versions, random generators."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import timm
import torch

import msip
from msip.errors import RunError

DEVICES = ("auto", "cpu", "cuda")


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of this process, by one of the names in ``DEVICES``.

    Raises ``RunError`` for another name, or ``cuda`` without one.
    """
    if name not in DEVICES:
        raise RunError(f"`device` is {name!r}; choose one of {', '.join(DEVICES)}.")
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("`device=cuda`, but torch sees no CUDA device; use `device=cpu`, or see `msip doctor`.")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def device_name(device: torch.device) -> str:
    """``cpu``, or the GPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def versions() -> dict[str, str]:
    """Of what decides a run's numbers."""
    return {
        "python": platform.python_version(),
        "msip": msip.__version__,
        "torch": str(torch.__version__),
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


def git_commit() -> str | None:
    """Commit of the checkout this code runs from, ``None`` for an installed package."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", str(root), "rev-parse", "--show-toplevel", "HEAD"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return lines[1] if Path(lines[0]).resolve() == root else None


def memory_bytes(device: torch.device) -> int:
    """Peak memory: allocated on the GPU, or resident in this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        found = psutil.Process().memory_info()
        return int(getattr(found, "peak_wset", found.rss))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def seed_step(seed: int, images_seen: int) -> None:
    """Seed torch's generators (dropout, drop path) for one micro-batch, so that no generator state needs saving."""
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + images_seen) % (1 << 63))


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether forward passes run under bf16 autocast: as asked, by itself on a GPU."""
    return precision == "bf16" or (precision == "auto" and device.type == "cuda")
