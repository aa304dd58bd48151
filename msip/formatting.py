"""Numbers as people read them: on pages, in tables and in messages."""

from __future__ import annotations

from typing import Any


def human_bytes(count: float) -> str:
    """``1536`` to ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def human_number(value: Any, digits: int = 4) -> str:
    """Whole numbers whole, fractions to ``digits`` digits (small ones as ``2.5e-4``), thousands separated.

    Lists become their entries, ``None`` a hyphen, truth ``yes`` or ``no``; words stay as they are.
    """
    if value is None or isinstance(value, bool):
        return {None: "-", True: "yes", False: "no"}[value]
    if isinstance(value, (list, tuple)):
        return ", ".join(human_number(entry, digits) for entry in value)
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    if 0 < abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def human_duration(seconds: float) -> str:
    """``42 s``, ``4 min 10 s``, ``3 h 05 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"
