"""One feature vector an image, from any encoder: for maps, similarity search and near-duplicates."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from msip.manifest import Manifest
from msip.progress import Progress, silent
from msip.resize import resize
from msip.storage import read_image
from pad.data.grey import normalise
from pad.encoders import load_encoder
from pad.encoders.tokens import grid_size, patch_size

_BATCH = 32


@torch.inference_mode()
def image_features(weights: str, manifest: Manifest, *, progress: Progress = silent) -> NDArray[np.float32]:
    """The mean patch token of every image of a manifest, whole and squashed to the encoder's size.

    Args:
        weights: what ``load_encoder`` reads: a run, an exported folder, a weights file, or ``timm:NAME``.
        manifest: its images.
        progress: told of finished images, stage ``features``.

    Returns:
        (images, embed_dim) float32; zeros where an image cannot be read.

    Raises:
        WeightsError, ModelError: the weights cannot be loaded.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder: Any = load_encoder(weights).to(device)
    grid, patch = grid_size(encoder), patch_size(encoder)
    size = (grid[0] * patch[0], grid[1] * patch[1])
    channels = int(encoder.patch_embed.proj.weight.shape[1])
    parts = []
    progress("features", 0, len(manifest))
    for start in range(0, len(manifest), _BATCH):
        rows = range(start, min(start + _BATCH, len(manifest)))
        images = [_read(manifest, row, size) for row in rows]
        readable = torch.tensor([image is not None for image in images])
        pixels = np.stack([np.zeros(size, np.uint8) if image is None else image for image in images])
        batch = normalise(torch.from_numpy(pixels)[:, None].to(device), channels)
        tokens = encoder.forward_features(batch)[:, encoder.num_prefix_tokens :]
        parts.append((tokens.mean(1).float().cpu() * readable[:, None]).numpy())
        progress("features", len(rows), len(manifest))
    return np.concatenate(parts)


def _read(manifest: Manifest, row: int, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    image = read_image(manifest.path(row))
    return None if image is None else resize(image, (size[1], size[0]))
