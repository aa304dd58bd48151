"""Tags given in the App, back to the manifest's flags.

A sample's tags begin as the names of its flags. What was added to or taken from them since is added to or taken from
the flags of the manifest as it is now, so that flags given meanwhile (by ``msip curate``) stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msip.errors import InspectionError
from msip.inspection.rows import dataset_name, sample_id
from msip.manifest import Manifest, flag_name

PATCH_PREFIXES = {"rois": "roi_", "crops": "crop_"}
"""A tag on a RoI or on a training crop becomes a flag of its image under this prefix."""


@dataclass(frozen=True)
class PullReport:
    """What was pulled: ``images`` whose flags changed, and images per flag that was ``added`` or ``removed``."""

    images: int
    added: dict[str, int]
    removed: dict[str, int]


def pull_tags(fiftyone: Any, out: str | Path) -> PullReport:
    """Write the tags of the App into the manifest of ``out``, whole or not at all.

    Raises:
        ManifestError: there is no readable manifest.
        InspectionError: the build was never opened with ``msip inspect``.
    """
    manifest = Manifest.read(out)
    name = dataset_name(manifest.root)
    if not fiftyone.dataset_exists(name):
        raise InspectionError(f"{out} has no dataset in FiftyOne's database yet; run `msip inspect {out}` first.")
    dataset = fiftyone.load_dataset(name)
    wanted = _wanted(dataset)
    flags: list[list[str]] = [value or [] for value in manifest.table.column("flags").to_pylist()]
    added: dict[str, int] = {}
    removed: dict[str, int] = {}
    changed: dict[str, list[str]] = {}
    for row, image_id in enumerate(manifest.table.column("image_id").to_pylist()):
        plus, minus = wanted.get(sample_id(image_id), (set(), set()))
        new = [flag for flag in flags[row] if flag_name(flag) not in minus]
        new += sorted(plus - {flag_name(flag) for flag in new})
        if new != flags[row]:
            _tally(flags[row], new, added, removed)
            flags[row] = changed[sample_id(image_id)] = new
    if changed:
        manifest.with_flags(flags).write()
    return PullReport(len(changed), dict(sorted(added.items())), dict(sorted(removed.items())))


def _tally(before: list[str], after: list[str], added: dict[str, int], removed: dict[str, int]) -> None:
    for flag in set(after) - set(before):
        added[flag_name(flag)] = added.get(flag_name(flag), 0) + 1
    for flag in set(before) - set(after):
        removed[flag_name(flag)] = removed.get(flag_name(flag), 0) + 1


def patch_tags(view: Any) -> dict[str, set[str]]:
    """Per sample id, the tags on its RoIs and crops, as names of flags of the image."""
    found: dict[str, set[str]] = {}
    for field, prefix in PATCH_PREFIXES.items():
        tagged = view.match_labels(fields=field, tags=view.distinct(f"{field}.detections.tags"))
        for identity, tags in zip(*tagged.values(["id", f"{field}.detections.tags"]), strict=True):
            names = {prefix + tag for label in tags or [] for tag in label or []}
            found.setdefault(identity, set()).update(names)
    return found


def _wanted(dataset: Any) -> dict[str, tuple[set[str], set[str]]]:
    """Per sample id: names to add and names to take away; only samples with any."""
    patches = patch_tags(dataset)
    result = {}
    for identity, tags, flags in zip(*dataset.values(["id", "tags", "flags"]), strict=True):
        base = {flag_name(flag) for flag in flags or []}
        given = set(tags or []) | patches.get(identity, set())
        plus, minus = given - base, base - given
        if plus or minus:
            result[identity] = (plus, minus)
    return result
