"""What commands print: tables for people, JSON for machines, progress on standard error."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from .wording import in_options


def print_line(text: str = "") -> None:
    """One line on standard output."""
    sys.stdout.write(text + "\n")


def print_json(value: Any) -> None:
    """A summary for machines."""
    print_line(json.dumps(value, indent=2, ensure_ascii=False))


def warn(text: str) -> None:
    """One line on standard error."""
    tqdm.write(f"warning: {in_options(text)}", file=sys.stderr)


class LogLines(logging.Handler):
    """Log records as lines on standard error that break no progress bar; from warnings on with their level."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
        tqdm.write(level + in_options(record.getMessage()), file=sys.stderr)


_LOG_LINES = LogLines()


def show_log() -> None:
    """Print what ``msip`` and ``pad`` log; once is enough."""
    for name in ("msip", "pad"):
        logging.getLogger(name).setLevel(logging.INFO)
        logging.getLogger(name).addHandler(_LOG_LINES)


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
    """A ``msip.progress.Progress`` that draws one tqdm bar per stage; may be called from several threads.

    ``unit``: ``img``, whose stages follow one another, or ``B``, whose stages (download, unpack) run side by side.
    """

    def __init__(self, *, quiet: bool, unit: str = "img") -> None:
        self.quiet, self.unit, self.bars = quiet, unit, dict[str, tqdm]()
        self.lock = threading.Lock()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """``done`` more of ``total`` of ``stage`` are finished."""
        with self.lock:
            if stage not in self.bars:
                self._begin(stage)
            self.bars[stage].total = total
            self.bars[stage].update(done)

    def _begin(self, stage: str) -> None:
        in_bytes = self.unit == "B"
        if not in_bytes:
            self.close()
        self.bars[stage] = tqdm(
            desc=f"{stage:<28}",
            unit=self.unit,
            unit_scale=in_bytes,
            disable=self.quiet or None,
            dynamic_ncols=True,
        )

    def close(self) -> None:
        """End the bars."""
        for bar in self.bars.values():
            bar.close()
        self.bars.clear()

    def __enter__(self) -> StageBars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
