"""Jinja templates into HTML pages (or Markdown); their pictures lie inside them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from msip.formatting import human_number


def fill(template: Path, **values: Any) -> str:
    """A template, filled; in HTML values are escaped. The filter ``number`` is ``human_number``.

    Raises ``jinja2.UndefinedError`` for a value that the template names and nobody gave.
    """
    environment = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=template.suffix == ".html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["number"] = human_number
    return environment.get_template(template.name).render(values)


def data_url(picture: bytes, kind: str = "png") -> str:
    """An encoded picture as an address: ``data:image/png;base64,...``."""
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"
