"""The dataset in FiftyOne: made from a manifest, and brought up to date when the manifest changes.

Rows go in as ``FiftyOneDataset`` folders, the fastest import of FiftyOne's public interface (25 times ``add_samples``).
Every sample carries the digest of its row: an update removes and writes only the rows whose digest differs, and a
killed import is continued the same way.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip.errors import InspectionError
from msip.inspection.app import launch
from msip.inspection.app_style import decorate
from msip.inspection.documents import DocumentWriter
from msip.inspection.draws import DRAWN_FROM, Draw, draw_crops
from msip.inspection.previews import make_previews
from msip.inspection.rows import FORMAT, Rows, dataset_name
from msip.inspection.schema import declare, has_fields
from msip.inspection.tags import patch_tags
from msip.inspection.views import View, make_views
from msip.manifest import Manifest, flag_name
from msip.progress import Progress, silent

INFO = "msip"
"""Key of what we note in ``dataset.info``."""

LOOK = 3
"""Another set of views, or another appearance, is made anew in datasets that are there."""

_CHUNK = 2048


@dataclass(frozen=True)
class SavedView:
    """A view in the dataset.

    Attributes:
        name, shows, kind: see ``View``.
        holds: images or patches that FiftyOne counted when the view was saved.
        count: the same, computed from the manifest.
    """

    name: str
    shows: str
    kind: str
    holds: int
    count: int


@dataclass
class Inspection:
    """A dataset in FiftyOne, up to date.

    Attributes:
        dataset: the ``fiftyone.Dataset``.
        rows: what is in it, of the manifest.
        views: saved in it.
        added, changed, removed: samples written or deleted by this call.
        missing: stored images that are not where the manifest says.
    """

    dataset: Any
    rows: Rows
    views: list[SavedView] = field(default_factory=list)
    added: int = 0
    changed: int = 0
    removed: int = 0
    missing: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The summary that ``--json`` prints."""
        return {
            "dataset": self.dataset.name,
            "images": len(self.dataset),
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "missing": len(self.missing),
            "views": {view.name: view.holds for view in self.views},
        }

    def launch(self, *, address: str = "127.0.0.1", port: int = 5151, remote: bool = False) -> Any:
        """Start the App on the dataset and wait until it answers.

        Args:
            address, port: where it listens.
            remote: open no browser here.

        Returns:
            The ``fiftyone.Session``; its ``wait(-1)`` returns when the process is interrupted.

        Raises:
            InspectionError: the port is taken, or the App does not answer.
        """
        return launch(self.dataset, address=address, port=port, remote=remote)


def import_build(fiftyone: Any, rows: Rows, *, draw: Draw | None = None, progress: Progress = silent) -> Inspection:
    """Make or update the dataset of a build, its patches and its saved views.

    Args:
        fiftyone: the module, from ``msip.inspection.database.connect``.
        rows: of the build's manifest, those that the dataset is to hold.
        draw: the training crops; seed 0, epoch 0, four an image by default.
        progress: of the stages ``into FiftyOne's database``, in images, and ``views``.

    Raises:
        ManifestError: the manifest is damaged.
        InspectionError: the images are not where it says.
    """
    draw = draw or Draw()
    root = str(rows.root)
    missing = find_missing(rows.manifest)
    dataset = _load_or_create(fiftyone, root)
    state = {"format": FORMAT, "root": root, "manifest": rows.manifest.digest(), "max_samples": rows.max_samples}
    noted = dict(dataset.info.get(INFO, {}))
    current = {name: noted.get(name) for name in state} == state and len(dataset) == len(rows)
    drawn = noted.get("crops") == draw.as_dict()
    if current and drawn and noted.get("look") == LOOK:
        return Inspection(dataset, rows, [SavedView(**view) for view in noted["views"]], missing=missing)
    result = Inspection(dataset, rows, missing=missing)
    if not current:
        note(dataset, {"root": root, "crops": noted.get("crops")})  # incomplete from here on
        _update(fiftyone, result, rows, progress)
    if not drawn:
        note(dataset, {"root": root})
    chosen = rows.chosen_for_patches(draw.per_image)
    _show_patches(fiftyone, dataset, rows, chosen, draw, keep=drawn)
    result.views = _save_views(dataset, make_views(rows, chosen, draw.per_image), progress)
    decorate(fiftyone, dataset)
    views = [asdict(view) for view in result.views]
    note(dataset, state | {"look": LOOK, "crops": draw.as_dict(), "views": views})
    return result


def find_missing(manifest: Manifest) -> list[str]:
    """Stored images that are gone, found by listing folders. Raises ``InspectionError`` if all are."""
    places = [path.rpartition("/") for path in manifest.table.column("path").to_pylist()]
    folders: dict[str, set[str]] = {}
    for parent in {parent for parent, _, _ in places}:
        folder = manifest.root / parent
        folders[parent] = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    gone = [f"{parent}/{name}" for parent, _, name in places if name not in folders[parent]]
    if places and len(gone) == len(places):
        raise InspectionError(
            f"none of the {len(places)} images is where the manifest says (the first: {manifest.root / gone[0]}); move "
            "them back beside the manifest, or build again."
        )
    return gone


def _load_or_create(fiftyone: Any, root: str) -> Any:
    name = dataset_name(Path(root))
    if fiftyone.dataset_exists(name):
        dataset = fiftyone.load_dataset(name)
        if dataset.info.get(INFO, {}).get("root") == root and has_fields(dataset):
            return dataset
        fiftyone.delete_dataset(name)
    dataset = fiftyone.Dataset(name, persistent=True)
    declare(fiftyone, dataset)
    note(dataset, {"root": root})
    return dataset


def note(dataset: Any, state: dict[str, Any]) -> None:
    """Keep ``state`` in the dataset, in place of what was noted before."""
    dataset.info[INFO] = state
    dataset.save()


def _update(fiftyone: Any, result: Inspection, rows: Rows, progress: Progress) -> None:
    """Bring the samples in line with the rows; what is as it should be is not touched."""
    dataset = result.dataset
    known = dict(zip(*dataset.values(["id", "row_digest"]), strict=True)) if len(dataset) else {}
    wanted = dict(zip(rows.sample_ids, rows.numbers["digest"].tolist(), strict=True))
    stale = [identity for identity, digest in known.items() if wanted.get(identity) != digest]
    todo = np.asarray([row for row, name in enumerate(rows.sample_ids) if known.get(name) != wanted[name]], np.int64)
    result.removed = sum(identity not in wanted for identity in stale)
    result.changed = len(stale) - result.removed
    result.added = len(todo) - result.changed
    writer = DocumentWriter(rows, _kept_tags(dataset, rows, stale) if stale else {})
    stage = "into FiftyOne's database"
    progress(stage, len(rows) - len(todo), len(rows))
    with tempfile.TemporaryDirectory(prefix="msip-inspect-") as folder:
        schema = _schema(fiftyone, dataset, Path(folder)) if len(todo) else {}
        for group, table in rows.tables(todo):
            for start in range(0, len(group), _CHUNK):
                part = group[start : start + _CHUNK]
                names = [rows.sample_ids[row] for row in part if rows.sample_ids[row] in known]
                if names:
                    dataset.delete_samples(names)  # chunk by chunk: a kill loses at most this many tags
                _import(fiftyone, dataset, Path(folder), schema, writer, part, table.slice(start, _CHUNK))
                progress(stage, len(part), len(rows))
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
    table: pa.Table,
) -> None:
    (folder / "metadata.json").write_text(json.dumps(schema))
    writer.write(folder / "samples.json", part, table, make_previews(writer.rows.root, table))
    dataset.add_dir(dataset_dir=str(folder), dataset_type=fiftyone.types.FiftyOneDataset, progress=False)


def _kept_tags(dataset: Any, rows: Rows, stale: list[str]) -> dict[str, list[str]]:
    """Tags of samples that are written anew, where they are not the flags: given in the App, and not pulled yet.

    A tag on a RoI or a crop goes with its box; the image keeps it under the name that ``pull_tags`` would give it.
    """
    position = {identity: row for row, identity in enumerate(rows.sample_ids)}
    kept = {}
    view = dataset.select(stale) if len(stale) < len(dataset) else dataset
    on_patches = patch_tags(view)
    for identity, tags, flags in zip(*view.values(["id", "tags", "flags"]), strict=True):
        base, given = {flag_name(flag) for flag in flags or []}, set(tags or []) | on_patches.get(identity, set())
        if identity not in position or base == given:
            continue
        now = [flag_name(flag) for flag in rows.flags[position[identity]]]
        new = [name for name in now if name not in base - given] + sorted(given - base)
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
    todo = np.asarray([row for name, row in wanted.items() if not (keep and name in previous)], np.int64)
    new = draw_crops(fiftyone, rows.root, (table for _, table in rows.tables(todo, DRAWN_FROM)), draw)
    if new:
        dataset.set_values("crops", new, key_field="id")
        dataset.set_values("shown_as_patches", dict.fromkeys(new, True), key_field="id")


def _save_views(dataset: Any, views: list[View], progress: Progress) -> list[SavedView]:
    """Ours are replaced; views that a person saved stay."""
    ours = set(dataset.info.get("msip_views", []))
    for name in dataset.list_saved_views():
        if name in ours or name in {view.name for view in views}:
            dataset.delete_saved_view(name)
    saved = []
    progress("views", 0, len(views))
    for view in views:
        selected = view.select(dataset)
        dataset.save_view(view.name, selected, description=view.shows)
        saved.append(SavedView(view.name, view.shows, view.kind, len(selected), view.count))
        progress("views", 1, len(views))
    dataset.info["msip_views"] = [view.name for view in views]
    dataset.save()
    return saved
