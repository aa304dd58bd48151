"""Whether features collapse: RankMe and the spread of normalised tokens, of a few fixed crops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COLLAPSED = 0.1
"""Share of its first value below which the spread counts as collapsed."""


def rankme(features: Tensor) -> float:
    """Effective rank of (n, D): exp of the entropy of the singular values (arXiv 2210.02885); 1 to min(n, D)."""
    values = torch.linalg.svdvals(features.float())
    shares = values / values.sum().clamp_min(1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def feature_std(features: Tensor) -> float:
    """Mean deviation of L2-normalised (n, D) times sqrt(D): about 1 when spread evenly, 0 when all are the same."""
    normalised = torch.nn.functional.normalize(features.float(), dim=-1)
    return float(normalised.std(dim=0).mean() * features.shape[-1] ** 0.5)


@torch.no_grad()
def measure(method: Any, images: Tensor) -> dict[str, float | None]:
    """``rankme`` and ``feature_std`` of the patch tokens that the encoder, in eval mode, gives for (b, c, h, w).

    None where tokens are not finite.
    """
    training, encoder = method.training, method.encoder
    method.eval()
    try:
        tokens = encoder.forward_features(images)[:, encoder.num_prefix_tokens :].flatten(0, 1)
    finally:
        method.train(training)
    largest = tokens.abs().max()
    if not largest.isfinite():
        return {"rankme": None, "feature_std": None}
    tokens = tokens.float() / largest.clamp_min(torch.finfo(torch.float32).tiny)  # their squares must be finite too
    return {"rankme": round(rankme(tokens), 3), "feature_std": round(feature_std(tokens), 5)}
