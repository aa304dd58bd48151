"""Options of the command line out of pydantic models: of a run and its methods, of tasks."""

from __future__ import annotations

import inspect
import typing
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from .wording import Command

Fields = dict[str, dict[str, FieldInfo]]
"""By option: the field of each model that has it, by the model's name."""


class ModelCommand(Command):
    """A command with an option for each field of some models, made when they are asked for.

    The models bring torch along, for which ``msip --help`` and all other commands need not wait. A subclass names the
    function behind the command, whose ``**options`` take them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.callback = self.function  # Typer's own wrapper knows only the parameters in its signature
        self._complete = False

    @staticmethod
    def function(**options: Any) -> None:
        """Run the command."""
        raise NotImplementedError

    @staticmethod
    def fields() -> Fields:
        """Return the fields that become options."""
        raise NotImplementedError

    def get_params(self, ctx: Any) -> list[Any]:
        """Return all options, those of the models among them."""
        if not self._complete:
            self._complete = True
            own = [parameter for parameter in self.params if parameter.name != "options"]
            self.params[:] = [*own, *_options(self.fields())]
        return super().get_params(ctx)


def _options(fields: Fields) -> list[Any]:
    """Return one option a name, as Typer makes them of a function with such parameters."""

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
