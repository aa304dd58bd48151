"""The whole of MSIP, 178,756 images out of 1.9 million raw files: is the count exact, and where does the time go?

    python benchmarks/full_scale.py [--scale 1] [--kills 5] [--workers 2] [--dir DIR] [--json FILE]

Lays the eight sources out as hard links to a few hundred real frames (see full_scale_tree.py), builds without RoIs,
verifies, builds again with SIGKILLs at even intervals, and compares the cost with the floor: reading and hashing the
same files on as many processes. Needs 16 GB of disk and 2.2 million inodes at full scale; all of it is removed. Exit
code 1 when a count, the verification or the interrupted build's manifest is not as it must be. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import cv2
from full_scale_tree import Tree, read_and_hash

from msip import Manifest, radiometry
from msip.engine import one_thread_each, run_tasks
from msip.files import sha256_bytes, write_bytes
from msip.frames import find_root, list_frames
from msip.process import Recipe, peak_grey, render
from msip.sources import load_corpus, load_source

MIB = 1 << 20
SAMPLE = 150  # frames a source in the table of steps


class Watched:
    """A command under watch: wall time, CPU time of all its processes, peak memory of the parent and of a worker."""

    def __init__(self, command: list[str]) -> None:
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self.peaks: dict[int, int] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self.process.returncode is None:
            for pid in (self.process.pid, *_children(self.process.pid)):
                self.peaks[pid] = max(self.peaks.get(pid, 0), _peak_memory(pid))
            time.sleep(0.25)

    def kill(self) -> None:
        """SIGKILL to the command and all its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> dict[str, Any]:
        """Wait; what it took, and what it printed."""
        assert self.process.stdout is not None
        printed = self.process.stdout.read()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        self._thread.join()
        workers = [peak for pid, peak in self.peaks.items() if pid != self.process.pid]
        return {
            "rc": self.process.returncode,
            "printed": printed.decode(),
            "wall_s": time.perf_counter() - self.begin,
            "cpu_s": usage.ru_utime + usage.ru_stime,
            "parent_mib": self.peaks[self.process.pid] / MIB,
            "worker_mib": max(workers, default=0) / MIB,
        }


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _peak_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def msip(*arguments: object) -> list[str]:
    """The command line of this environment."""
    return [sys.executable, "-c", "from msip_cli.main import main; main()", *map(str, arguments)]


def build_command(raw: Path, out: Path, corpus: str | Path, workers: int) -> list[str]:
    """The build under test."""
    return msip("build", "--raw", raw, "--out", out, "--corpus", corpus, "--no-rois", "--workers", workers, "--json")


def build_killed(command: list[str], out: Path, images: int, kills: int) -> dict[str, Any]:
    """Run ``command``, SIGKILL it ``kills`` times at even shares of the work, then let it finish."""
    for kill in range(1, kills + 1):
        run = Watched(command)
        while stored_images(out) < images * kill / (kills + 1):
            if run.process.poll() is not None:
                raise SystemExit("the build ended before it was killed: take a larger --scale or fewer --kills")
            time.sleep(min(5.0, max(0.2, images / 50_000)))  # counting files takes time from the build
        run.kill()
    return Watched(command).finish()


def stored_images(out: Path) -> int:
    """Files under their final names."""
    return sum(sum(1 for _ in folder.iterdir()) for folder in out.glob("*/thermal"))


def selected(raw: Path, corpus: str | Path) -> list[Path]:
    """The raw files that the build takes, dark ones included."""
    paths = []
    for name in load_corpus(corpus).sources:
        source = load_source(name)
        root = find_root(source, raw)[0]
        paths += [root / frame.source_path for frame in list_frames(source, raw).frames]
    return paths


def floor(paths: list[Path], workers: int) -> dict[str, float]:
    """Reading and hashing all ``paths`` on ``workers`` processes."""
    begin = time.perf_counter()
    batches = [paths[start : start + 64] for start in range(0, len(paths), 64)]
    results = list(run_tasks(read_and_hash, batches, workers))
    return {
        "wall_s": time.perf_counter() - begin,
        "cpu_s": sum(cpu for _, cpu in results),
        "bytes": sum(size for size, _ in results),
    }


def steps(raw: Path, corpus: str | Path, scratch: Path) -> dict[str, float]:
    """CPU milliseconds an image of each step of the workers: the mean over the corpus, from a sample of each source."""
    one_thread_each()
    total: dict[str, float] = defaultdict(float)
    counts = load_corpus(corpus).known_counts
    for name, count in counts.items():
        source = load_source(name)
        root, frames = find_root(source, raw)[0], list_frames(source, raw).frames
        taken = frames[:: max(1, len(frames) // SAMPLE)][:SAMPLE]
        recipe = Recipe(name, **source.transform.model_dump())
        spent: dict[str, float] = defaultdict(float)
        for frame in taken:
            _time_steps(root / frame.source_path, recipe, source.selection.min_peak_grey, scratch, spent)
        for step, seconds in spent.items():
            total[step] += 1e3 * seconds / len(taken) * count / sum(counts.values())
    return dict(total)


def _time_steps(path: Path, recipe: Recipe, peak: int | None, scratch: Path, spent: dict[str, float]) -> None:
    begin = time.process_time()

    def lap(step: str) -> None:
        nonlocal begin
        now = time.process_time()
        spent[step] += now - begin
        begin = time.process_time()

    if peak is not None:
        peak_grey(path)
        lap("dark filter (SCUT)")
    data = path.read_bytes()
    lap("read")
    digest = sha256_bytes(data)
    lap("hash")
    raw = radiometry.decode(data, name=path.name)
    lap("decode, strictly")
    stored = render(raw, data, recipe)
    lap("check, crop, encode")
    radiometry.image_statistics(stored.grey)
    radiometry.phash(stored.grey)
    lap("statistics, perceptual hash")
    if stored.data is not data:
        sha256_bytes(stored.data)
        lap("hash")
    target = scratch / f"{digest}{stored.extension}"
    write_bytes(target, stored.data, sync=False)
    target.unlink()
    lap("copy (write, rename)")


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything at one scale."""
    raw, out = folder / "raw", folder / "out"
    begin = time.perf_counter()
    result: dict[str, Any] = {"scale": arguments.scale, "workers": arguments.workers}

    def say(what: str) -> None:
        """Figures are kept as they come: at full scale the whole takes hours."""
        sys.stderr.write(f"{(time.perf_counter() - begin) / 60:6.1f} min: {what}\n")
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=2))

    tree = Tree(raw, arguments.scale)
    described = tree.write()
    corpus: str | Path = "msip" if arguments.scale == 1 else described
    result |= {"layout_s": time.perf_counter() - begin, "infrared": tree.infrared, "visible": tree.visible}
    say("laid out")
    command = build_command(raw, out, corpus, arguments.workers)
    build = Watched(command).finish()
    result["build"] = build
    say("built")
    manifest = Manifest.read(out)
    result["images"], result["expected"] = len(manifest), sum(tree.counts.values())
    result["counts_exact"] = manifest.counts() == tree.counts
    result["visible_taken"] = sum("visible" in path for path in manifest.table.column("source_path").to_pylist())
    result["verify_rc"] = subprocess.run(msip("verify", out), stdout=subprocess.DEVNULL, check=False).returncode
    result["again"] = Watched(command).finish()
    say("verified and built again")
    undisturbed = sha256_bytes((out / "manifest.parquet").read_bytes())
    shutil.rmtree(out)
    paths = selected(raw, corpus)
    result["floor"] = floor(paths, arguments.workers)
    say("floor measured")
    result["steps_ms"] = steps(raw, corpus, folder)
    say("steps measured")
    if arguments.kills:
        result["killed"] = build_killed(command, out, len(manifest), arguments.kills)
        result["same_after_kills"] = sha256_bytes((out / "manifest.parquet").read_bytes()) == undisturbed
    return result


def show(result: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Print the tables. Returns whether everything is as it must be."""
    build, least, images = result["build"], result["floor"], result["images"]
    exact = result["counts_exact"] and images == result["expected"]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, OpenCV {cv2.__version__}")
    print(f"scale {arguments.scale:g}, {arguments.workers} workers, tree laid out in {result['layout_s']:.0f} s")
    print(f"raw files: {result['infrared']:,} infrared, {result['visible']:,} visible")
    print(f"images: {images:,} of {result['expected']:,} expected, per source {'exact' if exact else 'WRONG'}")
    print(f"visible images taken: {result['visible_taken']}; msip verify returns {result['verify_rc']}\n")
    print(f"{'':<28}{'minutes':>9}{'CPU min':>9}{'ms/image':>10}{'parent MiB':>12}{'worker MiB':>12}")
    labels = {"build": "build", "again": "same command again", "killed": f"rest after {arguments.kills} kills"}
    for name, label in labels.items():
        if name in result:
            run = result[name]
            times = f"{run['wall_s'] / 60:>9.2f}{run['cpu_s'] / 60:>9.2f}{1e3 * run['cpu_s'] / images:>10.2f}"
            print(f"{label:<28}{times}{run['parent_mib']:>12.0f}{run['worker_mib']:>12.0f}")
    times = f"{least['wall_s'] / 60:>9.2f}{least['cpu_s'] / 60:>9.2f}{1e3 * least['cpu_s'] / images:>10.2f}"
    print(f"{'floor: read and hash':<28}{times}   ({least['bytes'] / 1e9:.1f} GB)")
    cpu, wall = build["cpu_s"] / least["cpu_s"], build["wall_s"] / least["wall_s"]
    print(f"build : floor = {cpu:.1f} in CPU time, {wall:.1f} in wall time\n")
    base = result["steps_ms"]["read"] + result["steps_ms"]["hash"]
    print(f"{'step of a worker':<30}{'ms/image':>9}{'of read + hash':>16}")
    for step, milliseconds in sorted(result["steps_ms"].items(), key=lambda item: -item[1]):
        print(f"{step:<30}{milliseconds:>9.3f}{milliseconds / base:>16.2f}")
    same = result.get("same_after_kills", True)
    if arguments.kills:
        print(f"\nmanifest after {arguments.kills} SIGKILLs: {'identical' if same else 'DIFFERENT'}")
    return bool(exact and same and not result["visible_taken"] and result["verify_rc"] == 0 and build["rc"] == 0)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the true size, e.g. 0.1")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--dir", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.dir, prefix="full-scale-") as folder:
        result = measure(arguments, Path(folder))
    ok = show(result, arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
