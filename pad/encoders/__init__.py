"""Encoders: timm ViTs, and their weights in the layouts people have."""

from __future__ import annotations

from pad.encoders.create import LoadReport, create_encoder
from pad.encoders.files import read_weights
from pad.encoders.layouts import LAYOUTS
from pad.encoders.load import load_encoder, load_weights

__all__ = ["LAYOUTS", "LoadReport", "create_encoder", "load_encoder", "load_weights", "read_weights"]
