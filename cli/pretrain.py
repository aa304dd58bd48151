"""``msip pretrain``: options to ``pad.training.pretrain``, with the help of ``pad.config`` and ``pad.methods``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from pad.config.pretraining import PretrainConfig

from .model_options import Fields, ModelCommand
from .output import print_json, print_table


class PretrainCommand(ModelCommand):
    """``msip pretrain``: one option for each of ``PretrainConfig`` and of every method."""

    @staticmethod
    def function(**options: Any) -> None:
        """Run the command."""
        pretrain(**options)

    @staticmethod
    def fields() -> Fields:
        """Return the options of a run, then the methods' own."""
        from pad.methods import methods

        fields = {name: {"": field} for name, field in PretrainConfig.model_fields.items() if name != "options"}
        for method, made in methods().items():
            for name, field in made.options.model_fields.items():
                fields.setdefault(name, {})[method] = field
        return fields


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
