"""Features in the App: a map of the images, similarity search, uniqueness. Done by FiftyOne's brain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from msip.errors import InspectionError
from msip.extras import missing
from msip.inspection.app_style import EMBEDDINGS, SIMILARITY, save_workspace

_FEWEST = 3


def add_embeddings(fiftyone: Any, dataset: Any, sample_ids: list[str], features: NDArray[np.float32]) -> str:
    """Give a dataset a 2-D map, similarity search and ``uniqueness`` (0 to 1, 1 is the most unlike its neighbours).

    Args:
        fiftyone: the module.
        dataset: holds the samples.
        sample_ids: in the order of ``features``; other samples of the dataset stay without.
        features: (n, d) float32, n at least 3.

    Returns:
        How the map was made: ``umap`` where umap-learn is installed (``pip install 'msip-pad[umap]'``), else ``pca``.

    Raises:
        InspectionError: fewer than 3 images.
    """
    from fiftyone import brain

    if len(sample_ids) < _FEWEST:
        raise InspectionError(f"`embeddings` needs at least {_FEWEST} images, {len(sample_ids)} are here.")
    view = dataset.select(sample_ids, ordered=True)
    method = "pca" if missing("umap") or len(sample_ids) <= 15 else "umap"
    for key in (EMBEDDINGS, SIMILARITY):
        if key in dataset.list_brain_runs():
            dataset.delete_brain_run(key)
    brain.compute_visualization(
        view, embeddings=features, num_dims=2, method=method, brain_key=EMBEDDINGS, seed=0, verbose=False
    )
    brain.compute_similarity(view, embeddings=features, brain_key=SIMILARITY, backend="sklearn")
    brain.compute_uniqueness(view, embeddings=features)
    save_workspace(fiftyone, dataset)
    return method
