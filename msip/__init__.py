"""MSIP: from scattered public infrared sources, or anyone's own frames, to one verified manifest.

Each command of the command line is one function here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from msip.moved import MOVED
from msip.old_paths import register
from msip.version import __version__ as __version__

if TYPE_CHECKING:
    from msip.catalogue import list_sources as list_sources
    from msip.crops import RoiCrop as RoiCrop
    from msip.curation.curate import curate as curate
    from msip.download.job import fetch as fetch
    from msip.export import export_crops as export_crops
    from msip.inspection.session import inspect as inspect
    from msip.inspection.session import pull_tags as pull_tags
    from msip.manifest import Manifest as Manifest
    from msip.pipeline import BuildReport as BuildReport
    from msip.pipeline import build as build
    from msip.proposals import propose_rois as propose_rois
    from msip.rois import selective_search as selective_search
    from msip.shards import shard as shard
    from msip.statistics import stats as stats
    from msip.verify import verify_build as verify_build

register(MOVED)

_HOMES = {
    "BuildReport": "msip.pipeline",
    "Manifest": "msip.manifest",
    "RoiCrop": "msip.crops",
    "build": "msip.pipeline",
    "curate": "msip.curation.curate",
    "export_crops": "msip.export",
    "fetch": "msip.download.job",
    "inspect": "msip.inspection.session",
    "list_sources": "msip.catalogue",
    "propose_rois": "msip.proposals",
    "pull_tags": "msip.inspection.session",
    "selective_search": "msip.rois",
    "shard": "msip.shards",
    "stats": "msip.statistics",
    "verify_build": "msip.verify",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import on first use: reading a manifest must not pay for compiling selective search."""
    if name not in _HOMES:
        raise AttributeError(f"module 'msip' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
