"""Encoders: timm ViTs, and their weights in the layouts people have."""

from __future__ import annotations

from pad.encoders.create import create_encoder
from pad.encoders.fit import LoadReport, load_weights
from pad.encoders.layouts import LAYOUTS
from pad.encoders.load import load_encoder

__all__ = ["LAYOUTS", "LoadReport", "create_encoder", "load_encoder", "load_weights"]
