"""Self-supervised methods, one file each, one contract (``pad.methods.base``)."""

from __future__ import annotations

from functools import cache

from msip.plugins import with_plugins
from pad.methods.base import Method, MethodOptions, MethodOutput
from pad.methods.distil import Distillation
from pad.methods.ibot import IBOT
from pad.methods.mae import MAE
from pad.methods.milan import MILAN
from pad.methods.simmim import SimMIM

METHODS: dict[str, type[Method]] = {"mae": MAE, "milan": MILAN, "simmim": SimMIM, "ibot": IBOT, "distil": Distillation}
"""The project's own methods by the name of ``--method``."""
ENTRY_POINTS = "pad.methods"


@cache
def methods() -> dict[str, type[Method]]:
    """Return ``METHODS`` and those of installed packages, by name. Raises ``MsipError`` for a broken entry point."""
    return with_plugins(ENTRY_POINTS, METHODS, Method)


__all__ = [
    "IBOT",
    "MAE",
    "METHODS",
    "MILAN",
    "Distillation",
    "Method",
    "MethodOptions",
    "MethodOutput",
    "SimMIM",
    "methods",
]
