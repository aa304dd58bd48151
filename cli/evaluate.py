"""``msip evaluate``: does a contestant help on a task, with its spread over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .model_options import Fields, ModelCommand
from .options import Json
from .output import print_json, print_line, print_table


class EvaluateCommand(ModelCommand):
    """``msip evaluate``: one option for each of every task."""

    @staticmethod
    def function(**options: Any) -> None:
        """Run the command."""
        evaluate(**options)

    @staticmethod
    def fields() -> Fields:
        """Return the tasks' own options."""
        from pad.evaluation.tasks.registry import tasks

        fields: Fields = {}
        for kind, task in tasks().items():
            for name, field in task.Options.model_fields.items():
                fields.setdefault(name, {})[kind] = field
        return fields


def evaluate(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="RUN|WEIGHTS|timm:NAME",
            help="What is evaluated; random:NAME is no pre-training. {seed} in a path: another for each seed.",
        ),
    ],
    task: Annotated[str, typer.Option(help="segmentation, detection, probe of frozen features, or an installed one.")],
    data: Annotated[Path, typer.Option(help="Folder of the set; its layout is recognised.")],
    mode: Annotated[
        list[str] | None,
        typer.Option(
            help="What trains beside the head: full, adapter, frozen or lora; repeated, modes are compared.",
            show_default="full; probe: frozen",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs with seeds 0, 1, ...")] = 3,
    label_fraction: Annotated[float, typer.Option(help="Share of the training images, drawn by each seed.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder of the results; what is there is not computed again.")] = Path(
        "evaluation"
    ),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    as_json: Json = False,
    **options: Any,
) -> None:
    """Evaluate weights on a labelled set: mean and deviation over seeds, differences of modes, predictions drawn."""
    import pad
    from pad.evaluation.comparison.tables import CSV, MARKDOWN
    from pad.evaluation.tasks.registry import task_class

    report = pad.evaluate(
        weights,
        task,
        data,
        mode=mode or (),
        seeds=seeds,
        label_fraction=label_fraction,
        out=out,
        device=device,
        **{name: value for name, value in options.items() if value is not None},
    )
    if as_json:
        notes = [note for told in report.notes.values() for note in told]
        results = [line.as_json() for line in report.lines]
        print_json({"folder": str(report.folder), "notes": notes, "results": results})
        return
    print_table(*report.table())
    drawn = " and drawn predictions" if task_class(task).draws else ""
    print_line(f"{MARKDOWN}, {CSV}, cells{drawn} in {report.folder}")
