"""What compiled blocks cost the CPU at each step: a model too small for anything else to count, plain and compiled.

    python benchmarks/compile_overhead.py [--steps 30] [--turns 5]

Milliseconds of CPU time a step, medians over turns; both take their turns in one process. On a GPU this is the time in
which the CPU must have asked for a step's work, or the GPU waits.
"""

from __future__ import annotations

import argparse
import statistics
import time

import timm
import torch
from limits import machine

from pad.adapters.attach import attach_adapters
from pad.methods import MAE
from pad.training.blocks import BlockCalls
from pad.training.paradigms import apply_paradigm
from pad.training.parallel import SingleProcess
from pad.training.step import Step, make_optimizer


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    device = torch.device("cpu")
    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32, embed_dim=24, num_heads=2)
    method = MAE(attach_adapters(encoder), decoder_embed_dim=32, decoder_depth=8, decoder_num_heads=2).train()
    optimizer = make_optimizer(apply_paradigm(method, "pad"))
    step = Step(SingleProcess(method, optimizer, device), bf16=False)
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    batch = {"image": images, "inputs": {"noise": torch.rand(2, method.patches)}}

    def spent(compiled: bool) -> float:
        with BlockCalls(method, compiled=compiled, recomputed=False, say=print):
            for timed in (3, options.steps):  # the first few compile
                begin = time.process_time()
                for _ in range(timed):
                    step.parallel.zero_grad()
                    step.update(step.backward(batch, 0), 0)
        return (time.process_time() - begin) / options.steps * 1e3

    times = [(spent(False), spent(True)) for _ in range(options.turns)]
    print(machine(device))
    print("20 blocks with adapters and decoder; ms of CPU time a step, medians")
    for name, of in zip(("plain", "compiled"), zip(*times, strict=True), strict=True):
        print(f"{name:<10}{statistics.median(of):6.1f}")


if __name__ == "__main__":
    main()
