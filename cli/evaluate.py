"""``msip evaluate``: does a contestant help on a task, with its spread over seeds."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .output import print_json, print_line, print_table


class TaskName(StrEnum):
    """What is learnt."""

    segmentation = "segmentation"
    detection = "detection"
    probe = "probe"


class ModeName(StrEnum):
    """What trains beside the head."""

    full = "full"
    adapter = "adapter"
    frozen = "frozen"
    lora = "lora"


class PrecisionName(StrEnum):
    """How forward passes compute."""

    bf16 = "bf16"
    fp32 = "fp32"


def evaluate(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="RUN|WEIGHTS|timm:NAME",
            help="What is evaluated; random:NAME is no pre-training. {seed} in a path: another for each seed.",
        ),
    ],
    task: Annotated[TaskName, typer.Option(help="Segmentation, detection, or a probe of frozen features.")],
    data: Annotated[Path, typer.Option(help="Folder of the set; its layout is recognised.")],
    mode: Annotated[
        list[ModeName] | None,
        typer.Option(
            help="What trains beside the head: all, adapters, nothing, or LoRA; repeated, modes are compared.",
            show_default="full; probe: frozen",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with seeds 0, 1, ...")] = 3,
    label_fraction: Annotated[float, typer.Option(help="Share of the training images, drawn by each seed.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder of the results; what is there is not computed again.")] = Path(
        "evaluation"
    ),
    image_size: Annotated[
        int | None, typer.Option(help="Side of the input.", show_default="512, detection 1024, probe 224")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps.", show_default="100 epochs, detection 12")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images of one step.", show_default="8, detection 2")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="1e-4")] = None,
    decoder_channels: Annotated[
        int | None,
        typer.Option(
            min=8, help="Width of UPerNet, or of the detector's pyramid.", show_default="the encoder's, detection 256"
        ),
    ] = None,
    precision: Annotated[
        PrecisionName | None, typer.Option(help="Of forward passes.", show_default="bf16 on a GPU, else fp32")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Evaluate weights on a labelled set: mean and deviation over seeds, differences of modes, predictions drawn."""
    from pad.evaluation.comparison.cells import Task
    from pad.evaluation.comparison.tables import CSV, MARKDOWN, table
    from pad.evaluation.evaluate import evaluate as run

    modes = tuple(entry.value for entry in mode or ()) or ("frozen" if task is TaskName.probe else "full",)
    name = data.resolve().name
    settings = Task(
        name,
        task.value,
        data,
        image_size=image_size,
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        label_fraction=label_fraction,
        precision=None if precision is None else precision.value,
        decoder_channels=decoder_channels,
    )
    work, lines = run(weights, settings, modes, seeds, out, device=device)
    if as_json:
        print_json({"folder": str(work.out), "notes": list(work.notes[name]), "results": [x.as_json() for x in lines]})
        return
    header, rows = table(lines, modes[0])
    print_table(header, rows)
    drawn = "" if task is TaskName.probe else " and drawn predictions"
    print_line(f"{MARKDOWN}, {CSV}, cells{drawn} in {work.out}")
