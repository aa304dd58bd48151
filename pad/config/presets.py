"""Presets of whole pre-training runs, and the defaults of each method."""

from __future__ import annotations

from typing import Any

METHOD_DEFAULTS: dict[str, dict[str, Any]] = {
    # microsoft/SimMIM config.py and vit_base__800ep: AdamW (0.9, 0.999), gradients clipped at 5, ratio 0.6
    "simmim": {"mask_ratio": 0.6, "beta2": 0.999, "clip_grad": 5.0},
    # bytedance/ibot main_ibot.py: AdamW (0.9, 0.999), clip 3, weight decay 0.04 to 0.4; views see half the masks at 0.3
    "ibot": {"mask_ratio": 0.3, "beta2": 0.999, "clip_grad": 3.0, "weight_decay": 0.04, "weight_decay_end": 0.4},
    # SwinTransformer/Feature-Distillation configs/pretrain/fd_pretrain__dino_vit_base: clip 3
    "distil": {"beta2": 0.999, "clip_grad": 3.0},
}
"""What another method than MAE takes by default; presets and options lie above it."""

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
    # facebookresearch/mae PRETRAIN.md: 800 epochs of 4096, blr 1.5e-4, warm-up 40.
    "mae": {"method": "mae", "epochs": 800, "warmup_epochs": 40.0, "effective_batch": 4096, "blr": 1.5e-4},
    # zejiangh/MILAN README: 400 epochs of 4096, blr 1.5e-4, warm-up 40, CLIP ViT-B/16.
    "milan": {
        "method": "milan",
        "epochs": 400,
        "warmup_epochs": 40.0,
        "effective_batch": 4096,
        "blr": 1.5e-4,
        "teacher": _CLIP_B16,
    },
    # microsoft/SimMIM vit_base__800ep: lr 1e-4 for 512 images, 2048 a step; there a step at epoch 700, here a cosine.
    "simmim": {"method": "simmim", "epochs": 800, "warmup_epochs": 10.0, "effective_batch": 2048, "blr": 5e-5},
    # bytedance/ibot README and main_ibot.py: 1024 images, lr 5e-4 for 256, ten local crops, warm-up 10 epochs.
    "ibot": {"method": "ibot", "epochs": 400, "warmup_epochs": 10.0, "effective_batch": 1024, "blr": 5e-4},
    # SwinTransformer/Feature-Distillation, DINO teacher: lr 3e-4 for 512, 300 epochs, warm-up 10.
    "distil": {
        "method": "distil",
        "epochs": 300,
        "warmup_epochs": 10.0,
        "effective_batch": 2048,
        "blr": 1.5e-4,
        "teacher": "timm:vit_base_patch14_dinov2.lvd142m",
    },
}
