"""``msip demo``: the whole way on a small corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json, Workers, cores
from .output import StageBars, print_json, print_line


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    raw: Annotated[
        Path | None, typer.Option(help="Real sources instead of the generated ones.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=10, help="Optimizer steps of the short training run.")] = 60,
    workers: Workers = cores(),
    as_json: Json = False,
) -> None:
    """The whole way on a small corpus: build, verify, RoIs, crops, a short PAD-MAE run, and one page to look at."""
    import pad

    if not as_json:
        print_line(f"From raw sources to a trained adapter: about two minutes on two idle cores. All goes to {out}.")
    with StageBars(quiet=as_json) as bars:
        done = pad.demo(out, raw=raw, steps=steps, workers=workers, progress=bars)
    if as_json:
        print_json(vars(done))
        return
    print_line(f"\nLoss {done.first_loss:.3f} -> {done.last_loss:.3f} in {steps} steps.")
    print_line(f"Open {done.page} in a browser; its training run: {out / 'run' / 'report.html'}.")
    print_line("Your own frames: msip build --folder FRAMES --out DATA (any nesting, 8 to 16 bits).")
