"""What this machine has, and what to do about what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import torch

from msip.archives import RAR_ADVICE, rar_tool
from msip.engine import cores
from msip.extras import EXTRAS, how_to_get, missing
from msip.files import free_bytes
from msip.formatting import human_bytes
from msip.inspection.database import find_database

_PACKAGES = ("torch", "timm", "numba", "opencv-python-headless", "pyarrow", "fiftyone")
_OTHER_OPENCVS = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")


def doctor() -> dict[str, str]:
    """Say what this machine has: versions, extras, GPU, FiftyOne's database, memory, disk.

    Returns:
        What was found, by name: with the remedy where something is missing.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {cores()} cores, {_memory()} memory",
        "disk": f"{human_bytes(free_bytes(Path.cwd()))} free here",
        **{name: _version(name) or f"not installed; pip install {name}" for name in _PACKAGES},
        "opencv clash": _opencv_clash(),
        **{f"extra {name}": _extra(name) for name in EXTRAS},
        "rar": rar_tool() or f"no tool: {RAR_ADVICE}",
        "GPU": _gpu(),
        "FiftyOne database": str(find_database()),
    }


def _extra(name: str) -> str:
    if not (absent := missing(name)):
        return "installed"
    return f"without {', '.join(absent)}, for {EXTRAS[name].serves}; {how_to_get(name)}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _opencv_clash() -> str:
    extra = [name for name in _OTHER_OPENCVS if _version(name)]
    if not extra:
        return "none"
    return f"{' '.join(extra)} overwrites files of opencv-python-headless; uninstall it, then reinstall the latter"


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch can use; training runs on the CPU"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _memory() -> str:
    try:
        return human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return "unknown"
