"""Sentences of the library in the words of the command line: `batch_size=8` becomes ``--batch-size 8``."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperArgument, TyperCommand

from msip.errors import MsipError

_PARAMETER = re.compile(r"`([a-z]\w*)(?:=([^`]*))?`")
_SPOKEN: dict[str, str] = {}


class Command(TyperCommand):
    """A command; from its start on, ``in_options`` knows its options, and its errors speak of them."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command. Raises ``MsipError``."""
        _SPOKEN.clear()
        for parameter in self.params:
            argument = isinstance(parameter, TyperArgument)
            _SPOKEN[parameter.name] = parameter.metavar or parameter.name.upper() if argument else parameter.opts[0]
        try:
            return super().invoke(ctx)
        except MsipError as error:
            error.args = (in_options(str(error)),)
            raise


def in_options(text: str) -> str:
    """``text`` with every parameter of the running command, in backquotes, as its option or argument.

    Backquoted commands, and names that are no parameter of this command, stay as they are.
    """

    def word(found: re.Match[str]) -> str:
        option, value = _SPOKEN.get(found[1]), found[2]
        if option is None:
            return found[0]
        return option if value is None else f"{option} {value}"

    return _PARAMETER.sub(word, text)
