"""After a power cut, nothing that was not flushed is trusted."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from msip import build, durability
from msip.synthetic import write_folder
from msip.verify import verify_build


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """A build that ended after all images were written, before they were flushed."""
    frames = write_folder(tmp_path / "frames", count=8)
    build(None, tmp_path / "whole", folder=frames, with_rois=False)

    def cut(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("msip.pipeline.flush", cut)
        with pytest.raises(KeyboardInterrupt):
            build(None, tmp_path / "out", folder=frames, with_rois=False)
    return tmp_path


def again(folder):
    report = build(None, folder / "out", folder=folder / "frames", with_rois=False)
    manifests = [(folder / name / "manifest.parquet").read_bytes() for name in ("whole", "out")]
    assert manifests[0] == manifests[1] and verify_build(folder / "out").ok
    assert not (folder / "out/.msip/unflushed").exists()
    return report.sources[0].done_before


def test_after_a_kill_what_is_there_is_trusted(interrupted):
    assert (interrupted / "out/.msip/unflushed").read_text() == durability.system_start()
    assert again(interrupted) == 8


@pytest.mark.parametrize("start", ["another", ""])
def test_after_a_power_cut_torn_images_of_the_right_size_are_made_again(interrupted, start, monkeypatch):
    torn = sorted((interrupted / "out/frames/thermal").iterdir())[2]
    torn.write_bytes(bytes(torn.stat().st_size))
    monkeypatch.setattr(durability, "system_start", lambda: start)
    assert again(interrupted) == 7


def test_a_torn_ledger_is_noticed(interrupted):
    part = sorted((interrupted / "out/.msip/frames/frames").rglob("*.parquet"))[0]
    data = np.frombuffer(part.read_bytes(), np.uint8).copy()
    start = pq.ParquetFile(part).metadata.row_group(0).column(0).dictionary_page_offset
    data[start + 40 : start + 60] ^= 0xFF
    part.write_bytes(data.tobytes())
    assert again(interrupted) == 0
