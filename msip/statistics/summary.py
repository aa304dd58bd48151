"""The numbers of ``msip stats``, from the manifest, the measurements of ``msip curate`` and its findings.

Everything is counted per source and overall from columns, one number an image; of the RoIs, which are many, from row
groups, one float32 a box. So memory stays at some tens of bytes an image whatever their number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from msip.curation.curate import CURATION_NAME
from msip.curation.image_measures import HISTOGRAM_BINS
from msip.errors import ManifestError
from msip.manifest import MANIFEST_NAME, Manifest, flag_name

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MEASURED = {"brightness": "mean", "contrast": "contrast", "entropy": "entropy"}
_MOST_SIZES = 8
_RELATIONS = {"sequence": "same sequence", "source": "same source", "other_source": "other source"}

Numbers = dict[str, Any]


def summarise(manifest: Manifest, measures: pa.Table) -> Numbers:
    """All numbers of a build: ``overall`` and ``sources``, each as ``_part`` makes them.

    Args:
        manifest: of the build.
        measures: one entry a row, see ``msip.curation.measure.measure``.
    """
    names = np.array(manifest.table.column("source").to_pylist(), object)
    columns = _Columns(manifest, measures)
    order = list(dict.fromkeys(names.tolist()))
    return {
        "overall": columns.part(np.ones(len(names), bool)),
        "sources": {name: columns.part(names == name) for name in order},
    }


class _Columns:
    """The columns of a build, one value an image, and the summary of any part of its rows."""

    def __init__(self, manifest: Manifest, measures: pa.Table) -> None:
        table = manifest.table
        self.lists = {
            name: np.array(table.column(name).to_pylist(), object)
            for name in ("source", "split", "sequence", "path", "bit_depth", "channels")
        }
        self.width, self.height = (_numbers(table, name) for name in ("width", "height"))
        self.pixel_mean, self.pixel_std = (_numbers(table, name) for name in ("pixel_mean", "pixel_std"))
        self.measured = {name: _numbers(measures, column) for name, column in _MEASURED.items()}
        self.grey_levels = _histograms(measures)
        self.readable = measures.column("fingerprint").is_valid().to_numpy()
        self.bytes = np.array([_size(manifest.root / path) for path in self.lists["path"]], np.int64)
        self.roi_count, self.roi_sides = _rois(manifest.root)
        self.flags = [sorted({flag_name(flag) for flag in flags or ()}) for flags in table.column("flags").to_pylist()]
        self.near = _near(manifest)

    def part(self, rows: NDArray[np.bool_]) -> Numbers:
        """The numbers of some rows."""
        count = int(rows.sum())
        measured = rows & self.readable
        lengths = self._sequence_lengths(rows)
        return {
            "images": count,
            "unreadable": int((rows & ~self.readable).sum()),
            "bytes": int(self.bytes[rows].sum()),
            "sizes": self._sizes(rows),
            "bit_depths": _counted(self.lists["bit_depth"][rows]),
            "channels": _counted(self.lists["channels"][rows]),
            "formats": _counted([path.rsplit(".", 1)[-1] for path in self.lists["path"][rows]]),
            "splits": _counted(self.lists["split"][rows]),
            **{name: distribution(values[measured]) for name, values in self.measured.items()},
            "grey_levels": self.grey_levels[measured].sum(axis=0).tolist(),
            **self._roi_numbers(rows),
            "sequences": {"count": len(lengths), "images_outside": count - int(lengths.sum())},
            "sequence_length": distribution(lengths),
            "flags": _counted(name for row in np.flatnonzero(rows).tolist() for name in self.flags[row]),
            "duplicates": self._duplicates(rows),
            "normalisation": self._normalisation(rows),
        }

    def _sizes(self, rows: NDArray[np.bool_]) -> Numbers:
        pairs = Counter(zip(self.width[rows].astype(int).tolist(), self.height[rows].astype(int).tolist(), strict=True))
        common = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_MOST_SIZES]
        return {"distinct": len(pairs), "common": {f"{w}x{h}": n for (w, h), n in common}}

    def _roi_numbers(self, rows: NDArray[np.bool_]) -> Numbers:
        """RoIs of an image, and the side of the square of equal area, as a share of the image's."""
        known = rows & (self.roi_count >= 0)
        sides = self.roi_sides[np.repeat(known, np.maximum(0, self.roi_count))]
        return {
            "rois": {
                "total": int(self.roi_count[known].sum()),
                "images_without": int((self.roi_count[known] == 0).sum()),
                "images_not_computed": int((rows & (self.roi_count < 0)).sum()),
            },
            "rois_per_image": distribution(self.roi_count[known]),
            "roi_side": distribution(sides),
        }

    def _sequence_lengths(self, rows: NDArray[np.bool_]) -> NDArray[np.int64]:
        keys = zip(self.lists["source"][rows], self.lists["sequence"][rows], strict=True)
        return np.array(list(Counter(key for key in keys if key[1] is not None).values()), np.int64)

    def _duplicates(self, rows: NDArray[np.bool_]) -> Numbers:
        """Images flagged, and images with a near-duplicate of each relation; ``None`` before ``msip curate``."""
        if self.near is None:
            return {"known": False}
        exact, near = (
            sum(name in self.flags[row] for row in np.flatnonzero(rows).tolist())
            for name in ("duplicate_of", "near_duplicate_of")
        )
        count = max(1, int(rows.sum()))
        with_one = {name: int(has[rows].sum()) for name, has in self.near.items()}
        return {
            "known": True,
            "exact": exact,
            "near": near,
            "exact_share": exact / count,
            "near_share": near / count,
            "images_with_one_in": with_one,
        }

    def _normalisation(self, rows: NDArray[np.bool_]) -> Numbers:
        """Mean and standard deviation of grey values, 0 to 1, in the three ways that people compute them."""
        known = rows & np.isfinite(self.pixel_mean) & np.isfinite(self.pixel_std)
        mean, std = self.pixel_mean[known], self.pixel_std[known]
        if not len(mean):
            return {}
        pixels = self.width[known] * self.height[known]
        return {
            "per_image": _pooled(mean, std, np.ones(len(mean))),
            "per_pixel": _pooled(mean, std, pixels),
            "mean_of_stds": float(std.mean()),
        }


def _pooled(mean: NDArray, std: NDArray, weight: NDArray) -> Numbers:
    """Of all pixels together, from each image's own mean and deviation."""
    share = weight / weight.sum()
    centre = float(share @ mean)
    return {"mean": centre, "std": float(np.sqrt(share @ (std**2 + (mean - centre) ** 2)))}


def distribution(values: NDArray) -> Numbers:
    """Number, mean, extremes and ``QUANTILES`` of values; the number alone where there are none."""
    if not len(values):
        return {"count": 0}
    quantiles = np.quantile(values, QUANTILES)
    named = {f"q{round(100 * q):02d}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)}
    mean = float(np.mean(values, dtype=np.float64))
    return {"count": len(values), "mean": mean, "min": float(values.min()), **named, "max": float(values.max())}


def _counted(values: Any) -> dict[str, int]:
    """How often each value occurs, most frequent first; ``unknown`` for none."""
    counts = Counter("unknown" if value is None else str(value) for value in values)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table.column(name).cast(pa.float64()).to_numpy(), np.float64)


def _histograms(measures: pa.Table) -> NDArray[np.int64]:
    """(n, 32) pixels per 8 grey levels, zeros for an unreadable image."""
    column = measures.column("histogram").combine_chunks()
    result = np.zeros((len(column), HISTOGRAM_BINS), np.int64)
    values = column.drop_null().flatten().to_numpy().reshape(-1, HISTOGRAM_BINS)
    result[column.is_valid().to_numpy(zero_copy_only=False)] = values
    return result


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _rois(root: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Per image the number of RoIs (-1: not computed), and of all RoIs in order their relative side."""
    counts, sides = [], []
    for count, side in _roi_batches(root / MANIFEST_NAME):
        counts.append(count)
        sides.append(side)
    return np.concatenate(counts), np.concatenate(sides)


def _roi_batches(path: Path) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["width", "height", "rois"]):
            lists = batch.column("rois")
            area = _numbers(pa.table(batch), "width") * _numbers(pa.table(batch), "height")
            owner = pc.list_parent_indices(lists).to_numpy()
            boxes = pc.list_flatten(lists)
            width, height = (boxes.field(name).to_numpy(zero_copy_only=False) for name in ("width", "height"))
            count = pc.fill_null(pc.list_value_length(lists), -1).to_numpy().astype(np.int64)
            yield count, np.sqrt(width * height.astype(np.float64) / area[owner]).astype(np.float32)


def _near(manifest: Manifest) -> dict[str, NDArray[np.bool_]] | None:
    """Per relation, which images have a near-duplicate; ``None`` where the build is not curated, or no longer as is.

    Raises:
        ManifestError: ``curation.parquet`` cannot be read.
    """
    path = manifest.root / CURATION_NAME
    if not path.is_file():
        return None
    columns = ["image_id", "sha256", *(f"{key}_match" for key in _RELATIONS)]
    try:
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path} cannot be read ({error}); delete it and run `msip curate` again.") from error
    if not all(table.column(key).equals(manifest.table.column(key)) for key in columns[:2]):
        return None
    return {name: table.column(f"{key}_match").is_valid().to_numpy() for key, name in _RELATIONS.items()}
