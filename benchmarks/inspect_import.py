"""How long a manifest takes into FiftyOne: 2 k, 20 k and 178,756 images with 30 RoIs each.

    python benchmarks/inspect_import.py [--images N ...]

Synthetic manifest over one tiny file that every row names by its own hard link. A mongod of its own (2 GiB of cache)
on a temporary folder. Peak memory is of this process; the database's size is of its folder, in bytes on the disk.
The reference is FiftyOne's ``add_samples`` on 200 of the images, in images a second.
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
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa

from msip.inspection.database import connect
from msip.inspection.dataset import inspect
from msip.manifest import ROI_FIELDS, SCHEMA, Manifest

ROIS = 30
REFERENCE_IMAGES = 200
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


def reference_rate(fiftyone: object, out: Path) -> float:
    """Images a second of ``add_samples`` with the same boxes."""
    fo = fiftyone
    manifest = Manifest.read(out)
    data = fo.Dataset()  # type: ignore[attr-defined]
    start = time.perf_counter()
    samples = []
    for row in range(REFERENCE_IMAGES):
        detections = [
            fo.Detection(label="medium", bounding_box=[x / 640, y / 512, w / 640, h / 512], area=area, order=order)  # type: ignore[attr-defined]
            for order, (x, y, w, h, area) in enumerate(manifest.rois(row).tolist())
        ]
        samples.append(fo.Sample(str(manifest.path(row)), rois=fo.Detections(detections=detections)))  # type: ignore[attr-defined]
    data.add_samples(samples, dynamic=True, progress=False)
    rate = REFERENCE_IMAGES / (time.perf_counter() - start)
    data.delete()
    return rate


def measure(fiftyone: object, folder: Path, images: int, reference: float | None) -> float:
    """One line of the table."""
    out = folder / f"build{images}"
    out.mkdir()
    make_build(out, images)
    reference = reference or reference_rate(fiftyone, out)
    size = _folder_bytes(folder / "db")
    with PeakMemory() as memory:
        start = time.perf_counter()
        result = inspect(fiftyone, out)
        first = time.perf_counter() - start
    assert result.added == images and len(result.dataset) == images
    server = max(p.memory_info().rss for p in psutil.Process().children() if p.name() == "mongod") / 2**20
    start = time.perf_counter()
    inspect(fiftyone, out)
    again = time.perf_counter() - start
    start = time.perf_counter()
    _change_flags(out, 100)
    changed = inspect(fiftyone, out).changed
    update = time.perf_counter() - start
    assert changed == 100
    database = (_folder_bytes(folder / "db") - size) / 2**20
    rate = images / first
    print(
        f"{images:>9,} {first:>9.1f} {rate:>9.0f} {rate / reference:>8.1f}x {again:>10.1f} {update:>12.1f} "
        f"{memory.peak - memory.before:>12.0f} {memory.peak:>9.0f} {server:>11.0f} {database:>9.0f}",
        flush=True,
    )
    shutil.rmtree(out)
    return reference


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
            names = ("images", "import s", "images/s", "to add_s", "again s", "100 changed s", "memory MiB", "peak MiB")
            widths = (9, 9, 9, 9, 10, 13, 12, 9, 11, 9)
            print(*(n.rjust(w) for n, w in zip((*names, "server MiB", "disk MiB"), widths, strict=True)))
            reference = None
            for images in sizes:
                reference = measure(fiftyone, folder, images, reference)
            print(f"add_samples: {reference:.0f} images/s. Load at the end {os.getloadavg()[0]:.1f}.")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
