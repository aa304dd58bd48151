"""Presets of whole pre-training runs: the paper's."""

from __future__ import annotations

from typing import Any

_PAD: dict[str, Any] = {
    "model": "vit_base_patch16_224",
    "init": "timm:vit_base_patch16_224.mae",
    "paradigm": "pad",
    "epochs": 100,
    "warmup_epochs": 30.0,
    "effective_batch": 4096,
    "blr": 1e-4,
    "weight_decay": 0.05,
    "mask_ratio": 0.75,
    "scale": "patchwise",
    "fusion": "concat",
    "down_size": 64,
    "scale_freeze": 0.6,
}

_CLIP_B16 = "timm:vit_base_patch16_clip_quickgelu_224.openai"

PRESETS: dict[str, dict[str, Any]] = {
    # arXiv 2312.08192 and the reference repository's docs/PRETRAIN.md; the RoI crop's p = 0.85 is RoiCrop's default.
    "pad-paper": {"method": "mae", **_PAD},
    # The same page, for MILAN; its weights are not in timm. The reference's teacher sees infrared normalisation.
    "pad-milan": {"method": "milan", **_PAD, "init": None, "teacher": _CLIP_B16, "teacher_normalisation": "infrared"},
}
"""By the name of ``--preset``; a method's own upstream recipe lies in its file, under the method's name."""
