"""What a machine could do at best: its matrix products, and how it is named in a table."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch


def machine(device: torch.device) -> str:
    """One line: processor or GPU, cores, versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())
    if device.type == "cuda":
        name = f"{torch.cuda.get_device_name(device)}; {name}"
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{name}, {os.cpu_count()} CPUs, {torch.get_num_threads()} threads, load {load}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time of one call: of the GPU until it has finished, else of one thread on the CPU, where other programs' turns
    do not count; with several threads wall time.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def matmul_rate(device: torch.device, dtype: torch.dtype, *, rows: int, width: int = 768, repeats: int = 9) -> float:
    """Best FLOPs a second of (rows, width) x (width, 4 width): the largest product of a transformer block."""
    if device.type == "cuda":
        rows = max(rows, 16_384)
    a = torch.randn(rows, width, device=device, dtype=dtype)
    b = torch.randn(width, 4 * width, device=device, dtype=dtype)
    torch.mm(a, b)
    return 2 * rows * width * 4 * width / min(seconds(lambda: torch.mm(a, b), device) for _ in range(repeats))
