"""A build in the FiftyOne App, and what people did there: the functions behind ``msip inspect``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from msip.errors import OptionError
from msip.inspection import tags
from msip.inspection.database import connect
from msip.inspection.dataset import Draw, Inspection, import_build
from msip.inspection.embeddings import add_embeddings
from msip.inspection.rows import Rows
from msip.manifest import Manifest
from msip.progress import Progress, silent

Features = NDArray[np.float32]


def inspect(
    out: str | Path,
    *,
    seed: int = 0,
    epoch: int = 0,
    per_image: int = 4,
    max_samples: int | None = None,
    embeddings: Features | Callable[[Manifest], Features] | None = None,
    progress: Progress = silent,
) -> Inspection:
    """Bring a build, its RoIs, its training crops and its saved views into FiftyOne, to look at in the App.

    Rows that are there already, and have not changed, cost nothing. ``inspect(out).launch()`` shows them.

    Args:
        out: a build.
        seed, epoch: of the training crops.
        per_image: training crops an image.
        max_samples: only this many images, spread evenly over the manifest; all by default.
        embeddings: float32 (images, d), a feature vector for each of these images in the manifest's order, or a
            function from their manifest to such an array: a map, similarity search and uniqueness.
        progress: of the stages ``into FiftyOne's database``, in images, and ``views``.

    Returns:
        The dataset, its views, and what this call changed.

    Raises:
        ManifestError: there is no readable manifest.
        InspectionError: FiftyOne or its database cannot be used, or no image is where the manifest says.
        OptionError: ``embeddings`` of another number of images.
    """
    rows = Rows(out, max_samples)  # before FiftyOne's five seconds
    fiftyone = connect()
    result = import_build(fiftyone, rows, draw=Draw(seed, epoch, per_image), progress=progress)
    if embeddings is not None:
        features = embeddings(rows.manifest) if callable(embeddings) else embeddings
        if len(features) != len(rows):
            raise OptionError(f"`embeddings` has {len(features):,} rows, expected one for each of {len(rows):,}.")
        add_embeddings(fiftyone, result.dataset, rows.sample_ids, features)
    return result


def pull_tags(out: str | Path) -> tags.PullReport:
    """Write tags that were given in the App to the flags of the build's manifest, whole or not at all.

    Args:
        out: a build that was opened with ``inspect``.

    Raises:
        ManifestError: there is no readable manifest.
        InspectionError: FiftyOne or its database cannot be used, or the build was never opened.
    """
    Manifest.read(out, ["path"])
    return tags.pull_tags(connect(), out)
