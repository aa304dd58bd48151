"""Numbers into text: the page and the data card, from Jinja templates beside this file.

A number is named by its place in ``stats.json`` (``overall/rois/total``), and the page carries that name as
``data-key``: so a test can hold every number that is shown against an independent count.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from msip.formatting import human_bytes, human_number
from msip.pages import data_url, fill

Numbers = dict[str, Any]


def render(template: str, numbers: Numbers, drawn: dict[str, str], samples: bytes) -> str:
    """One of the templates, filled.

    Args:
        template: ``page.html`` or ``card.md``.
        numbers: as in ``stats.json``.
        drawn: plots by name.
        samples: a JPEG.
    """

    def value(key: str) -> Any:
        return look_up(numbers, key)

    def told(key: str, kind: str = "") -> str:
        return as_text(value(key), kind)

    def cell(key: str, kind: str = "", tag: str = "td") -> Markup:
        return Markup('<{} data-key="{}">{}</{}>').format(Markup(tag), key, told(key, kind), Markup(tag))

    def first(key: str) -> str:
        return next((as_text({name: count}) for name, count in value(key).items()), "-")

    return fill(
        Path(__file__).with_name(template),
        numbers=numbers,
        sources=list(numbers["sources"]),
        scopes=[(f"sources/{name}", name) for name in numbers["sources"]],
        plots={name: Markup(svg) for name, svg in drawn.items()},
        picture=data_url(samples, "jpeg"),
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
    name, _, rest = key.partition("/")
    value = numbers.get(name)
    return value if not rest else look_up(value, rest) if isinstance(value, dict) else None


def as_text(value: Any, kind: str = "") -> str:
    """A value for people. ``kind``: ``bytes``, ``share``, ``exact`` (four digits), or what its type suggests."""
    if isinstance(value, dict):
        return ", ".join(f"{escape(name)} ({count:,})" for name, count in value.items()) or "-"
    return _KINDS[kind](value) if kind and value is not None else human_number(value, 3)
