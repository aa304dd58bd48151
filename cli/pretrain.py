"""``msip pretrain``: options to ``pad.training.pretrain``; the options and their help are those of ``pad.config``."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from pad.config.pretraining import PretrainConfig

from .output import print_json, print_table


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command`` one parameter for each option of ``PretrainConfig``, as Typer reads them."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    options = [_parameter(name, field) for name, field in PretrainConfig.model_fields.items()]
    parameters = [*options, *(parameter for parameter in own if parameter.kind is not inspect.Parameter.VAR_KEYWORD)]
    command.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    """One option: absent unless given, so that a preset and a --config file can lie below it."""
    shown = (field.json_schema_extra or {}).get("shown")  # type: ignore[union-attr]
    if shown is None and field.default not in (None, ()) and not field.is_required():
        shown = ("on" if field.default else "off") if isinstance(field.default, bool) else str(field.default)
    option = typer.Option(help=field.description, show_default=shown or False)
    annotation = Annotated[_parsed(field.annotation) | None, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _parsed(annotation: Any) -> Any:
    """The type that the command line parses for a field's type; which words fit is the configuration's business."""
    inner = [part for part in typing.get_args(annotation) if part not in (type(None), ...)]
    if typing.get_origin(annotation) is tuple:
        return list[inner[0]]  # type: ignore[valid-type]
    if typing.get_origin(annotation) is typing.Literal or any(typing.get_origin(p) is typing.Literal for p in inner):
        return str
    return _parsed(inner[0]) if inner else annotation


@_with_options
def pretrain(
    *,
    config: Annotated[Path | None, typer.Option(help="YAML file of these options; those given here win.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    **options: Any,
) -> None:
    """Pre-train an infrared adapter (or encoder) on a built dataset; can be killed and continued exactly."""
    given = {name: value for name, value in options.items() if value is not None}
    configuration = PretrainConfig.layered(given, config)
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
