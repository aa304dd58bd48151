"""Our training step beside the reference's, re-created: same weights, same batch, same device, in turns.

    python benchmarks/train_step.py [--model NAME] [--batch-size N] [--pairs 15] [--device auto] [--json FILE]

A pair is one step of each, from a batch on the host to updated weights: ours from one-channel uint8, the reference's
from float32 RGB (see reference_step.py for what it does). Which goes first changes from pair to pair; the ratio is the
median over the pairs of theirs / ours, so that a machine whose speed varies favours neither. Before that, both losses
are compared. On a CPU both take one thread by default and its CPU time counts, so that other programs disturb less.
There the reference is timed in float32 too when ours runs in bf16, because that is what it does: its
`torch.cuda.amp.autocast` has no effect without a GPU.

`floor` is the time that the model's FLOPs (pad.monitoring.cost) take at the measured rate of matrix products here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import timm
import torch
from limits import machine, matmul_rate, seconds
from reference_step import ReferenceMAE, ReferenceStep

from pad.adapters.attach import attach_adapters
from pad.data.grey import normalise
from pad.methods import MAE
from pad.monitoring.cost import count_flops
from pad.training.blocks import BlockCalls
from pad.training.paradigms import apply_paradigm
from pad.training.parallel import SingleProcess
from pad.training.step import Step, make_optimizer

LR = 1e-4
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
PAIRS = {
    "cpu": [(torch.float32, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.bfloat16, torch.float32)],
    "cuda": [(torch.bfloat16, torch.float16), (torch.bfloat16, torch.bfloat16)],
}
"""(ours, theirs) by device."""


class Contest:
    """One batch, and both steps of one model."""

    def __init__(self, model: str, batch_size: int, device: torch.device) -> None:
        torch.manual_seed(0)
        encoder = timm.create_model(model, num_classes=0)
        self.method = MAE(attach_adapters(encoder)).to(device)
        reference = ReferenceMAE(self.method).to(device)
        reference.load(self.method)
        self.optimizer = make_optimizer(apply_paradigm(self.method, "pad"))
        for group in self.optimizer.param_groups:
            group["lr"] = LR * group.get("lr_scale", 1.0)
        self.reference, self.device = reference, device
        side = self.method.grid[0] * self.method.patch[0]
        image = torch.randint(0, 256, (batch_size, 1, side, side), dtype=torch.uint8)
        noise = torch.rand(batch_size, self.method.patches)
        self.rgb = normalise(image, 3).contiguous()
        self.batch: dict[str, Any] = {"image": image, "inputs": {"noise": noise}}
        if device.type == "cuda":
            self.batch = {"image": image.pin_memory(), "inputs": {"noise": noise.pin_memory()}}
            self.rgb = self.rgb.pin_memory()
        one = {"images": self.rgb[:1].to(device), "noise": noise[:1].to(device)}
        self.flops = count_flops(self.method, one) * batch_size

    def play(self, ours: torch.dtype, theirs: torch.dtype, pairs: int) -> dict[str, Any]:
        """Milliseconds of both, the ratio and its quartiles, and the losses of the first step."""
        step = Step(SingleProcess(self.method, self.optimizer, self.device), bf16=ours == torch.bfloat16)
        other = ReferenceStep(self.reference, dtype=theirs, lr=LR)
        noise, calls = self.batch["inputs"]["noise"], ExitStack()
        explicit = self.device.type == "cpu" and step.bf16
        compiled = self.device.type == "cuda"
        calls.enter_context(BlockCalls(self.method, compiled=compiled, recomputed=False, say=print, explicit=explicit))
        losses: list[Any] = [0.0, 0.0]

        def one() -> None:
            step.parallel.zero_grad()
            losses[0] = step.backward(self.batch, 0)
            step.update(losses[0], 0)

        def two() -> None:
            losses[1] = other(self.rgb, noise)

        self.method.train()
        self.reference.train()
        with calls:
            one(), two()
            first = [float(loss) for loss in losses]
            for _ in range(2):
                one(), two()
            times = []
            for pair in range(pairs):
                order = (one, two) if pair % 2 else (two, one)
                spent = {work: seconds(work, self.device) for work in order}
                times.append((spent[one], spent[two]))
        ratios = [their / our for our, their in times]
        quartiles = statistics.quantiles(ratios, n=4)
        return {
            "ours": NAMES[ours],
            "reference": NAMES[theirs],
            "ours_ms": 1e3 * statistics.median(our for our, _ in times),
            "reference_ms": 1e3 * statistics.median(their for _, their in times),
            "ratio": statistics.median(ratios),
            "quartiles": [quartiles[0], quartiles[2]],
            "losses": first,
            "ours_faster": sum(ratio > 1 for ratio in ratios),
            "pairs": pairs,
        }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--batch-size", type=int, help="4 on a CPU, 256 on a GPU")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="of torch on the CPU; wall time counts with several")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    wanted = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    else:
        torch.set_num_threads(options.threads)
    batch_size = options.batch_size or (256 if device.type == "cuda" else 4)
    print(machine(device))
    rows = []
    print(f"{options.model}, batch of {batch_size}; {options.pairs} pairs in turns, medians\n")
    print(
        f"{'ours':<6}{'theirs':<8}{'ours ms':>9}{'theirs':>9}{'ratio':>7}{'quartiles':>14}{'faster':>9}"
        f"{'floor':>8}{'images/s':>10}  losses"
    )
    for ours, theirs in PAIRS[device.type]:
        contest = Contest(options.model, batch_size, device)
        row = contest.play(ours, theirs, options.pairs)
        rate = matmul_rate(device, ours, rows=batch_size * (1 + contest.method.patches))
        row |= {"floor_ms": 1e3 * contest.flops / rate, "matmul_tflops": rate / 1e12}
        row["images_per_s"] = 1e3 * batch_size / row["ours_ms"]
        rows.append(row)
        quartiles, faster = "{:.2f} - {:.2f}".format(*row["quartiles"]), f"{row['ours_faster']} of {row['pairs']}"
        print(
            f"{row['ours']:<6}{row['reference']:<8}{row['ours_ms']:>9.0f}{row['reference_ms']:>9.0f}{row['ratio']:>7.2f}"
            f"{quartiles:>14}{faster:>9}{row['floor_ms']:>8.0f}"
            f"{row['images_per_s']:>10.1f}  {row['losses'][0]:.4f} {row['losses'][1]:.4f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(device), "batch_size": batch_size, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
