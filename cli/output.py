"""What commands print: tables for people, JSON for machines, progress on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm


def print_line(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def print_json(value: Any) -> None:
    """A summary for machines."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))


def warn(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"warning: {text}\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as they need to be; numbers to the right, with thousands separated."""
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(header), *cells]) for column in range(len(header))]
    right = [all(isinstance(row[column], (int, float, type(None))) for row in rows) for column in range(len(header))]
    for line in [list(header), ["-" * width for width in widths], *cells]:
        parts = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        print_line("  ".join(parts).rstrip())


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class StageBars:
    """One tqdm bar per stage of a job; called as ``msip.pipeline`` reports progress."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.stage: str | None = None
        self.bar: tqdm | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` more of ``total`` of ``stage`` are finished."""
        if stage != self.stage:
            self.close()
            self.stage = stage
            self.bar = tqdm(
                total=total, desc=f"{stage:<28}", unit="img", disable=self.quiet or None, dynamic_ncols=True
            )
        if self.bar is not None:
            self.bar.update(done)

    def close(self) -> None:
        """End the current bar."""
        if self.bar is not None:
            self.bar.close()
        self.stage = self.bar = None

    def __enter__(self) -> StageBars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
