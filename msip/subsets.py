"""Named selections of a build: ``OUT/subsets/NAME.parquet`` lists images by id and hash, and how they were chosen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msip.errors import ManifestError
from msip.files import atomic_path
from msip.manifest import Manifest

FOLDER = "subsets"
_SCHEMA = pa.schema([pa.field("image_id", pa.string()), pa.field("sha256", pa.string())])
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def subset_path(root: Path, name: str) -> Path:
    """Where a subset lies. Raises ``ManifestError`` for a name that cannot be a file's."""
    if not _NAME.fullmatch(name):
        raise ManifestError(f"{name!r} cannot name a subset; use letters, digits, '.', '_' and '-'.")
    return root / FOLDER / f"{name}.parquet"


def write_subset(manifest: Manifest, name: str, keep: NDArray[np.bool_], how: dict[str, Any]) -> Path:
    """Write the rows ``keep`` (n,) as a subset; the same choice gives the same bytes.

    Args:
        manifest: of the whole build.
        name: the subset's.
        keep: bool, per row.
        how: what the choice depends on, for whoever asks later.
    """
    path = subset_path(manifest.root, name)
    chosen = manifest.table.select(_SCHEMA.names).filter(pa.array(keep)).cast(_SCHEMA).combine_chunks()
    notes = {"subset": name, "how": json.dumps(how, sort_keys=True)}
    with atomic_path(path) as temporary:
        pq.write_table(chosen.replace_schema_metadata(notes), temporary, compression="zstd")
    return path


def select_subset(manifest: Manifest, name: str) -> Manifest:
    """The rows of the manifest that a subset names.

    Raises:
        ManifestError: there is no such subset, or an image of it is gone or has other bytes now.
    """
    path = subset_path(manifest.root, name)
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.parquet"))
        here = f"there are {', '.join(known)}" if known else "there is none yet"
        raise ManifestError(
            f"no subset {name!r} in {path.parent}: {here}; `msip curate {manifest.root} --subset {name} "
            "--max-similar 0.9` makes one."
        )
    try:
        table = pq.read_table(path, schema=_SCHEMA)
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise ManifestError(f"{path} is not a readable subset ({error}); make it again with `msip curate`.") from error
    wanted = dict(zip(*(table.column(key).to_pylist() for key in _SCHEMA.names), strict=True))
    now = zip(*(manifest.table.column(key).to_pylist() for key in _SCHEMA.names), strict=True)
    keep = np.fromiter((wanted.get(image_id, "") == sha for image_id, sha in now), bool, len(manifest))
    if int(keep.sum()) != len(wanted):
        raise ManifestError(
            f"{len(wanted) - int(keep.sum()):,} of the {len(wanted):,} images of the subset {name!r} are gone or were "
            "changed by a later build; make it again with `msip curate`."
        )
    return Manifest(manifest.table.filter(pa.array(keep)), manifest.root)
