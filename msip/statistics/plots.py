"""Plots as SVG text: files of their own and parts of the page alike; light and dark, no script, no font."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import escape

from msip.formatting import human_number

_WIDTH, _RIGHT, _ROW, _TOP, _BOTTOM = 500, 20, 30, 8, 26
_LABEL = 7.4  # pixels a character, at most
_STYLE = """<style>
.msip-plot { color: #1d2127; --soft: #646c78; --rule: #e3e0da; --fill: #c2560c; font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) {
  .msip-plot { color: #dfe3ea; --soft: #929bab; --rule: #2a303a; --fill: #ffab5e; } }
.msip-plot text { fill: currentColor; } .msip-plot .tick { fill: var(--soft); font-size: 11px; text-anchor: middle; }
.msip-plot .name { text-anchor: end; } .msip-plot .grid { stroke: var(--rule); } .msip-plot rect { fill: var(--fill); }
.msip-plot .range { stroke: var(--fill); stroke-width: 1.5; } .msip-plot .box { opacity: .4; }
.msip-plot .median { stroke: var(--fill); stroke-width: 3; }
</style>"""


@dataclass(frozen=True)
class _Axis:
    """From values, ``low`` to ``high``, to pixels between ``left`` and the plot's right edge."""

    low: float
    high: float
    left: float

    def __call__(self, value: float) -> float:
        return round(self.left + (value - self.low) / (self.high - self.low) * (_WIDTH - _RIGHT - self.left), 1)

    def ticks(self, height: float) -> list[str]:
        """Grid lines with their values under them."""
        from matplotlib.ticker import MaxNLocator

        lines = []
        for value in MaxNLocator(5).tick_values(self.low, self.high):
            if self.low <= value <= self.high:
                x = self(float(value))
                lines.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{_TOP}" y2="{height - _BOTTOM + 4}"/>')
                lines.append(f'<text class="tick" x="{x}" y="{height - 8}">{human_number(float(value), 3)}</text>')
        return lines


def strips(rows: Sequence[tuple[str, dict[str, Any]]], title: str) -> str:
    """One line a source: 5 to 95 % of its values, 25 to 75 % as a box, the median.

    Args:
        rows: names and distributions (``summary.distribution``); those without values are left out.
        title: for who cannot see it.
    """
    rows = [(name, values) for name, values in rows if values["count"]]
    if not rows:
        return ""
    height = _TOP + _ROW * len(rows) + _BOTTOM
    low, high = min(values["q05"] for _, values in rows), max(values["q95"] for _, values in rows)
    low = 0.0 if 0 <= low < 0.5 * high else low
    room = 0.04 * (high - low) or 1.0  # a lone value stands in the middle
    axis = _Axis(low if low == 0 and high > 0 else low - room, high + room, _left([name for name, _ in rows]))
    marks = axis.ticks(height)
    for number, (name, values) in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        q05, q25, q50, q75, q95 = (axis(values[key]) for key in ("q05", "q25", "q50", "q75", "q95"))
        told = ", ".join(f"{key[1:]} %: {human_number(values[key], 3)}" for key in ("q05", "q25", "q50", "q75", "q95"))
        marks += [
            f"<g><title>{escape(name)}: {told}</title>",
            f'<text class="name" x="{axis.left - 10}" y="{y + 4}">{escape(name)}</text>',
            f'<line class="range" x1="{q05}" x2="{q95}" y1="{y}" y2="{y}"/>',
            f'<rect class="box" x="{q25}" width="{max(1.0, round(q75 - q25, 1))}" y="{y - 7}" height="14"/>',
            f'<line class="median" x1="{q50}" x2="{q50}" y1="{y - 7}" y2="{y + 7}"/></g>',
        ]
    return _svg(height, title, marks)


def bars(rows: Sequence[tuple[str, int]], title: str) -> str:
    """Horizontal bars with their counts."""
    height = _TOP + _ROW * len(rows) + 8
    axis = _Axis(0, max(1, *(count for _, count in rows)) * 1.15, _left([name for name, _ in rows]))
    marks = []
    for number, (name, count) in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        width = round(axis(count) - axis.left, 1)
        marks += [
            f'<text class="name" x="{axis.left - 10}" y="{y + 4}">{escape(name)}</text>',
            f'<rect x="{axis.left}" y="{y - 8}" width="{max(1.0, width)}" height="16"/>',
            f'<text x="{axis.left + width + 6}" y="{y + 4}">{count:,}</text>',
        ]
    return _svg(height, title, marks)


def histogram(counts: Sequence[int], low: float, high: float, title: str) -> str:
    """Bars side by side over equal parts of ``low`` to ``high``; each tells its share."""
    height, total = 190, max(1, sum(counts))
    axis = _Axis(low, high, 14)
    step = (high - low) / len(counts)
    marks = axis.ticks(height)
    for number, count in enumerate(counts):
        start = low + number * step
        tall = round((height - _TOP - _BOTTOM) * count / max(1, *counts), 1)
        x, end = axis(start), axis(start + step)
        marks.append(
            f'<rect x="{x}" y="{round(height - _BOTTOM - tall, 1)}" width="{round(end - x - 1, 1)}" height="{tall}">'
            f"<title>{human_number(start, 3)} to {human_number(start + step, 3)}: {count / total:.2%}</title></rect>"
        )
    return _svg(height, title, marks)


def _svg(height: float, title: str, marks: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="msip-plot" role="img" viewBox="0 0 {_WIDTH} {height}">'
    return "\n".join([head, f"<title>{escape(title)}</title>", _STYLE, *marks, "</svg>\n"])


def _left(names: Sequence[str]) -> float:
    """Room for the names."""
    return round(16 + _LABEL * max(map(len, names)))
