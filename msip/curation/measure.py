"""Every image of a build measured once: fingerprint and appearance, kept in ``OUT/.msip`` by the hash of its bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip.curation import fingerprint
from msip.curation.fingerprint import PRINT, Fingerprints
from msip.curation.image_measures import HISTOGRAM_BINS, appearance, without_borders
from msip.engine import Engine
from msip.ledger import Ledger
from msip.manifest import Manifest
from msip.progress import Progress, silent
from msip.radiometry import to_grey
from msip.storage import quiet_cv2

_BATCH = 64
_APPEARANCE_VERSION = 1
NUMBERS = ("mean", "std", "entropy", "contrast", "clipped_dark", "clipped_bright", "coloured", "letterbox", "text",
            "polarity")  # fmt: skip

ENTRY = pa.schema(
    [
        pa.field("sha256", pa.string()),
        pa.field("fingerprint", pa.binary(PRINT.itemsize)),  # null: the image is gone or cannot be decoded
        pa.field("pixels_sha256", pa.string()),  # of size and grey values: what a viewer sees, whatever the container
        *(pa.field(name, pa.float32()) for name in NUMBERS),
        pa.field("histogram", pa.list_(pa.int32(), HISTOGRAM_BINS)),
    ]
)
"""What is kept of an image; see ``Appearance``."""


def read_pixels(path: Path) -> NDArray[np.uint8] | None:
    """A stored image as it is, grey, BGR or BGRA; 16 bits by their high byte; ``None`` if it cannot be read."""
    try:
        data = np.fromfile(path, np.uint8)
        with quiet_cv2():
            pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (OSError, cv2.error):
        return None
    if pixels is None:
        return None
    return np.asarray(pixels if pixels.dtype == np.uint8 else pixels >> 8, np.uint8)


def measure_pixels(pixels: NDArray[np.uint8]) -> dict[str, Any]:
    """An entry without its ``sha256``: what is measured of one image."""
    grey = np.asarray(to_grey(pixels), np.uint8)
    inner = without_borders(grey)
    found = appearance(pixels, grey, inner)
    return {
        "fingerprint": fingerprint.fingerprint(inner).tobytes(),
        "pixels_sha256": fingerprint.pixels_digest(grey),
        **{name: getattr(found, name) for name in NUMBERS},
        "histogram": found.histogram.tolist(),
    }


def measure(manifest: Manifest, *, engine: Engine, progress: Progress = silent) -> pa.Table:
    """The entries (``ENTRY``) of all rows, in their order; a killed run continues, unchanged images cost nothing.

    Args:
        manifest: its ``root`` holds the images.
        engine: runs the tasks.
        progress: of the stage ``measure``, in images.
    """
    folder = manifest.root / ".msip" / "measures" / f"v{_APPEARANCE_VERSION}.{fingerprint.VERSION}"
    ledger = Ledger(folder, ENTRY, "sha256")
    hashes = manifest.table.column("sha256").to_pylist()
    known = ledger.read()
    readable = known.filter(known.column("fingerprint").is_valid())  # an unreadable image may have been restored
    tasks = list(_tasks(manifest, hashes, set(readable.column("sha256").to_pylist())))
    progress("measure", len(manifest) - sum(len(task[1]) for task in tasks), len(manifest))
    for entries in engine.run(_measure_batch, tasks):
        ledger.append(entries)
        progress("measure", len(entries), len(manifest))
    table = ledger.finish(list(dict.fromkeys(hashes)))
    ledger.drop_others()
    rows = ledger.index(table)
    return table.take(pa.array([rows[sha] for sha in hashes], pa.int64())) if len(rows) < len(hashes) else table


def _tasks(manifest: Manifest, hashes: list[str], done: set[str]) -> Iterator[tuple[Path, list[tuple[str, str]]]]:
    """Batches of (sha256, path) of the images that are not done, each content once."""
    batch: list[tuple[str, str]] = []
    for sha, path in zip(hashes, manifest.table.column("path").to_pylist(), strict=True):
        if sha not in done:
            done.add(sha)
            batch.append((sha, path))
        if len(batch) == _BATCH:
            yield manifest.root, batch
            batch = []
    if batch:
        yield manifest.root, batch


def _measure_batch(task: tuple[Path, list[tuple[str, str]]]) -> list[dict[str, Any]]:
    root, images = task
    entries = []
    for sha, path in images:
        pixels = read_pixels(root / path)
        entries.append({"sha256": sha} | ({} if pixels is None else measure_pixels(pixels)))
    return entries


def fingerprints_of(entries: pa.Table) -> Fingerprints:
    """The fingerprints of entries; those of unreadable images are like no other."""
    prints = np.zeros(len(entries), PRINT)
    row = 0
    for chunk in entries.column("fingerprint").chunks:
        valid = chunk.is_valid().to_numpy(zero_copy_only=False)
        prints[row : row + len(chunk)][valid] = np.frombuffer(b"".join(chunk.drop_null().to_pylist()), PRINT)
        row += len(chunk)
    return Fingerprints.of(prints)
