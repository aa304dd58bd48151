"""Self-supervised methods: a method is its options, what it draws for each sample, and its forward."""

from __future__ import annotations

from pad.methods.base import Method, MethodOutput
from pad.methods.mae import MAE

METHODS: dict[str, type[Method]] = {"mae": MAE}
"""``--method`` to class."""

__all__ = ["MAE", "METHODS", "Method", "MethodOutput"]
