"""``msip export-crops``: plan, write in parallel, list."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from msip.crops import RoiCrop
from msip.engine import run_tasks
from msip.errors import ManifestError, OptionError, OutputError
from msip.export.chunks import Chunk, CropFormat, is_finished, notes_folder, plan, read_note, remove_chunk, write_chunk
from msip.export.listing import ANNOTATIONS_NAME, SHEET_NAME, TABLE_NAME, write_coco, write_sheet, write_table
from msip.export.recipe import CropRecipe, Mode
from msip.files import local_path, make_output_folder, sync_all
from msip.manifest import Manifest, unmatched_flags
from msip.progress import Progress, silent
from msip.resize import warm_up

TAR_PIXELS = 256 << 20
"""A tar of crops is closed before they have more pixels than this; a pixel takes at most about a byte."""


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        images: looked at.
        crops: in the export.
        without_crops: images that gave none.
        kept: images whose crops were there from an earlier, perhaps interrupted, run.
        notes: sentences for whoever asked for it.
    """

    images: int
    crops: int
    without_crops: int
    kept: int
    notes: tuple[str, ...] = ()


def export_crops(
    out: str | Path,
    to: str | Path,
    *,
    fmt: CropFormat = "folder",
    mode: Mode = "rois",
    per_image: int | None = None,
    padding: int = 0,
    min_size: int = 1,
    seed: int = 0,
    epoch: int = 0,
    crop: RoiCrop | None = None,
    exclude_flags: Sequence[str] = (),
    workers: int = 1,
    tar_pixels: int = TAR_PIXELS,
    progress: Progress = silent,
) -> ExportReport:
    """Write crops of a build, with ``crops.csv`` (where each comes from) and a contact sheet; see docs/export-crops.md.

    The same build and arguments give the same bytes, whatever the number of workers; a killed export continues.

    Args:
        out: a build, with RoIs unless ``mode`` is ``training``.
        to: a new or empty folder, or one of an earlier export (whose crops are kept or replaced).
        fmt: ``folder``: ``TO/<source>/<stem>_<view>.png``; ``coco``: these and ``annotations.json``; ``webdataset``:
            tars of PNG and JSON.
        mode, per_image, padding, min_size, seed, epoch, crop: which crops, see ``CropRecipe``.
        exclude_flags: leave out images with any of these flags.
        workers: processes.
        tar_pixels: the most pixels of a tar, unless one image gives more.
        progress: of the stage ``crops``, in images.

    Raises:
        ManifestError: no manifest, one without RoIs, nothing left to export, or a stored image is gone.
        OutputError: ``to`` holds something else, or cannot be written.
        OptionError: ``padding`` or ``min_size`` with training crops.
    """
    if mode == "training" and (padding or min_size > 1):
        raise OptionError(
            "`padding` and `min_size` are for proposals (`mode=rois`); a training crop is what the trainer draws: "
            "leave them out."
        )
    recipe = CropRecipe(mode, per_image, padding, min_size, seed, epoch, crop or RoiCrop())
    whole = Manifest.read(out)
    manifest = _images(whole, recipe, exclude_flags)
    to = local_path(to)
    _prepare(to)
    chunks = list(plan(manifest, to, fmt, recipe, tar_pixels))
    _remove_others(to, chunks)
    finished = {chunk.name for chunk in chunks if is_finished(chunk)}
    kept = sum(int(_note(chunk).schema.metadata[b"images"]) for chunk in chunks if chunk.name in finished)
    progress("crops", kept, len(manifest))
    if recipe.mode == "training":
        warm_up()  # compile once here, so that the workers load the cached code
    for _, images in run_tasks(write_chunk, [chunk for chunk in chunks if chunk.name not in finished], workers):
        progress("crops", images, len(manifest))
    crops, with_crops = _list_crops(to, chunks, fmt, manifest)
    notes = unmatched_flags(whole.table, exclude_flags)
    return ExportReport(len(manifest), crops, len(manifest) - with_crops, kept, notes)


def _images(whole: Manifest, recipe: CropRecipe, exclude_flags: Sequence[str]) -> Manifest:
    manifest = whole.without_flags(exclude_flags)
    if len(manifest) == 0:
        raise ManifestError(
            f"{whole.root} leaves no image to export; leave fewer out with `exclude_flags`, or build it again."
        )
    if recipe.mode == "rois" and manifest.table.column("rois").null_count == len(manifest):
        raise ManifestError(f"{whole.root} was built without RoIs; run `msip rois {whole.root}` first.")
    return manifest


def _prepare(to: Path) -> None:
    """Make the folder, or refuse one that holds something else."""
    make_output_folder(to)
    if not notes_folder(to).is_dir() and any(to.iterdir()):
        raise OutputError(f"{to} is not empty and is no earlier export; choose a new folder as `to`.")
    notes_folder(to).mkdir(parents=True, exist_ok=True)


def _remove_others(to: Path, chunks: list[Chunk]) -> None:
    """Remove what an earlier export of other crops wrote; its lists go first, as they no longer hold."""
    digests = {chunk.note: chunk.digest for chunk in chunks}
    for path in sorted(notes_folder(to).glob("*.parquet")):
        note = read_note(path)
        if note is None or note.schema.metadata[b"digest"].decode() != digests.get(path):
            for name in (TABLE_NAME, ANNOTATIONS_NAME, SHEET_NAME):
                (to / name).unlink(missing_ok=True)
            remove_chunk(to, path)


def _note(chunk: Chunk) -> pa.Table:
    note = read_note(chunk.note)
    if note is None:
        raise OutputError(f"{chunk.note} vanished; run the same command again.")
    return note


def _list_crops(to: Path, chunks: list[Chunk], fmt: CropFormat, manifest: Manifest) -> tuple[int, int]:
    """Write the lists; returns the number of crops, and of images that gave some."""

    def notes() -> Iterator[pa.Table]:
        return map(_note, chunks)

    crops = with_crops = 0
    for note in notes():
        crops += len(note)
        with_crops += int(note.schema.metadata[b"with_crops"])
    if fmt == "coco":
        licences = {licence for licence in manifest.table.column("licence").unique().to_pylist() if licence}
        write_coco(to, notes, sorted(licences))
    write_sheet(to, notes, fmt, crops)
    sync_all()  # PNG files are not flushed one by one; the table comes last, and says that all are there
    write_table(to, notes)
    return crops, with_crops
