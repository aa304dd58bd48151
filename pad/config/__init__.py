"""Options of a pre-training run, presets of whole runs, and the plan that follows from both for given data."""

from __future__ import annotations

from pad.config.options import option, read_options
from pad.config.plan import Plan, batch_sizes, default_workers, make_plan
from pad.config.presets import PRESETS
from pad.config.pretraining import (
    FREE_AFTER_NON_FINITE,
    FREE_ON_RESUME,
    RESULT,
    RUN_FILE,
    DeviceName,
    Precision,
    PretrainConfig,
    read_run,
)

__all__ = [
    "FREE_AFTER_NON_FINITE",
    "FREE_ON_RESUME",
    "PRESETS",
    "RESULT",
    "RUN_FILE",
    "DeviceName",
    "Plan",
    "Precision",
    "PretrainConfig",
    "batch_sizes",
    "default_workers",
    "make_plan",
    "option",
    "read_options",
    "read_run",
]
