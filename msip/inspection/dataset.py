"""The dataset in FiftyOne: made from a manifest, and brought up to date when the manifest changes.

Rows go in as ``FiftyOneDataset`` folders, the fastest import of FiftyOne's public interface (25 times ``add_samples``).
Every sample carries the digest of its row: an update removes and writes only the rows whose digest differs, and a
killed import is continued the same way.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msip.crops import RoiCrop, sample_key, sample_rng
from msip.errors import InspectionError
from msip.files import sha256_bytes
from msip.inspection.appearance import FIELDS, decorate
from msip.inspection.previews import make_previews
from msip.inspection.rows import FORMAT, DocumentWriter, Rows, flag_name
from msip.inspection.views import View, make_views
from msip.manifest import Manifest

INFO = "msip"
"""Key of what we note in ``dataset.info``."""

_CHUNK = 2048
_MOST_SAMPLES = 10_000_000


@dataclass(frozen=True)
class Draw:
    """Which training crops are shown: ``per_image`` views of (``seed``, ``epoch``)."""

    seed: int = 0
    epoch: int = 0
    per_image: int = 4


@dataclass
class Inspection:
    """A dataset in FiftyOne, up to date.

    Attributes:
        dataset: the ``fiftyone.Dataset``.
        rows: the manifest that it shows.
        views: saved in it.
        added, changed, removed: samples written or deleted by this call.
        missing: stored images that are not where the manifest says.
    """

    dataset: Any
    rows: Rows
    views: list[View]
    added: int = 0
    changed: int = 0
    removed: int = 0
    missing: list[str] = field(default_factory=list)


def dataset_name(out: Path) -> str:
    """The folder's name, and eight digits of its whole path: two builds called ``data`` do not meet."""
    resolved = out.resolve()
    words = re.sub(r"[^A-Za-z0-9]+", "-", resolved.name).strip("-") or "msip"
    return f"{words}-{sha256_bytes(str(resolved).encode())[:8]}"


def inspect(
    fiftyone: Any,
    out: str | Path,
    *,
    draw: Draw | None = None,
    max_samples: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Inspection:
    """Make or update the dataset of a build, its patches and its saved views.

    Args:
        fiftyone: the module, from ``msip.inspection.database.connect``.
        out: the folder of the build.
        draw: the training crops; seed 0, epoch 0, four an image by default.
        max_samples: only this many images, spread evenly over the manifest; all by default.
        progress: called with samples written since the last call, and their total.

    Raises:
        ManifestError: there is no readable manifest.
        InspectionError: the images are not where it says.
    """
    draw = draw or Draw()
    manifest = limited(Manifest.read(out), max_samples)
    rows = Rows(manifest)
    missing = _missing(manifest)
    dataset = _load_or_create(fiftyone, manifest)
    chosen = rows.chosen_for_patches(draw.per_image)
    views = make_views(rows, chosen, draw.per_image)
    result = Inspection(dataset, rows, views, missing=missing)
    state = {
        "format": FORMAT,
        "root": str(manifest.root.resolve()),
        "manifest": manifest.digest(),
        "images": len(rows),
        "max_samples": max_samples,
    }
    noted = dict(dataset.info.get(INFO, {}))
    crops = {"seed": draw.seed, "epoch": draw.epoch, "per_image": draw.per_image}
    current = {name: noted.get(name) for name in state} == state and len(dataset) == len(rows)
    drawn = noted.get("crops") == crops
    if not current:
        _note(dataset, {"root": state["root"], "crops": noted.get("crops")})  # incomplete from here on
        _update(fiftyone, result, progress)
    if not (current and drawn):
        if not drawn:
            _note(dataset, {"root": state["root"]})
        _show_patches(fiftyone, dataset, rows, chosen, draw, keep=drawn)
        _save_views(dataset, views)
        decorate(fiftyone, dataset, rows)
        _note(dataset, state | {"crops": crops})
    return result


def limited(manifest: Manifest, max_samples: int | None) -> Manifest:
    """At most ``max_samples`` rows, spread evenly."""
    if max_samples is None or max_samples >= len(manifest):
        return manifest
    chosen = np.unique(np.linspace(0, len(manifest) - 1, max_samples).astype(np.int64))
    return Manifest(manifest.table.take(chosen), manifest.root)


def _missing(manifest: Manifest) -> list[str]:
    """Stored images that are gone, found by listing folders. Raises ``InspectionError`` if all are."""
    paths = [Path(path) for path in manifest.table.column("path").to_pylist()]
    folders: dict[Path, set[str]] = {}
    for parent in {path.parent for path in paths}:
        folder = manifest.root / parent
        folders[parent] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    gone = [path.as_posix() for path in paths if path.name not in folders[path.parent]]
    if paths and len(gone) == len(paths):
        raise InspectionError(
            f"none of the {len(paths)} images is where the manifest says (the first: {manifest.root / gone[0]}); move "
            "them back beside the manifest, or build again."
        )
    return gone


def _load_or_create(fiftyone: Any, manifest: Manifest) -> Any:
    name = dataset_name(manifest.root)
    if fiftyone.dataset_exists(name):
        dataset = fiftyone.load_dataset(name)
        if dataset.info.get(INFO, {}).get("root") == str(manifest.root.resolve()) and _has_fields(dataset):
            return dataset
        fiftyone.delete_dataset(name)
    dataset = fiftyone.Dataset(name, persistent=True)
    _declare(fiftyone, dataset)
    _note(dataset, {"root": str(manifest.root.resolve())})
    return dataset


def _has_fields(dataset: Any) -> bool:
    schema = dataset.get_field_schema()
    return all(name in schema for name in FIELDS)


def _note(dataset: Any, state: dict[str, Any]) -> None:
    dataset.info[INFO] = state
    dataset.save()


def _declare(fiftyone: Any, dataset: Any) -> None:
    """All fields with their types: one throw-away sample declares them, nothing is guessed from the data."""
    detection = fiftyone.Detection(label="small", bounding_box=[0, 0, 1, 1], area=1, order=0, share=0.5)
    crop = fiftyone.Detection(label="view 0", bounding_box=[0, 0, 1, 1], view=0, mirrored=False, share=0.5)
    size = fiftyone.ImageMetadata(size_bytes=1, mime_type="image/png", width=1, height=1, num_channels=1)
    values = {name: example for name, (example, _) in FIELDS.items()}
    sample = fiftyone.Sample(filepath="/none.png", metadata=size, **values)
    sample["rois"] = fiftyone.Detections(detections=[detection])
    sample["crops"] = fiftyone.Detections(detections=[crop])
    dataset.add_sample(sample, dynamic=True)
    dataset.delete_samples([sample.id])
    for name, (_, description) in FIELDS.items():
        declared = dataset.get_field(name)
        declared.description = description
        declared.save()


def _update(fiftyone: Any, result: Inspection, progress: Callable[[int, int], None]) -> None:
    """Bring the samples in line with the rows; what is as it should be is not touched."""
    dataset, rows = result.dataset, result.rows
    writer = DocumentWriter(rows)
    known = dict(zip(*dataset.values(["id", "row_digest"]), strict=True)) if len(dataset) else {}
    wanted = dict(zip(rows.sample_ids, writer.digests.tolist(), strict=True))
    stale = [identity for identity, digest in known.items() if wanted.get(identity) != digest]
    todo = np.asarray([row for row, name in enumerate(rows.sample_ids) if known.get(name) != wanted[name]], np.int64)
    result.removed = sum(identity not in wanted for identity in stale)
    result.changed = len(stale) - result.removed
    result.added = len(todo) - result.changed
    tags = _kept_tags(dataset, rows, stale) if stale else {}
    progress(len(rows) - len(todo), len(rows))
    with tempfile.TemporaryDirectory(prefix="msip-inspect-") as folder:
        schema = _schema(fiftyone, dataset, Path(folder)) if len(todo) else {}
        for start in range(0, len(todo), _CHUNK):
            part = todo[start : start + _CHUNK]
            names = [rows.sample_ids[row] for row in part if rows.sample_ids[row] in known]
            if names:
                dataset.delete_samples(names)  # chunk by chunk: a kill loses at most this many tags
            _import(fiftyone, dataset, Path(folder), schema, writer, part, tags)
            progress(len(part), len(rows))
    gone = [identity for identity in stale if identity not in wanted]
    for start in range(0, len(gone), _CHUNK):
        dataset.delete_samples(gone[start : start + _CHUNK])
    for name in ("source", "shown_as_patches"):
        dataset.create_index(name)


def _schema(fiftyone: Any, dataset: Any, folder: Path) -> dict[str, Any]:
    """The ``metadata.json`` that goes with each folder of rows, from FiftyOne's own exporter."""
    to = folder / "schema"
    none = dataset.limit(0) if len(dataset) else dataset
    none.export(
        export_dir=str(to),
        dataset_type=fiftyone.types.FiftyOneDataset,
        export_media=False,
        overwrite=True,
        progress=False,
    )
    schema: dict[str, Any] = json.loads((to / "metadata.json").read_text())
    return schema | {"saved_views": [], "workspaces": [], "brain_methods": {}, "runs": {}}


def _import(
    fiftyone: Any,
    dataset: Any,
    folder: Path,
    schema: dict[str, Any],
    writer: DocumentWriter,
    part: NDArray[np.int64],
    tags: dict[str, list[str]],
) -> None:
    (folder / "metadata.json").write_text(json.dumps(schema))
    writer.write(folder / "samples.json", part, tags, make_previews(writer.rows.manifest, part))
    dataset.add_dir(dataset_dir=str(folder), dataset_type=fiftyone.types.FiftyOneDataset, progress=False)


def _kept_tags(dataset: Any, rows: Rows, stale: list[str]) -> dict[str, list[str]]:
    """Tags of samples that are written anew: the manifest's flags, and what was done in the App but not yet pulled."""
    position = {identity: row for row, identity in enumerate(rows.sample_ids)}
    kept = {}
    view = dataset.select(stale) if len(stale) < len(dataset) else dataset
    for identity, tags, flags in zip(*view.values(["id", "tags", "flags"]), strict=True):
        if identity not in position:
            continue
        base = {flag_name(flag) for flag in flags or []}
        now = [flag_name(flag) for flag in rows.flags[position[identity]]]
        removed = base - set(tags or [])
        new = [name for name in now if name not in removed] + sorted(set(tags or []) - base)
        kept[identity] = list(dict.fromkeys(new))
    return kept


def _show_patches(
    fiftyone: Any, dataset: Any, rows: Rows, chosen: NDArray[np.int64], draw: Draw, *, keep: bool
) -> None:
    """Mark the images whose patches are shown, and draw their training crops by the trainer's own function.

    ``keep``: crops that are there are of this draw; samples that were written anew have none.
    """
    previous = set(dataset.match(fiftyone.ViewField("shown_as_patches") == True).values("id"))  # noqa: E712
    wanted = {rows.sample_ids[row]: int(row) for row in chosen}
    gone = previous - wanted.keys()
    if gone:
        dataset.set_values("shown_as_patches", dict.fromkeys(gone), key_field="id")
        dataset.set_values("crops", dict.fromkeys(gone), key_field="id")
    new = {name: _crops(fiftyone, rows, row, draw) for name, row in wanted.items() if not (keep and name in previous)}
    if new:
        dataset.set_values("crops", new, key_field="id")
        dataset.set_values("shown_as_patches", dict.fromkeys(new, True), key_field="id")


def _crops(fiftyone: Any, rows: Rows, row: int, draw: Draw) -> Any:
    width, height = int(rows.widths[row]), int(rows.heights[row])
    boxes = rows.boxes[rows.offsets[row] : rows.offsets[row + 1]]
    key, crop, detections = sample_key(rows.image_ids[row]), RoiCrop(), []
    for view in range(draw.per_image):
        (x, y, w, h), mirrored = crop.draw((width, height), boxes, sample_rng(draw.seed, draw.epoch, key, view))
        place = [x / width, y / height, w / width, h / height]
        share = w * h / (width * height)
        detections.append(
            fiftyone.Detection(label=f"view {view}", bounding_box=place, view=view, mirrored=mirrored, share=share)
        )
    return fiftyone.Detections(detections=detections)


def _save_views(dataset: Any, views: list[View]) -> None:
    """Ours are replaced; views that a person saved stay."""
    ours = set(dataset.info.get("msip_views", []))
    for name in dataset.list_saved_views():
        if name in ours or name in {view.name for view in views}:
            dataset.delete_saved_view(name)
    for view in views:
        dataset.save_view(view.name, view.select(dataset), description=view.shows)
    dataset.info["msip_views"] = [view.name for view in views]
    dataset.save()
