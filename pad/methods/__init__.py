"""Self-supervised methods, one file each, one contract (``pad.methods.base``)."""

from __future__ import annotations

from pad.methods.base import Method, MethodOutput
from pad.methods.distil import Distillation
from pad.methods.ibot import IBOT
from pad.methods.mae import MAE
from pad.methods.milan import MILAN
from pad.methods.simmim import SimMIM

METHODS: dict[str, type[Method]] = {"mae": MAE, "milan": MILAN, "simmim": SimMIM, "ibot": IBOT, "distil": Distillation}
"""By the name of ``--method``."""

__all__ = ["IBOT", "MAE", "METHODS", "MILAN", "Distillation", "Method", "MethodOutput", "SimMIM"]
