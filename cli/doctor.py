"""``msip doctor``: what this machine has, and what to do about what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from msip.files import free_bytes, human_bytes
from msip.inspection.database import find_database

from .options import Json, cores
from .output import print_json, print_table

_PACKAGES = ("torch", "timm", "numba", "opencv-python-headless", "pyarrow", "fiftyone")


def doctor(as_json: Json = False) -> None:
    """Say what this machine has: versions, GPU, FiftyOne's database, memory, disk."""
    facts = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}, {cores()} cores, {_memory()} memory",
        "disk": f"{human_bytes(free_bytes(Path.cwd()))} free here",
        **{name: _version(name) for name in _PACKAGES},
        "opencv clash": _opencv_clash(),
        "rar": _rar(),
        "GPU": _gpu(),
        "FiftyOne database": str(find_database()),
    }
    if as_json:
        print_json(facts)
        return
    print_table(["", "found"], list(facts.items()))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed; pip install {package}"


def _opencv_clash() -> str:
    flavours = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
    extra = [name for name in flavours if not _version(name).startswith("not")]
    if not extra:
        return "none"
    return f"{' '.join(extra)} overwrites files of opencv-python-headless; uninstall it, then reinstall the latter"


def _rar() -> str:
    from msip.archives import RAR_ADVICE, rar_tool

    return rar_tool() or f"no tool: {RAR_ADVICE}"


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none that PyTorch can use; training runs on the CPU"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _memory() -> str:
    try:
        return human_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (ValueError, OSError):
        return "unknown"
