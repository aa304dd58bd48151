"""Kill a training run with SIGKILL at random steps, continue it each time, and compare it with an undisturbed one.

    python benchmarks/kills.py [--kills 20] [--steps 200] [--seed 0] [--processes 1]

Every start is the true command line in a new process, with another number of reading workers. A kill comes at a random
moment of the next few steps after a start, most in the middle of an epoch, some while a checkpoint is written. With
``--processes 2`` each start is a `torchrun` of two processes. Compared: SHA-256 of the last weights, of AdamW's moments
and of the exported adapter, and every logged loss. On a CPU, with a tiny ViT and generated images.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from msip import build
from msip.synthetic import write_folder

EPOCH = 7  # steps; not a multiple of what is between two checkpoints
BATCH = 8


def command(data: Path, run: Path, steps: int, workers: int, processes: int) -> list[str]:
    """One start of the run; it continues what is there."""
    start = [sys.executable, "-m", "msip_cli"]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        start += ["-m", "msip_cli"]
    model = "--model test_vit --init random --image-size 32 --decoder-embed-dim 32 --decoder-depth 1"
    loop = f"--decoder-num-heads 2 --max-steps {steps} --log-every 1 --save-every 3 --device cpu --resume auto"
    split = f"--effective-batch {BATCH} --batch-size {BATCH // processes} --workers {workers}"
    words = f"pretrain --method mae --data {data} --out {run} {model} {loop} {split}"
    return start + words.split()


def steps_done(run: Path) -> int:
    """Of the newest line of metrics."""
    try:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return int(json.loads(lines[-1])["step"])
    except (OSError, IndexError, ValueError):  # none yet, or half a line
        return 0


def start(words: list[str]) -> subprocess.Popen[bytes]:
    """In a session of its own, so that its workers die with it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def kill_at(process: subprocess.Popen[bytes], run: Path, step: int, delay: float) -> int:
    """Kill the whole session ``delay`` seconds after ``step``; returns the step it had reached, -1 if it ended."""
    while steps_done(run) < step:
        if process.poll() is not None:
            return -1
        time.sleep(0.005)
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return steps_done(run)


def finish(words: list[str]) -> None:
    """Run to the end, or say what it said."""
    process = start(words)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(said.decode())


def result(run: Path) -> dict[str, Any]:
    """What must be equal."""
    last = max((run / "checkpoints").glob("step-*"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        **json.loads((last / "state.json").read_text())["sha256"],
        "adapter.safetensors": hashlib.sha256((run / "adapter.safetensors").read_bytes()).hexdigest(),
        "losses": [(line["step"], line["loss"]) for line in lines],
    }


def killed(data: Path, run: Path, options: argparse.Namespace) -> list[tuple[int, int]]:
    """Kill and continue; returns (step asked for, step reached) of each kill."""
    draw, kills = random.Random(options.seed), []
    targets = sorted(draw.sample(range(1, options.steps - 3), options.kills))
    for target in targets:
        words = command(data, run, options.steps, draw.randrange(4), options.processes)
        reached = kill_at(start(words), run, target, draw.uniform(0, 0.15))
        if reached < 0:
            raise SystemExit(f"the run ended before it could be killed at step {target}")
        kills.append((target, reached))
        print(f"kill {len(kills)}: asked for step {target}, reached {reached}", flush=True)
    finish(command(data, run, options.steps, 1, options.processes))
    return kills


def main() -> int:
    """0 if the killed run equals the undisturbed one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_folder(place / "frames", count=EPOCH * BATCH + 5)
        build(None, place / "data", folder=place / "frames")
        finish(command(place / "data", place / "whole", options.steps, 0, options.processes))
        kills = killed(place / "data", place / "killed", options)
        whole, cut = result(place / "whole"), result(place / "killed")
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs; torch {torch.__version__}")
    print(f"{len(kills)} kills in {options.steps} steps, {options.processes} process(es)")
    for name in whole:
        shown = "" if name == "losses" else f" {whole[name]}"
        print(f"{name:<28}{'equal' if whole[name] == cut[name] else 'DIFFERENT'}{shown}")
    return int(whole != cut)


if __name__ == "__main__":
    sys.exit(main())
