"""Self-supervised methods, one file each, one contract (``pad.methods.base``)."""

from __future__ import annotations

from pad.methods.base import Method, MethodOutput
from pad.methods.mae import MAE
from pad.methods.milan import MILAN

METHODS: dict[str, type[Method]] = {"mae": MAE, "milan": MILAN}
"""By the name of ``--method``."""

__all__ = ["MAE", "METHODS", "MILAN", "Method", "MethodOutput"]
