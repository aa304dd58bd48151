"""MSIP: from scattered public infrared sources, or anyone's own frames, to one verified manifest."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from msip.version import __version__

if TYPE_CHECKING:
    from msip.crops import RoiCrop
    from msip.manifest import Manifest
    from msip.pipeline import BuildReport, build
    from msip.rois import selective_search

_HOMES = {
    "BuildReport": "msip.pipeline",
    "Manifest": "msip.manifest",
    "RoiCrop": "msip.crops",
    "build": "msip.pipeline",
    "selective_search": "msip.rois",
}

__all__ = ["BuildReport", "Manifest", "RoiCrop", "__version__", "build", "selective_search"]


def __getattr__(name: str) -> Any:
    """Import on first use: reading a manifest must not pay for compiling selective search."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'msip' has no attribute {name!r}")
