"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from msip.engine import cores as cores  # noqa: PLC0414

Out = Annotated[Path, typer.Argument(metavar="OUT", help="The folder of a build.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes.", show_default="number of cores")]
Engine = Annotated[
    Literal["local", "ray"], typer.Option(help="Where tasks run: this machine's processes, or a Ray cluster.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")]
Include = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Of a folder: only frames that match (may be repeated).", show_default=False),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(metavar="GLOB", help="Of a folder: leave out what matches (may be repeated).", show_default=False),
]
Every = Annotated[int, typer.Option(metavar="N", help="Of a folder: every Nth frame of each folder in it.")]
ExcludeFlags = Annotated[
    list[str] | None,
    typer.Option("--exclude-flag", help="Leave out images with this flag (may be repeated).", show_default=False),
]
