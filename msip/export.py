"""Crops as files: what the proposals are, and what the trainer sees."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from msip.crops import Box, RoiCrop, cut, sample_key, sample_rng
from msip.engine import run_tasks
from msip.errors import ManifestError, OutputError
from msip.files import make_output_folder, write_bytes
from msip.manifest import Manifest
from msip.pictures import contact_sheet, encode_png
from msip.proposals import read_image

Mode = Literal["rois", "training"]

TABLE_NAME = "crops.csv"
SHEET_NAME = "contact_sheet.png"
_COLUMNS = ("file", "image_id", "mode", "x", "y", "width", "height", "area", "size", "flip", "seed", "epoch", "view")
_BATCH = 32
_SHEET_CROPS = 64


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote: ``images`` looked at, ``crops`` written, ``without_crops``: images that gave none."""

    images: int
    crops: int
    without_crops: int


@dataclass(frozen=True)
class _Job:
    """Some images of a manifest: (image_id, path, channels, RoIs), and how to crop them."""

    root: Path
    to: Path
    mode: Mode
    per_image: int | None
    crop: RoiCrop
    seed: int
    epoch: int
    images: list[tuple[str, str, int, NDArray[np.int32]]]


def export_crops(
    out: str | Path,
    to: str | Path,
    *,
    mode: Mode = "rois",
    per_image: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    crop: RoiCrop | None = None,
    exclude_flags: tuple[str, ...] = (),
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportReport:
    """Write crops as ``TO/<source>/<stem>_<k>.png`` with ``TO/crops.csv`` (where each comes from) and a contact sheet.

    Args:
        out: a build with RoIs.
        to: a new or empty folder, or one of an earlier export (its files are replaced).
        mode: ``rois``: each proposal, cut out at its own size, largest first; ``training``: what the trainer draws
            for (seed, epoch), squashed and mirrored as there; view 0 is the very sample of that epoch.
        per_image: at most this many proposals (all by default), or this many training views (1 by default).
        seed, epoch: of the training draws.
        crop: the training crop; the reference's by default.
        exclude_flags: leave out images with any of these flags.
        workers: processes.
        progress: called with images finished since the last call, and their total.

    Raises:
        ManifestError: no manifest, or one without RoIs.
        OutputError: ``to`` holds something else.
    """
    manifest = Manifest.read(out).without_flags(exclude_flags)
    if mode == "rois" and manifest.table.column("rois").null_count == len(manifest):
        raise ManifestError(f"{out} was built without RoIs; run `msip rois {out}` first.")
    to = _prepare(Path(to))
    rows: list[dict[str, Any]] = []
    progress(0, len(manifest))
    without = 0
    for images, crops in run_tasks(_export_batch, _jobs(manifest, to, mode, per_image, seed, epoch, crop), workers):
        rows += crops
        without += images - len({row["image_id"] for row in crops})
        progress(images, len(manifest))
    rows.sort(key=lambda row: (row["image_id"], row["view"]))
    _write_sheet(to, rows)
    _write_table(to, rows)
    return ExportReport(len(manifest), len(rows), without)


def _prepare(to: Path) -> Path:
    """Make the folder; clear an earlier export, refuse anything else."""
    make_output_folder(to)
    table = to / TABLE_NAME
    if table.exists():
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                (to / row["file"]).unlink(missing_ok=True)
        table.unlink()
        (to / SHEET_NAME).unlink(missing_ok=True)
    elif any(to.iterdir()):
        raise OutputError(f"{to} is not empty and is no earlier export; choose a new folder with --to.")
    _write_table(to, [])  # an interrupted export is known as one
    return to


def _jobs(
    manifest: Manifest, to: Path, mode: Mode, per_image: int | None, seed: int, epoch: int, crop: RoiCrop | None
) -> Iterator[_Job]:
    ids, paths, channels = (manifest.table.column(name).to_pylist() for name in ("image_id", "path", "channels"))
    for start in range(0, len(manifest), _BATCH):
        rows = range(start, min(start + _BATCH, len(manifest)))
        images = [(ids[row], paths[row], channels[row], manifest.rois(row)) for row in rows]
        yield _Job(manifest.root, to, mode, per_image, crop or RoiCrop(), seed, epoch, images)


def _export_batch(job: _Job) -> tuple[int, list[dict[str, Any]]]:
    rows: list[dict[str, Any]] = []
    for image_id, path, channels, boxes in job.images:
        # The trainer reads one channel; a proposal is shown as it was found.
        image = read_image(job.root / path, 1 if job.mode == "training" else channels)
        if image is None:
            raise ManifestError(f"{job.root / path} is gone or unreadable; run the build again to restore it.")
        rows += (
            _export_rois(job, image_id, image, boxes)
            if job.mode == "rois"
            else _export_views(job, image_id, image, boxes)
        )
    return len(job.images), rows


def _export_rois(
    job: _Job, image_id: str, image: NDArray[np.uint8], boxes: NDArray[np.int32]
) -> Iterator[dict[str, Any]]:
    order = np.argsort(-(boxes[:, 2].astype(np.int64) * boxes[:, 3]), kind="stable")[: job.per_image]
    for view, index in enumerate(order):
        x, y, width, height, area = (int(value) for value in boxes[index])
        row = _row(job, image_id, view, (x, y, width, height)) | {"area": area}
        write_bytes(job.to / row["file"], encode_png(image[y : y + height, x : x + width]), sync=False)
        yield row


def _export_views(
    job: _Job, image_id: str, image: NDArray[np.uint8], boxes: NDArray[np.int32]
) -> Iterator[dict[str, Any]]:
    height, width = image.shape[:2]
    for view in range(job.per_image or 1):
        rng = sample_rng(job.seed, job.epoch, sample_key(image_id), view)
        box, flip = job.crop.draw((width, height), boxes, rng)
        row = _row(job, image_id, view, box)
        row |= {"size": job.crop.size, "flip": int(flip), "seed": job.seed, "epoch": job.epoch}
        write_bytes(job.to / row["file"], encode_png(cut(image, box, job.crop.size, flip=flip)), sync=False)
        yield row


def _row(job: _Job, image_id: str, view: int, box: Box) -> dict[str, Any]:
    place = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return {"file": f"{image_id}_{view}.png", "image_id": image_id, "mode": job.mode, "view": view, **place}


def _write_table(to: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(to / TABLE_NAME, text.getvalue().encode())


def _write_sheet(to: Path, rows: list[dict[str, Any]]) -> None:
    """Crops from all over the export, evenly spread."""
    if not rows:
        return
    chosen = [rows[index] for index in np.unique(np.linspace(0, len(rows) - 1, _SHEET_CROPS).astype(int))]
    crops = [read_image(to / row["file"], 1) for row in chosen]
    sheet = contact_sheet([crop for crop in crops if crop is not None])
    write_bytes(to / SHEET_NAME, encode_png(sheet))
