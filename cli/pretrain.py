"""``msip pretrain``: options to ``pad.training.pretrain``, with the help of ``pad.config`` and ``pad.methods``."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from pad.config.pretraining import PretrainConfig

from .output import print_json, print_table
from .wording import Command


class PretrainCommand(Command):
    """``msip pretrain``: one option for each of ``PretrainConfig`` and of every method, made when they are asked for.

    The methods' bring torch along, for which ``msip --help`` and all other commands need not wait.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callback = pretrain  # Typer's own wrapper knows only the parameters in its signature
        self._complete = False

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all options, those of the methods with the default of each."""
        if not self._complete:
            self._complete = True
            self.params[:] = [*_options(), *(own for own in self.params if own.name != "options")]
        return super().get_params(ctx)


def _options() -> list[Any]:
    """Return the options of a run, then the methods' own, as Typer makes them of a function with such parameters."""
    from pad.methods import methods

    fields = {name: {"": field} for name, field in PretrainConfig.model_fields.items() if name != "options"}
    for method, kind in methods().items():
        for name, field in kind.options.model_fields.items():
            fields.setdefault(name, {})[method] = field

    def stand_in() -> None: ...

    parameters = [_parameter(name, having) for name, having in fields.items()]
    vars(stand_in)["__signature__"] = inspect.Signature(parameters)
    stand_in.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    made = typer.Typer(add_completion=False)
    made.command()(stand_in)
    return list(typer.main.get_command(made).params)


def _parameter(name: str, having: dict[str, FieldInfo]) -> inspect.Parameter:
    """Return one option: absent unless given, so that a preset and a --config file can lie below it.

    ``having``: the field of each method that has it; where their defaults differ each is shown.
    """
    field = next(iter(having.values()))
    shown = {method: _shown_default(each) for method, each in having.items()}
    default = next(iter(shown.values()))
    if len(set(shown.values())) > 1:
        default = ", ".join(f"{method} {value}" for method, value in shown.items())
    option = typer.Option(help=field.description, show_default=default or False)
    annotation = Annotated[_parsed(field.annotation) | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _shown_default(field: FieldInfo) -> str | None:
    extra = field.json_schema_extra
    shown = extra.get("shown") if isinstance(extra, dict) else None
    if shown is None and field.default not in (None, ()) and not field.is_required():
        return ("on" if field.default else "off") if isinstance(field.default, bool) else str(field.default)
    return None if shown is None else str(shown)


def _parsed(annotation: Any) -> Any:
    """Return the type that the command line parses for a field's; which words fit is the configuration's business."""
    inner = [part for part in typing.get_args(annotation) if part not in (type(None), ...)]
    if typing.get_origin(annotation) is tuple:
        return list[inner[0]]  # type: ignore[valid-type]
    if typing.get_origin(annotation) is typing.Literal or any(typing.get_origin(p) is typing.Literal for p in inner):
        return str
    return _parsed(inner[0]) if inner else annotation


def pretrain(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file of these options; those given here win.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    **options: Any,
) -> None:
    """Pre-train an infrared adapter (or encoder) on a built dataset; can be killed and continued exactly."""
    given = {name: value for name, value in options.items() if value not in (None, ())}
    configuration = PretrainConfig.layered(given, None if config is None else Path(config))
    from pad.training.pretrain import pretrain as run
    from pad.training.processes import Ranks

    result = run(configuration)
    if Ranks.from_environment().rank == 0:  # of several processes one speaks
        (print_json if as_json else _print_summary)(dataclasses.asdict(result))
    if result.signal:
        raise typer.Exit(128 + result.signal)


def replay(
    run: Annotated[Path, typer.Argument(help="Folder of a run that stopped because a loss was not finite.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the finding as JSON.")] = False,
) -> None:
    """Take the step again that stopped a run, and name the layer where it stops being finite."""
    import pad

    finding = pad.replay(run, device=device)
    if as_json:
        print_json(dataclasses.asdict(finding))
        return
    typer.echo(finding.sentence())
    for image_id in finding.image_ids:
        typer.echo(image_id)


def _print_summary(values: dict[str, Any]) -> None:
    """The result for people."""
    print_table(
        ["run", str(values.pop("run"))], [[name.replace("_", " "), _shown(value)] for name, value in values.items()]
    )


def _shown(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
