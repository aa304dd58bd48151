"""RoIs of every image of a manifest: parallel, resumable, a function of the stored bytes and the proposals' name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip import rois
from msip.build_report import BUILD_NAME, read_build
from msip.engine import ENGINES, Engine, EngineName
from msip.errors import ManifestError
from msip.files import write_bytes, write_json
from msip.ledger import Ledger
from msip.manifest import ROI_FIELDS, SCHEMA, Manifest
from msip.progress import Progress, silent
from msip.storage import read_image

_BATCH = 16

_ENTRY = pa.schema([pa.field("sha256", pa.string()), pa.field("rois", SCHEMA.field("rois").type)])


@dataclass(frozen=True)
class Proposals:
    """One way to find RoIs.

    Attributes:
        find: (image, *, filtered) to int32 (n, 5) x, y, width, height, area, as ``msip.rois.selective_search``.
        version: part of the ledger's folder: when the boxes change, it does.
        warm_up: compiles or loads the machine code, before workers start.
    """

    find: Callable[..., NDArray[np.int32]]
    version: int
    warm_up: Callable[[], None]


PROPOSALS: dict[str, Proposals] = {
    "exact": Proposals(rois.selective_search, 1, rois.warm_up),
    "half": Proposals(rois.half_size_search, 1, rois.warm_up),
    "extremal": Proposals(rois.extremal_boxes, 1, rois.warm_up_extremal),
}
"""By the name that ``msip rois --proposals`` takes; measured beside each other in docs/rois.md."""

DEFAULT_PROPOSALS = "exact"


def recorded_proposals(out: Path) -> str:
    """How a build's RoIs were found, the default where nothing is recorded. Raises ``ManifestError``."""
    name: str = (read_build(out) or {}).get("proposals") or DEFAULT_PROPOSALS
    if name not in PROPOSALS:
        raise ManifestError(
            f"{out / BUILD_NAME} says that its RoIs are {name!r} proposals, which this version does not know; "
            f"run `msip rois {out} --proposals {DEFAULT_PROPOSALS}`."
        )
    return name


@dataclass(frozen=True)
class RoiReport:
    """The outcome of ``propose_rois``: how RoIs were found, on how many images, how many, and images without any."""

    proposals: str
    images: int
    rois: int
    without_rois: int


def propose_rois(
    out: str | Path,
    *,
    proposals: str = DEFAULT_PROPOSALS,
    roi_txt: bool = False,
    workers: int = 1,
    engine: EngineName = "local",
    progress: Progress = silent,
) -> RoiReport:
    """Give every image of a build its RoIs, in place of those that it has, and record them in ``build.json``.

    Finished images are not computed again.

    Args:
        out: a build.
        proposals: a name in ``PROPOSALS``: ``exact`` (selective search), ``half`` or ``extremal``.
        roi_txt: also write ``<source>/roi/<stem>.txt`` as the reference reads them.
        workers: processes.
        engine: ``local``: processes of this machine; ``ray``: a Ray cluster.
        progress: of the stage ``RoIs``, in images.

    Raises:
        ManifestError: there is no readable manifest, or a stored image is gone or unreadable.
        OutputError: ``out`` cannot be written.
    """
    with ENGINES[engine](workers) as runner:
        manifest = add_rois(Manifest.read(out), engine=runner, proposals=proposals, progress=progress)
    manifest.write()
    counts = [len(manifest.rois(row)) for row in range(len(manifest))]
    if (record := read_build(manifest.root)) is not None:
        write_json(manifest.root / BUILD_NAME, record | {"proposals": proposals, "rois": sum(counts)})
    if roi_txt:
        write_roi_txt(manifest)
    return RoiReport(proposals, len(counts), sum(counts), counts.count(0))


def add_rois(
    manifest: Manifest,
    *,
    engine: Engine,
    proposals: str = DEFAULT_PROPOSALS,
    progress: Progress = silent,
) -> Manifest:
    """Give every row its RoIs.

    Finished images are kept in ``OUT/.msip/rois``, found again by the hash of their bytes; a killed run continues.

    Args:
        manifest: its ``root`` holds the images.
        engine: runs the tasks.
        proposals: a name in ``PROPOSALS``.
        progress: of the stage ``RoIs``, in images.

    Raises:
        ManifestError: a stored image is gone or unreadable.
    """
    method = PROPOSALS[proposals]
    ledger = Ledger(manifest.root / ".msip" / "rois" / f"{proposals}-v{method.version}", _ENTRY, "sha256")
    tasks = list(_tasks(manifest, ledger.index(ledger.read()), proposals))
    progress("RoIs", len(manifest) - sum(len(task.images) for task in tasks), len(manifest))
    if tasks:
        method.warm_up()  # compile once here, so that the workers load the cached code
    for entries in engine.run(_roi_batch, tasks):
        ledger.append(entries)
        progress("RoIs", len(entries), len(manifest))
    hashes = manifest.table.column("sha256").to_pylist()
    known = ledger.finish(list(dict.fromkeys(hashes)))
    done = ledger.index(known)
    order = pa.array([done[sha] for sha in hashes], pa.int64())
    column = known.column("rois").take(order)
    table = manifest.table.set_column(SCHEMA.get_field_index("rois"), SCHEMA.field("rois"), column)
    return Manifest(table, manifest.root)


@dataclass(frozen=True)
class _Task:
    """Images of one folder, (sha256, path, channels, pixels without data), and whose proposals they get."""

    root: Path
    proposals: str
    images: list[tuple[str, str, int, int | None]]


def _tasks(manifest: Manifest, done: dict[str, int], proposals: str) -> Iterator[_Task]:
    """The images that are not done, each content once."""
    columns = [manifest.table.column(name).to_pylist() for name in ("sha256", "path", "channels")]
    missing = "nodata" in manifest.table.column_names and manifest.table.column("nodata").to_pylist()
    images: dict[str, tuple[str, str, int, int | None]] = {}
    for image in zip(*columns, missing or [None] * len(manifest), strict=True):
        if image[0] not in done:
            images.setdefault(image[0], image)
    waiting = list(images.values())
    for start in range(0, len(waiting), _BATCH):
        yield _Task(manifest.root, proposals, waiting[start : start + _BATCH])


def _roi_batch(task: _Task) -> list[dict[str, Any]]:
    find = PROPOSALS[task.proposals].find
    entries = []
    for sha, path, channels, missing in task.images:
        image = read_image(task.root / path, channels)
        if image is None:
            raise ManifestError(f"{task.root / path} is gone or unreadable; run the build again to restore it.")
        boxes = _find_in_measured(find, image) if missing else find(image)
        entries.append({"sha256": sha, "rois": [dict(zip(ROI_FIELDS, box, strict=True)) for box in boxes.tolist()]})
    return entries


def _find_in_measured(find: Callable[[NDArray], NDArray[np.int32]], image: NDArray) -> NDArray[np.int32]:
    """RoIs of a grey image in which 0 is no data: filled with the mean, and none that lies in it by half."""
    measured = image > 0
    boxes = find(np.where(measured, image, np.uint8(image[measured].mean())))
    share = [measured[y : y + height, x : x + width].mean() for x, y, width, height, _ in boxes]
    return boxes[np.array(share) > 0.5] if len(boxes) else boxes


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
