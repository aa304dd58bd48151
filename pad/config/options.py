"""Options by name: as the command line writes them, out of YAML files, and sentences for mistakes in them."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from msip.errors import RunError


def option(name: str) -> str:
    """``batch_size`` to ``--batch-size``."""
    return "--" + name.replace("_", "-")


def read_options(file: Path) -> dict[str, Any]:
    """Options from a YAML file. Raises ``RunError``."""
    try:
        values = yaml.safe_load(file.read_text())
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}); give an existing YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{file} is not YAML ({' '.join(str(error).split())}); correct it.") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RunError(f"{file} holds a {type(values).__name__}, expected lines `option: value`.")
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def suggestion(name: str, known: set[str]) -> str:
    """Return the end of a sentence about an unknown name: the closest known one, or the advice to leave it out."""
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else "; leave it out."


def explain(error: ValidationError) -> str:
    """Return pydantic's first problem as one sentence that names the option."""
    problem = error.errors()[0]
    name = option(str(problem["loc"][0]))
    if problem["type"] == "missing":
        return f"{name} is missing; give it on the command line or in the --config file."
    message = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{name} is {problem['input']!r}, but {message}."
