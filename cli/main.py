"""The application, and what happens when something is wrong: one sentence, exit code 2, no traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

# Threads that wait spin by default, which makes training on shared cores up to ten times slower; never spinning costs a
# factor of two on idle ones. A short spin loses little on either. Set before torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import typer
from typer.core import TyperGroup

from msip.errors import MsipError

from .build import build, verify
from .compare import compare
from .curate import curate
from .demo import demo
from .doctor import doctor
from .download import download
from .evaluate import EvaluateCommand, evaluate
from .inspect import inspect
from .models import export_model, scale_maps
from .output import show_log
from .pretrain import PretrainCommand, pretrain, replay
from .rois import export_crops, rois
from .shard import shard
from .sources import sources
from .stats import stats
from .wording import Command

UsageError: Any = typer.BadParameter.__mro__[1]  # of click, which newer versions of typer bring along


class Commands(TyperGroup):
    """The commands; words that do not make one are a mistake like any other."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What stands before the command. Raises ``MsipError``; without any word at all, click shows the help."""
        with _usage_errors(ctx) if args else contextlib.nullcontext():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for. Raises ``MsipError`` for options and values that it does not have."""
        show_log()
        try:
            with _usage_errors(ctx):
                return super().invoke(ctx)
        except KeyboardInterrupt:  # before typer takes it, which would leave without a word
            sys.stderr.write("interrupted; finished work is kept, run the same command again to continue.\n")
            raise typer.Exit(130) from None


@contextlib.contextmanager
def _usage_errors(ctx: Any) -> Iterator[None]:
    """``Invalid value for '--agc': Value error, 'x' is not ...`` as one sentence that says where help is."""
    try:
        yield
    except UsageError as error:
        text = " ".join(error.format_message().split()).replace("Value error, ", "")
        text = text.replace(". Did you", "; did you").replace(": Input", ": input")
        text = text[:1].lower() + text[1:]
        help_of = (error.ctx or ctx).command_path
        raise MsipError(text if text.endswith("?") else f"{text.rstrip('.')}; see `{help_of} --help`.") from None


app = typer.Typer(
    name="msip",
    cls=Commands,
    help="Data and pre-training for infrared vision: build MSIP or your own data set, train adapters on it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
COMMANDS = (
    sources,
    download,
    build,
    verify,
    rois,
    curate,
    stats,
    shard,
    inspect,
    pretrain,
    evaluate,
    compare,
    demo,
    doctor,
    export_crops,
    export_model,
    scale_maps,
    replay,
)
WITH_MODELS = {pretrain: PretrainCommand, evaluate: EvaluateCommand}
for command in COMMANDS:
    app.command(cls=WITH_MODELS.get(command, Command))(command)


def main() -> NoReturn:
    """Entry point of the console script ``msip``."""
    try:
        app()
    except MsipError as error:
        fail(str(error))
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        fail(f"the system refused{where}: {error.strerror or error}; check the path and its permissions.")
    sys.exit(0)


def fail(message: str) -> NoReturn:
    """Say what is wrong and leave with code 2."""
    sys.stderr.write(f"error: {message}\n")
    sys.exit(2)
