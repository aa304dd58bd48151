"""Line charts as SVG text: no script, no font, no file beside the page; every point tells its value when pointed at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log10
from typing import TypeAlias

from markupsafe import Markup, escape

from msip.formatting import human_number

Points: TypeAlias = Sequence[tuple[float, float]]
"""(x, y), x rising."""

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 12, 30
MOST_POINTS = 400  # more cannot be told apart on a screen


@dataclass(frozen=True)
class Scale:
    """From values to pixels between ``start`` and ``end``, over [low, high], linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``."""
        low, high = (log10(self.low), log10(self.high)) if self.log else (self.low, self.high)
        at = log10(max(value, self.low)) if self.log else value
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int, *, whole: bool = False) -> list[float]:
        """Round values inside."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        if self.log:
            values = LogLocator(subs=(1, 2, 5) if self.high / self.low < 1000 else (1,)).tick_values(
                self.low, self.high
            )
        else:
            values = MaxNLocator(count, integer=whole).tick_values(self.low, self.high)
        return [float(value) for value in values if self.low <= value <= self.high]


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about ``most`` points: the lowest and the highest of each stretch, so that no spike is lost."""
    if len(points) <= most:
        return list(points)
    size = -(-2 * len(points) // most)
    kept = {0, len(points) - 1}
    for begin in range(0, len(points), size):
        stretch = range(begin, min(begin + size, len(points)))
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
    return [points[index] for index in sorted(kept)]


def line_chart(
    series: Mapping[str, Points], *, log: bool = False, low: float | None = None, high: float | None = None
) -> Markup:
    """An ``<svg>`` of named lines over the optimizer step; ``low``, ``high``: of the value axis, by default the data's.

    Lines are coloured in their order, from blue to red. ``log`` is taken where all values are positive.
    """
    lines = {name: thinned(points) for name, points in series.items() if points}
    values = [y for points in lines.values() for _, y in points]
    steps = [x for points in lines.values() for x, _ in points]
    log = log and min(values) > 0
    bottom, top = _span(values, low, high, log=log)
    first, last = min(steps), max(steps)
    x = Scale(first, last if last > first else first + 1, LEFT, WIDTH - RIGHT)
    y = Scale(bottom, top, HEIGHT - BOTTOM, TOP, log)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">', *_axes(x, y)]
    for number, (name, points) in enumerate(lines.items()):
        parts += _line(name if len(lines) > 1 else "", points, x, y, colour(number, len(lines)))
    return Markup("".join([*parts, "</svg>"]))


def colour(number: int, of: int) -> str:
    """Of line ``number``: from blue for the first to red for the last; the page's accent for a single one."""
    return "var(--line)" if of == 1 else f"hsl({230 - 230 * number / (of - 1):.0f} 65% 52%)"


def _span(values: Sequence[float], low: float | None, high: float | None, *, log: bool) -> tuple[float, float]:
    bottom, top = min(values) if low is None else low, max(values) if high is None else high
    if log:
        return bottom / 1.1, top * 1.1
    least = abs(top) * 2e-3  # four digits tell the ticks apart, and rounding is not drawn as a mountain range
    margin = max(0.06 * (top - bottom), least) if top > bottom else abs(top) * 0.05 or 1.0
    return (bottom - margin if low is None else low), (top + margin if high is None else high)


def _axes(x: Scale, y: Scale) -> list[str]:
    parts = []
    for value in y.ticks(5):
        at = y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.2f}" y2="{at:.2f}"/>')
        parts.append(f'<text class="y" x="{LEFT - 8}" y="{at + 4:.2f}">{human_number(value)}</text>')
    for value in x.ticks(6, whole=True):
        parts.append(f'<text class="x" x="{x(value):.2f}" y="{HEIGHT - 10}">{human_number(value)}</text>')
    return parts


def _line(name: str, points: Points, x: Scale, y: Scale, stroke: str) -> list[str]:
    pixels = [(x(step), y(value)) for step, value in points]
    path = " ".join(f"{a:.2f},{b:.2f}" for a, b in pixels)
    parts = [f'<polyline style="stroke:{stroke}" points="{path}"/>']
    prefix = f"{escape(name)}, " if name else ""
    for (a, b), (step, value) in zip(pixels, points, strict=True):
        said = f"{prefix}step {step:,.0f}: {value:.6g}"
        parts.append(f'<circle cx="{a:.2f}" cy="{b:.2f}" r="5"><title>{said}</title></circle>')
    return parts
