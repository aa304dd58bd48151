"""A small manifest of smooth synthetic images, and runs small enough for tests."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import torch

from msip.manifest import SCHEMA, Manifest
from pad.config.pretraining import PretrainConfig
from pad.monitoring.monitor import Monitor
from pad.training.pretrain import PretrainResult, pretrain

# small tensors; and a forked child must not wait for its parent's threads
torch.set_num_threads(1)
cv2.setNumThreads(1)

WIDTH, HEIGHT = 96, 80


def make_manifest(root: Path, images: int = 24) -> Manifest:
    """Blurred noise as grey PNG; every third image has no RoIs, image 3 is flagged blank, 4 a duplicate."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(images):
        path = root / "src" / "thermal" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = cv2.GaussianBlur(rng.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint8), (0, 0), 4)
        cv2.imwrite(str(path), cv2.normalize(noise, None, 0, 255, cv2.NORM_MINMAX))
        box = {"x": number % 20, "y": 5, "width": 60, "height": 50 + number % 10, "area": 900}
        rois = [[box], [box, {**box, "x": 0}], None][number % 3]
        flags = {3: ["blank"], 4: ["duplicate_of:src/0001"]}.get(number, [])
        row = dict.fromkeys(SCHEMA.names)
        row |= {"image_id": f"src/{number:04d}", "source": "src", "path": f"src/thermal/{number:04d}.png"}
        rows.append(row | {"source_path": "x", "width": WIDTH, "height": HEIGHT, "flags": flags, "rois": rois})
    manifest = Manifest.from_rows(rows, root)
    manifest.write()
    return manifest


def config(data: Path | str, out: Path, **options: Any) -> PretrainConfig:
    """Three steps an epoch, eight images a step, unless told otherwise."""
    small = {"model": "test_vit", "init": "random", "image_size": 32, "workers": 0, "device": "cpu"}
    decoder = {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
    decoder = decoder if options.get("method", "mae") in ("mae", "milan") else {}
    return PretrainConfig(
        **{"data": data, "out": out, "batch_size": 8, "epochs": 3, "blr": 3e-2, **small, **decoder, **options}
    )


def fingerprint(run: Path) -> tuple[str, dict[str, str]]:
    """The last checkpoint's name, and the hashes of the weights and moments in it."""
    last = max((run / "checkpoints").glob("step-*"))
    return last.name, json.loads((last / "state.json").read_text())["sha256"]


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines]


class _Lines(logging.Handler):
    """Log records as the command line prints them."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        self.lines.append(level + record.getMessage())


@contextlib.contextmanager
def heard() -> Iterator[list[str]]:
    """Inside, what ``pad`` logs is collected, as the command line prints it."""
    handler, logger = _Lines(), logging.getLogger("pad")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def train(options: PretrainConfig) -> PretrainResult:
    return pretrain(options)


def _child(options: PretrainConfig) -> None:
    os.setsid()
    result = train(options)
    os._exit(128 + result.signal if result.signal else 0)


def train_and_signal(options: PretrainConfig, number: int, *, after_step: int, wait: float = 0.0) -> int:
    """Train in a process group of its own, and signal all of it ``wait`` seconds after a checkpoint; its exit code.

    The checkpoint of ``after_step``, or of a later step.
    """
    child = multiprocessing.get_context("fork").Process(target=_child, args=(options,))
    child.start()
    wanted, deadline = f"step-{after_step:08d}", time.monotonic() + 60
    while not any(path.name >= wanted for path in options.out.glob("checkpoints/step-*")):
        assert child.is_alive() and time.monotonic() < deadline, "the run ended before it could be signalled"
        time.sleep(0.002)
    time.sleep(wait)
    os.killpg(child.pid, number)
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


@contextlib.contextmanager
def stopped_after(steps: int) -> Iterator[None]:
    """Inside, a run gets a user's signal after so many steps of its call."""
    advance, counter = Monitor.advance, itertools.count(1)

    def terminate(self: Monitor) -> None:
        advance(self)
        if next(counter) == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with patch.object(Monitor, "advance", terminate):
        yield


SIGKILL, SIGTERM = signal.SIGKILL, signal.SIGTERM
