"""What the readers of all formats share: a listing where there is a directory, then members with their bytes."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from msip.archives.policy import Member, Meter
from msip.archives.volumes import Joined

if TYPE_CHECKING:
    from typing import Self

CHUNK = 1 << 20
"""Bytes held at a time."""


class Reader(ABC):
    """An open archive.

    Attributes:
        volumes: its files.
        raw: them as one.
        meter: counts what comes out.
    """

    def __init__(self, volumes: Sequence[Path], raw: Joined, meter: Meter) -> None:
        self.volumes, self.raw, self.meter = list(volumes), raw, meter
        self.packed_bytes = raw.size

    def listing(self) -> Iterator[Member]:
        """All members, before anything is unpacked; none where the format has no directory."""
        yield from ()

    @abstractmethod
    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """All members in the archive's order; what is not read of one before the next is asked for is skipped."""

    def consumed(self) -> int:
        """Bytes of the archive dealt with so far."""
        return self.raw.furthest

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Free what the reader holds; ``raw`` is not its own."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            self.close()
