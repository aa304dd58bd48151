"""Numbers into text: the page and the data card, from Jinja templates beside this file.

A number is named by its place in ``stats.json`` (``overall/rois/total``), and the page carries that name as
``data-key``: so a test can hold every number that is shown against an independent count.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from msip.files import human_bytes

Numbers = dict[str, Any]


def render(template: str, numbers: Numbers, drawn: dict[str, str], samples: bytes) -> str:
    """One of the templates, filled.

    Args:
        template: ``page.html`` or ``card.md``.
        numbers: as in ``stats.json``.
        drawn: plots by name.
        samples: a JPEG.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=template.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )

    def value(key: str) -> Any:
        return look_up(numbers, key)

    def told(key: str, kind: str = "") -> str:
        return as_text(value(key), kind)

    def cell(key: str, kind: str = "", tag: str = "td") -> Markup:
        return Markup('<{} data-key="{}">{}</{}>').format(Markup(tag), key, told(key, kind), Markup(tag))

    def first(key: str) -> str:
        return next((as_text({name: count}) for name, count in value(key).items()), "-")

    picture = base64.b64encode(samples).decode()
    return environment.get_template(template).render(
        numbers=numbers,
        sources=list(numbers["sources"]),
        parts=[(f"sources/{name}", name) for name in numbers["sources"]],
        plots={name: Markup(svg) for name, svg in drawn.items()},
        picture=picture,
        value=value,
        told=told,
        cell=cell,
        first=first,
    )


_KINDS: dict[str, Callable[[float], str]] = {
    "bytes": human_bytes,
    "share": lambda value: f"{100 * value:.1f} %",
    "exact": lambda value: f"{value:.4f}",
}


def look_up(numbers: Numbers, key: str) -> Any:
    """The value at ``overall/rois/total``; ``None`` where there is none."""
    found: Any = numbers
    for part in key.split("/"):
        if not isinstance(found, dict) or part not in found:
            return None
        found = found[part]
    return found


def as_text(value: Any, kind: str = "") -> str:
    """A value for people. ``kind``: ``bytes``, ``share``, ``exact`` (four digits), or what its type suggests."""
    if value is None:
        return "-"
    if kind:
        return _KINDS[kind](value)
    if isinstance(value, dict):
        return ", ".join(f"{escape(name)} ({count:,})" for name, count in value.items()) or "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
