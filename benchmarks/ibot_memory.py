"""What iBOT's teacher costs on ViT-B: with the trunk shared, and as a whole copy of the student (bytedance/ibot)."""

from __future__ import annotations

import platform

import timm
import torch

from pad.adapters.attach import attach_adapters
from pad.methods import IBOT
from pad.training.paradigms import apply_paradigm


def teacher_bytes(method: IBOT) -> int:
    """Bytes of the tensors that the teacher keeps for itself."""
    return sum(tensor.numel() * tensor.element_size() for tensor in method.teacher_tensors().values())


def main() -> None:
    """Print both sizes and their ratio."""
    encoder = attach_adapters(timm.create_model("vit_base_patch16_224", num_classes=0))
    method = IBOT(encoder)
    apply_paradigm(method, "pad")
    shared = teacher_bytes(method)
    adapters = sum(
        tensor.numel() * tensor.element_size() for name, tensor in method.teacher_tensors().items() if "adapter" in name
    )
    method.trained({name for name, _ in method.named_parameters()})
    whole = teacher_bytes(method)
    print(f"{platform.machine()}, torch {torch.__version__}, vit_base_patch16_224, adapters of 64, 8,192 prototypes")
    print(f"{'teacher':<24}{'MB':>10}")
    for name, size in (("whole copy", whole), ("trunk shared", shared), ("  adapters of it", adapters)):
        print(f"{name:<24}{size / 1e6:>10.1f}")
    print(f"ratio {whole / shared:.1f}")


if __name__ == "__main__":
    main()
