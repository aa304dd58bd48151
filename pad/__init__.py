"""PAD: self-supervised pre-training of adapters for infrared vision transformers (arXiv 2312.08192)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from msip.old_paths import register
from pad.moved import MOVED

if TYPE_CHECKING:
    from pad.adapters.attach import PadConfig as PadConfig
    from pad.adapters.attach import attach_adapters as attach_adapters
    from pad.adapters.files import load_adapters as load_adapters
    from pad.adapters.files import save_adapters as save_adapters
    from pad.demonstration import demo as demo
    from pad.diagnosis import doctor as doctor
    from pad.encoders import load_encoder as load_encoder
    from pad.encoders.export import export_model as export_model
    from pad.evaluation.evaluate import compare as compare
    from pad.evaluation.evaluate import evaluate as evaluate
    from pad.inference.features import image_features as image_features
    from pad.inference.scale_maps import scale_maps as scale_maps
    from pad.monitoring.report import write_report as write_report
    from pad.training.pretrain import pretrain as pretrain
    from pad.training.replay import replay as replay

register(MOVED)

# torch and timm take seconds to import: only when a name is used
_HOMES = {
    "PadConfig": "pad.adapters",
    "attach_adapters": "pad.adapters",
    "compare": "pad.evaluation.evaluate",
    "demo": "pad.demonstration",
    "doctor": "pad.diagnosis",
    "evaluate": "pad.evaluation.evaluate",
    "export_model": "pad.encoders.export",
    "image_features": "pad.inference.features",
    "load_adapters": "pad.adapters",
    "load_encoder": "pad.encoders",
    "pretrain": "pad.training.pretrain",
    "replay": "pad.training.replay",
    "save_adapters": "pad.adapters",
    "scale_maps": "pad.inference.scale_maps",
    "write_report": "pad.monitoring.report",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pad' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
