"""How long a manifest takes into FiftyOne: 2 k, 20 k and 178,756 images with 30 RoIs each.

    python benchmarks/inspect_import.py [--images N ...]

Synthetic manifest over one tiny file that every row names by its own hard link. A mongod of its own (2 GiB of cache)
on a temporary folder. Memory is the growth of this process at its peak, the database's size is of its folder, in MiB on
the disk; CPU seconds are of this process and of mongod. The peer is FiftyOne's ``add_samples`` with the same boxes: it
takes 500 of the images before and 500 after each import of up to 20,000, and its seconds are given for the whole.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from msip.inspection.database import connect
from msip.inspection.dataset import import_build
from msip.inspection.rows import Rows
from msip.manifest import ROI_FIELDS, SCHEMA, Manifest

ROIS = 30
PEER_IMAGES, PEER_UP_TO = 500, 20_000
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c6360000000020001e221bc330000"
    "000049454e44ae426082"
)


def make_build(out: Path, images: int) -> None:
    """A manifest of ``images`` rows in eight sources, and a stored file for each."""
    rng = np.random.default_rng(0)
    sources = np.array([f"source_{number}" for number in range(8)])[np.arange(images) * 8 // images]
    corner, side = rng.integers(0, 400, (2, images * ROIS)), rng.integers(40, 112, (2, images * ROIS))
    area = (side[0] * side[1] * 0.7).astype(np.int32)
    boxes = [pa.array(part.astype(np.int32)) for part in (*corner, *side, area)]
    rois = pa.ListArray.from_arrays(
        pa.array((np.arange(images + 1) * ROIS).astype(np.int32)), pa.StructArray.from_arrays(boxes, list(ROI_FIELDS))
    )
    names = [f"{number:07d}" for number in range(images)]
    known = {
        "image_id": [f"{source}/{name}" for source, name in zip(sources, names, strict=True)],
        "source": sources.tolist(),
        "path": [f"{source}/thermal/{name}.png" for source, name in zip(sources, names, strict=True)],
        "source_path": names,
        "sequence": [f"seq{number // 50:05d}" for number in range(images)],
        "width": [640] * images,
        "height": [512] * images,
        "channels": [1] * images,
        "bit_depth": [8] * images,
        "sha256": [f"{number:064x}" for number in range(images)],
        "pixel_mean": rng.uniform(0.05, 0.9, images),
        "pixel_std": rng.uniform(0.02, 0.3, images),
        "rois": rois,
        "flags": [["blank"] if number % 1000 == 0 else [] for number in range(images)],
    }
    columns = [pa.array(known[f.name], f.type) if f.name in known else pa.nulls(images, f.type) for f in SCHEMA]
    Manifest(pa.Table.from_arrays(columns, schema=SCHEMA), out).write()
    first = out / "one.png"
    first.write_bytes(PNG)
    for number in range(images):
        to = out / known["path"][number]
        if number == 0 or sources[number] != sources[number - 1]:
            to.parent.mkdir(parents=True)
        if number % 30_000 == 29_999:  # a file system's limit of links
            first = first.with_name(f"one{number}.png")
            first.write_bytes(PNG)
        os.link(first, to)


class PeakMemory:
    """Largest resident memory of this process while it is open, and at its start, in MiB."""

    def __enter__(self) -> PeakMemory:
        self.process, self.running = psutil.Process(), True
        self.before = self.peak = self.process.memory_info().rss / 2**20
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss / 2**20)
            time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()


def start_server(folder: Path) -> subprocess.Popen[bytes]:
    """FiftyOne's mongod on ``folder``; sets the environment that leads FiftyOne to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spec = find_spec("fiftyone")
    assert spec is not None and spec.origin is not None
    mongod = Path(spec.origin).parent / "db" / "bin" / "mongod"
    command = [str(mongod), "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1", "--nounixsocket"]
    command += ["--wiredTigerCacheSizeGB", "2", "--logpath", str(folder / "log")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.environ.update(FIFTYONE_DATABASE_URI=f"mongodb://127.0.0.1:{port}", FIFTYONE_DATABASE_NAME="benchmark")
    return process


@dataclass(frozen=True)
class Cost:
    """Seconds: of the clock, of this process's CPU, of the database's CPU."""

    wall: float
    own: float
    database: float

    def times(self, factor: float) -> Cost:
        """The same for ``factor`` as much work."""
        return Cost(self.wall * factor, self.own * factor, self.database * factor)


class Clock:
    """``with Clock(mongod) as clock: ...``, then ``clock.cost``."""

    def __init__(self, mongod: int) -> None:
        self.processes = psutil.Process(), psutil.Process(mongod)

    def _now(self) -> list[float]:
        used = (process.cpu_times() for process in self.processes)
        return [time.perf_counter(), *(times.user + times.system for times in used)]

    def __enter__(self) -> Clock:
        self.start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        self.cost = Cost(*(now - then for now, then in zip(self._now(), self.start, strict=True)))


def peer_cost(fiftyone: Any, out: Path, mongod: int) -> Cost:
    """Of ``add_samples`` for ``PEER_IMAGES`` images with the same boxes."""
    manifest = Manifest.read(out)
    data = fiftyone.Dataset()
    with Clock(mongod) as clock:
        samples = []
        for row in range(PEER_IMAGES):
            detections = [
                fiftyone.Detection(label="medium", bounding_box=[x / 640, y / 512, w / 640, h / 512], area=a, order=n)
                for n, (x, y, w, h, a) in enumerate(manifest.rois(row).tolist())
            ]
            rois = fiftyone.Detections(detections=detections)
            samples.append(fiftyone.Sample(str(manifest.path(row)), rois=rois))
        data.add_samples(samples, dynamic=True, progress=False)
    data.delete()
    return clock.cost


def measure(fiftyone: Any, folder: Path, images: int, mongod: int) -> None:
    """One line of the table."""
    out = folder / f"build{images}"
    out.mkdir()
    make_build(out, images)
    with_peer = images <= PEER_UP_TO
    peers = [peer_cost(fiftyone, out, mongod)] if with_peer else []
    size = _folder_bytes(folder / "db")
    with PeakMemory() as memory, Clock(mongod) as first:
        result = import_build(fiftyone, Rows(out))
    assert result.added == images and len(result.dataset) == images
    database = (_folder_bytes(folder / "db") - size) / 2**20
    peers += [peer_cost(fiftyone, out, mongod)] if with_peer else []
    with Clock(mongod) as again:
        import_build(fiftyone, Rows(out))
    _change_flags(out, 100)
    with Clock(mongod) as update:
        changed = import_build(fiftyone, Rows(out)).changed
    assert changed == 100
    ours, growth = first.cost, memory.peak - memory.before
    print(
        f"{images:>9,}{ours.wall:>9.1f}{ours.own:>9.1f}{ours.database:>9.1f}{growth:>9.0f}{database:>9.0f}"
        f"{again.cost.wall:>9.1f}{update.cost.wall:>9.1f}  {_beside(ours, peers, images)}",
        flush=True,
    )
    shutil.rmtree(out)


def _beside(ours: Cost, peers: list[Cost], images: int) -> str:
    if not peers:
        return f"{'-':>9}{'-':>9}{'-':>9}{'-':>8}{'-':>8}"
    parts = [peer.times(images / PEER_IMAGES / len(peers)) for peer in peers]
    whole = Cost(sum(p.wall for p in parts), sum(p.own for p in parts), sum(p.database for p in parts))
    cpu = (whole.own + whole.database) / (ours.own + ours.database)
    return f"{whole.wall:>9.0f}{whole.own:>9.0f}{whole.database:>9.0f}{whole.wall / ours.wall:>7.1f}x{cpu:>7.1f}x"


def _change_flags(out: Path, count: int) -> None:
    manifest = Manifest.read(out)
    flags = manifest.table.column("flags").to_pylist()
    flags[:count] = [["changed"]] * count
    manifest.with_flags(flags).write()


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[2_000, 20_000, 178_756])
    sizes = parser.parse_args().images
    with tempfile.TemporaryDirectory(prefix="msip-benchmark-") as name:
        folder = Path(name)
        (folder / "db").mkdir()
        server = start_server(folder / "db")
        try:
            fiftyone = connect()
            cores = len(os.sched_getaffinity(0))
            print(
                f"{platform.processor() or platform.machine()}, {cores} cores, Python {platform.python_version()}, ",
                end="",
            )
            print(f"fiftyone {version('fiftyone')}, {ROIS} RoIs an image; load {os.getloadavg()[0]:.1f}")
            names = ("images", "import s", "own CPU", "db CPU", "grew MiB", "disk MiB", "again s", "100 ch. s")
            peer = ("peer s", "own CPU", "db CPU", "ratio", "CPU")
            widths = (*[9] * len(names), 11, 9, 9, 8, 8)
            print(*(name.rjust(width) for name, width in zip(names + peer, widths, strict=True)), sep="", flush=True)
            for images in sizes:
                measure(fiftyone, folder, images, server.pid)
            print(f"Load at the end {os.getloadavg()[0]:.1f}.")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
