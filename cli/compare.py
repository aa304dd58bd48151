"""``msip compare``: contestants x tasks x seeds of one YAML file to one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Json
from .output import print_json, print_line, print_table


def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="Contestants, tasks and seeds.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the results; what is there is kept.", show_default="FILE without .yaml"),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(help="What relative data paths are relative to.", show_default="FILE's folder"),
    ] = None,
    runs: Annotated[Path | None, typer.Option(help="Where pre-trainings go.", show_default="runs/ in --out")] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Run only this task (may be repeated).", show_default=False)
    ] = None,
    contestant: Annotated[
        list[str] | None, typer.Option(help="Run only this contestant (may be repeated).", show_default=False)
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Run only this seed (may be repeated).", show_default=False)
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    as_json: Json = False,
) -> None:
    """Compare contestants on tasks over seeds; what is missing is run, pre-training included, what is there is kept."""
    import pad
    from pad.evaluation.comparison.tables import CSV, MARKDOWN

    report = pad.compare(
        file,
        out=out,
        root=root,
        runs=runs,
        task=task or (),
        contestant=contestant or (),
        seed=seed or (),
        device=device,
    )
    if as_json:
        print_json([line.as_json() for line in report.lines])
        return
    print_table(*report.table())
    print_line(f"{MARKDOWN}, {CSV} and a plot in {report.folder}")
