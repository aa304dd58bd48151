"""RoIs of every image of a manifest: parallel, resumable, a function of the stored bytes alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip import rois
from msip.engine import Engine
from msip.errors import ManifestError
from msip.files import write_bytes
from msip.ledger import Ledger
from msip.manifest import ROI_FIELDS, SCHEMA, Manifest

_BATCH = 16
_METHOD = "exact-v1"  # part of the ledger's folder: another method or version starts anew

_ENTRY = pa.schema([pa.field("sha256", pa.string()), pa.field("rois", SCHEMA.field("rois").type)])


def read_image(path: Path, channels: int) -> NDArray[np.uint8] | None:
    """The stored image as the reference's ``cv2.imread`` gives it; one channel where the file has one."""
    colour = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    image = cv2.imread(str(path), colour | cv2.IMREAD_IGNORE_ORIENTATION)
    return None if image is None else np.asarray(image, np.uint8)


def add_rois(
    manifest: Manifest,
    *,
    engine: Engine,
    progress: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Give every row its RoIs (selective search, see ``msip.rois``).

    Finished images are kept in ``OUT/.msip/rois``, found again by the hash of their bytes; a killed run continues.

    Args:
        manifest: its ``root`` holds the images.
        engine: runs the tasks.
        progress: called with the number of images finished since the last call.

    Raises:
        ManifestError: a stored image is gone or unreadable.
    """
    ledger = Ledger(manifest.root / ".msip" / "rois" / _METHOD, _ENTRY, "sha256")
    tasks = list(_tasks(manifest, ledger.index(ledger.read())))
    progress(len(manifest) - sum(len(task[1]) for task in tasks))
    if tasks:
        rois.warm_up()  # compile once here, so that the workers load the cached code
    for entries in engine.run(_roi_batch, tasks):
        ledger.append(entries)
        progress(len(entries))
    hashes = manifest.table.column("sha256").to_pylist()
    known = ledger.finish(list(dict.fromkeys(hashes)))
    done = ledger.index(known)
    order = pa.array([done[sha] for sha in hashes], pa.int64())
    column = known.column("rois").take(order)
    table = manifest.table.set_column(SCHEMA.get_field_index("rois"), SCHEMA.field("rois"), column)
    return Manifest(table.cast(SCHEMA), manifest.root)


def _tasks(manifest: Manifest, done: dict[str, int]) -> Iterator[tuple[Path, list[tuple[str, str, int]]]]:
    """Batches of (sha256, path, channels) of the images that are not done, each content once."""
    columns = (manifest.table.column(name).to_pylist() for name in ("sha256", "path", "channels"))
    queued = set(done)
    batch: list[tuple[str, str, int]] = []
    for sha, path, channels in zip(*columns, strict=True):
        if sha in queued:
            continue
        queued.add(sha)
        batch.append((sha, path, channels))
        if len(batch) == _BATCH:
            yield manifest.root, batch
            batch = []
    if batch:
        yield manifest.root, batch


def _roi_batch(task: tuple[Path, list[tuple[str, str, int]]]) -> list[dict[str, Any]]:
    root, images = task
    entries = []
    for sha, path, channels in images:
        image = read_image(root / path, channels)
        if image is None:
            raise ManifestError(f"{root / path} is gone or unreadable; run the build again to restore it.")
        boxes = rois.selective_search(image)
        entries.append({"sha256": sha, "rois": [dict(zip(ROI_FIELDS, box, strict=True)) for box in boxes.tolist()]})
    return entries


def write_roi_txt(manifest: Manifest) -> int:
    """Write ``<source>/roi/<stem>.txt``: lines "x,y,w,h", in the order in which the reference writes them.

    The reference writes the elements of a Python set; the same insertions give the same order here.
    Returns the number of files.
    """
    for index, image_id in enumerate(manifest.table.column("image_id").to_pylist()):
        source, stem = image_id.split("/", 1)
        boxes: set[tuple[int, ...]] = set()
        for box in manifest.rois(index).tolist():
            boxes.add(tuple(box[:4]))
        text = "".join(",".join(map(str, box)) + "\n" for box in boxes)
        write_bytes(manifest.root / source / "roi" / f"{stem}.txt", text.encode(), sync=False)
    return len(manifest)
