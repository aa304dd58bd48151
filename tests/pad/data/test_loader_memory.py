"""Memory of the processes that read does not grow with the number of images."""

from __future__ import annotations

import pickle
from multiprocessing import active_children
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from training_runs import make_manifest

from msip.crops import RoiCrop
from msip.manifest import Manifest
from pad.data.dataset import PretrainDataset
from pad.data.index import ImageIndex, write_index
from pad.data.loader import EpochSampler, make_loader, start_reading

ROWS = 1_800_000
ROIS = 2
MIB = 1 << 20


def synthetic_index(folder: Path, rows: int) -> Path:
    """``rows`` images with RoIs, each with a name of its own, all in the same few files."""
    few = make_manifest(folder / "few", images=8)
    numbers = pa.array(np.arange(rows))
    boxes = np.tile(np.array([5, 5, 60, 50, 900], np.int32), (rows * ROIS, 1))
    fields = ("x", "y", "width", "height", "area")
    struct = pa.StructArray.from_arrays([pa.array(column) for column in boxes.T.copy()], fields)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * ROIS)
    table = pa.table(
        {
            "image_id": pa.compute.binary_join_element_wise("src", numbers.cast(pa.string()), "/"),
            "path": few.table.column("path").combine_chunks().take(pa.array(np.arange(rows) % 8)),
            "width": np.full(rows, 96, np.int32),
            "height": np.full(rows, 80, np.int32),
            "rois": pa.ListArray.from_arrays(offsets, struct),
        }
    )
    return write_index(Manifest(table, few.root), folder / "data.arrow")


def private_bytes(pid: int) -> int:
    """What a process has for itself: not the pages of files that it maps."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def read_far_and_wide(folder: Path, rows: int) -> tuple[int, int]:
    """(private bytes of a worker that has read 512 images, size of the dataset as it is sent to a worker)."""
    dataset = PretrainDataset(ImageIndex(synthetic_index(folder, rows)), folder / "few", seed=0, crop=RoiCrop(size=32))
    before = {child.pid for child in active_children()}
    sampler = EpochSampler(rows, 32, steps=19, seed=0)
    batches = start_reading(make_loader(dataset, sampler, workers=1, start_method="spawn"))
    for _ in range(16):
        assert (next(batches)["used"] >= 0).all()
    (worker,) = {child.pid for child in active_children()} - before
    used = private_bytes(worker)
    del batches
    return used, len(pickle.dumps(dataset))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_a_worker_of_1_8_million_rows_is_as_small_as_one_of_a_thousand(tmp_path):
    small = read_far_and_wide(tmp_path / "small", 1_000)
    large = read_far_and_wide(tmp_path / "large", ROWS)
    assert abs(large[0] - small[0]) < 8 * MIB
    assert large[1] < small[1] + 100 < 4096
