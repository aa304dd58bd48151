"""Images a second from disk to updated weights, beside what the machine could do at best.

    python benchmarks/end_to_end.py --data OUT [--model NAME ...] [--steps 60] [--workers N] [--json FILE]

The one command for a machine with a GPU: ViT-S, B and L, PAD-MAE at 224 px, from the build's own files (`files`), from
tars and from decoded pixels (`raw`), after our step and the reference's in turns (train_step.py). OUT comes from
`msip build`; without --data the real samples in MSIP_REALDATA are built. Few images are repeated under new names until
an epoch is as long as the run, and the first line says so: then they come from memory, not from the disk.

Every row is a true run of `pad.training.pretrain`, its first log window left out (start, compilation):

  images/s   of the whole, and data wait: the share of it that the loop waited for images
  reading    images/s of the same reading processes when nothing trains: the floor of decoding, cropping and memory
  compute    images/s that the model's FLOPs allow at this machine's measured rate of matrix products
  of limit   images/s as a share of the smaller of the two
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from limits import machine, matmul_rate
from realdata import REALDATA
from train_step import PAIRS, Contest

from msip import build
from msip.crops import RoiCrop
from msip.manifest import Manifest
from msip.shards import shard
from pad.config.plan import default_workers
from pad.config.pretraining import PretrainConfig, read_run
from pad.data.dataset import PretrainDataset
from pad.data.index import ImageIndex, open_data, write_index
from pad.data.loader import EpochSampler, make_loader, start_reading
from pad.methods.patches import NoiseSampler
from pad.monitoring.monitor import read_metrics
from pad.training.pretrain import pretrain

MODELS = {
    "cuda": ["vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"],
    "cpu": ["vit_tiny_patch16_224"],
}
BATCH = {"cuda": 256, "cpu": 16}
WINDOWS = 6


def repeated(data: Path, to: Path, copies: int) -> Path:
    """The build ``data`` with every image ``copies`` times, under names of their own; its files stay where they are."""
    if copies == 1:
        return data
    manifest = Manifest.read(data)
    column = manifest.table.schema.get_field_index("image_id")
    field, names = manifest.table.schema.field(column), manifest.table.column(column)
    tables = [
        manifest.table.set_column(column, field, pc.binary_join_element_wise(names, f"copy{number}", "-"))
        for number in range(copies)
    ]
    to.mkdir()
    for folder in data.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            (to / folder.name).symlink_to(folder.resolve())
    Manifest(pa.concat_tables(tables), to).write()
    return to


def layouts(data: Path, folder: Path, workers: int) -> dict[str, Path]:
    """The same images as files, tars and decoded pixels."""
    for layout in ("webdataset", "raw"):
        shard(data, folder / layout, layout=layout, workers=workers)  # type: ignore[arg-type]
    return {"files": data, "tars": folder / "webdataset", "raw": folder / "raw"}


def reading_rate(place: Path, folder: Path, *, batch_size: int, steps: int, workers: int) -> float:
    """Images a second of the loader alone, from its second batch on."""
    data = open_data(place)
    index = ImageIndex(write_index(data, folder / "reading.arrow"))
    dataset = PretrainDataset(index, data.root, seed=0, crop=RoiCrop(), sampler=NoiseSampler(196))
    loader = make_loader(dataset, EpochSampler(len(dataset), batch_size, steps=steps, seed=0), workers=workers)
    batches = start_reading(loader)
    next(batches)
    start = time.perf_counter()
    count = sum(len(batch["row"]) for batch in batches)
    return count / (time.perf_counter() - start)


def training(model: str, place: Path, run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a run of ``options.steps`` steps, without its first log window."""
    config = PretrainConfig(
        data=place,
        out=run,
        model=model,
        init="random",
        max_steps=options.steps,
        batch_size=options.batch_size,
        device=options.device,
        workers=options.workers,
        log_every=max(1, options.steps // WINDOWS),
    )
    if pretrain(config).status != "finished":
        raise SystemExit(f"the run in {run} was stopped; nothing to report")
    lines, stored = read_metrics(run)[1:], read_run(run)
    assert stored is not None
    spent = sum(line["seconds"] for line in lines)
    return {
        "images_per_s": sum(line["images_per_s"] * line["seconds"] for line in lines) / spent,
        "data_wait": sum(line["data_wait"] * line["seconds"] for line in lines) / spent,
        "mfu": lines[-1].get("mfu"),
        "tflops": lines[-1]["tflops"],
        "memory_bytes": lines[-1]["memory_bytes"],
        "flops_per_image": stored["flops_per_image"],
    }


def print_row(row: dict[str, Any]) -> None:
    """One line of the table."""
    mfu = f"{100 * row['mfu']:.0f} %" if row["mfu"] else "-"
    print(
        f"{row['model']:<24}{row['data']:<7}{row['images_per_s']:>10.1f}{100 * row['data_wait']:>10.1f} %"
        f"{row['reading']:>10.1f}{row['compute']:>10.1f}{100 * row['of_limit']:>9.0f} %{row['tflops']:>9.3f}{mfu:>6}"
        f"{row['memory_bytes'] / 2**30:>8.1f}",
        flush=True,
    )


def against_reference(device: torch.device, models: list[str], batch_size: int) -> list[dict[str, Any]]:
    """The step of each model beside the reference's."""
    rows = []
    for model in models:
        for ours, theirs in PAIRS[device.type]:
            row = {"model": model, **Contest(model, batch_size, device).play(ours, theirs, 15)}
            print(
                f"{model}: a step of ours ({row['ours']}) {row['ours_ms']:.1f} ms, "
                f"the reference's ({row['reference']}) {row['reference_ms']:.1f} ms, ratio {row['ratio']:.2f}",
                flush=True,
            )
            rows.append(row)
            torch.cuda.empty_cache()
    return rows


def measure(options: argparse.Namespace, device: torch.device, folder: Path) -> list[dict[str, Any]]:
    """All rows, printed as they come."""
    data = options.data
    if data is None:
        data = folder / "build"
        build(REALDATA / "msip_sources", data, workers=options.workers or 1)
    images = len(Manifest.read(data))
    copies = -(-(options.steps + 4) * options.batch_size // images)
    times = f", each {copies} times under names of its own" if copies > 1 else ""
    print(
        f"{images:,} images of {data}{times}; {options.steps} steps of {options.batch_size}, {options.workers} workers"
    )
    places = layouts(repeated(data, folder / "repeated", copies), folder, options.workers or 1)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rate = matmul_rate(device, dtype, rows=197 * options.batch_size)
    print(f"matrix products: {rate / 1e12:.2f} TFLOP/s\n")
    print(
        f"{'model':<24}{'data':<7}{'images/s':>10}{'data wait':>12}{'reading':>10}{'compute':>10}{'of limit':>11}"
        f"{'TFLOP/s':>9}{'MFU':>6}{'GiB':>8}"
    )
    reading = {
        name: reading_rate(place, folder, batch_size=options.batch_size, steps=options.steps, workers=options.workers)
        for name, place in places.items()
    }
    rows = []
    for model in options.model:
        for name, place in places.items():
            row = {"model": model, "data": name, **training(model, place, folder / f"{model}-{name}", options)}
            row |= {"reading": reading[name], "compute": rate / row["flops_per_image"], "images": images}
            row["of_limit"] = row["images_per_s"] / min(row["reading"], row["compute"])
            print_row(row)
            rows.append(row)
    return rows


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder of `msip build`; the real samples if left out")
    parser.add_argument("--model", action="append", help="may be repeated; ViT-S, B and L on a GPU, ViT-Ti on a CPU")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, help="256 on a GPU, 16 on a CPU")
    parser.add_argument("--workers", type=int, help="reading processes; by cores")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--scratch", type=Path, help="where shards and runs go for a while: the disk to measure")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(options.device)
    options.model = options.model or MODELS[device.type]
    options.batch_size = options.batch_size or BATCH[device.type]
    options.workers = default_workers(device.type) if options.workers is None else options.workers
    print(machine(device))
    steps = against_reference(device, options.model, options.batch_size) if device.type == "cuda" else []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        rows = measure(options, device, Path(folder))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(device), "steps": steps, "rows": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
