"""Norpix .seq movies (SCUT, Caltech Pedestrian): the embedded JPEG frames, byte for byte, numbered from 0.

Layout (as read by the toolbox that Caltech published with its set): a header of 1,024 bytes (magic 0xFEED, "Norpix seq"
in UTF-16, at 572 the number of frames), then for each frame a 32-bit size that counts itself, the JPEG, and 8 or 16
bytes of time stamp. These sizes are the index. Where they do not lead from one JPEG to the next, the frames are found
by their JPEG markers; a frame that is damaged keeps its number and its bytes, so that no other frame
changes its number.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

from msip.archives.policy import Member, Meter, broken
from msip.archives.reader import Reader
from msip.archives.volumes import Joined
from msip.errors import UnsafeArchive

HEADER_BYTES = 1024
MOST_FRAMES = 1_000_000
"""Of one movie: eleven hours at 25 frames a second; each takes 128 bytes of memory."""

_FRAMES_AT = 572
_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_MAX_SEGMENTS = 64  # before the picture data of one JPEG
_STAMPS = (8, 16, 6, 0, 10, 12)  # bytes after a frame; the first two are what Norpix writes


class MovieReader(Reader):
    """A movie as an archive whose members are ``<n>.jpg``.

    Attributes:
        spans: (start, end) of each frame's JPEG.
        announced: number of frames by the header, 0 where it says none.
        by_markers: the index was broken.
    """

    def __init__(self, volumes: Sequence[Path], raw: Joined, meter: Meter) -> None:
        super().__init__(volumes, raw, meter)
        self._file = volumes[0].open("rb")
        if raw.size <= HEADER_BYTES:
            self._file.close()
            raise broken(meter.archive, f"it has {raw.size:,} bytes, a movie has a header of {HEADER_BYTES:,}")
        self.data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
        self.mtime = volumes[0].stat().st_mtime
        self.announced = struct.unpack_from("<I", self.data, _FRAMES_AT)[0]
        spans = indexed_frames(self.data)
        self.by_markers = spans is None or len(spans) < self.announced < len(self.data)
        if self.by_markers:
            spans = marked_frames(self.data)
        if not spans:
            raise broken(meter.archive, "it holds no JPEG frame")
        if len(spans) >= MOST_FRAMES:
            raise UnsafeArchive(f"{meter.archive} is refused: it has more than {MOST_FRAMES - 1:,} frames.")
        self.spans = spans
        self._consumed = 0

    def listing(self) -> Iterator[Member]:
        """One member a frame."""
        for number, (start, end) in enumerate(self.spans):
            yield Member(f"{number}.jpg", "file", end - start, end - start, self.mtime)

    def members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """In frame order."""
        for member, (start, end) in zip(self.listing(), self.spans, strict=True):
            self.meter.unpacked(end - start, len(self.data))
            yield member, iter([self.data[start:end]])
            self._consumed = end

    def consumed(self) -> int:
        """Up to the last frame passed."""
        return self._consumed

    def close(self) -> None:
        """Close the movie."""
        self.data.close()
        self._file.close()


def indexed_frames(data: mmap.mmap | bytes) -> list[tuple[int, int]] | None:
    """(start, end) of each JPEG by the chain of sizes, or ``None`` where the chain is broken before the file's end."""
    spans: list[tuple[int, int]] = []
    position, length = HEADER_BYTES, len(data)
    announced = struct.unpack_from("<I", data, _FRAMES_AT)[0]
    while position + 8 <= length and len(spans) < min(announced or length, MOST_FRAMES):
        size = struct.unpack_from("<I", data, position)[0]
        start, end = position + 4, position + size
        if size < 8 or end > length or data[start : start + 3] != _START:
            return None
        spans.append((start, end))
        follows = [end + stamp for stamp in _STAMPS if _frame_at(data, end + stamp)]
        position = follows[0] if follows else length - 7 if length - end < 64 else end
    return spans


def _frame_at(data: mmap.mmap | bytes, position: int) -> bool:
    return position + 8 <= len(data) and data[position + 4 : position + 7] == _START


def marked_frames(data: mmap.mmap | bytes) -> list[tuple[int, int]]:
    """(start, end) of each JPEG by its markers: from a start to the first end after its headers.

    A frame without an end reaches to where the next one begins (less its size field).
    """
    spans: list[tuple[int, int]] = []
    start = data.find(_START, HEADER_BYTES)
    while start >= 0 and len(spans) < MOST_FRAMES:
        inner = _after_headers(data, start)
        following = data.find(_START, inner)
        limit = following if following >= 0 else len(data)
        end = data.find(_END, inner, limit)
        spans.append((start, end + 2 if end >= 0 else max(start + 3, limit - 4 if following >= 0 else limit)))
        start = following
    return spans


def _after_headers(data: mmap.mmap | bytes, start: int) -> int:
    """Where the picture data of a JPEG begin: its segments, which may hold a thumbnail, are stepped over."""
    position = start + 2
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(data) or data[position] != 0xFF or data[position + 1] in (0xD8, 0xD9, 0x00):
            break
        marker = data[position + 1]
        size = struct.unpack_from(">H", data, position + 2)[0]
        if position + 2 + size > len(data) or size < 2:
            break
        position += 2 + size
        if marker == 0xDA:
            return position
    return start + 3


def movie_name(movie: Path) -> str | None:
    """``setXX/VYYY`` of a movie ``.../setXX/VYYY.seq`` or ``setXX_VYYY.seq``."""
    match = re.search(r"(set\d+)[/_]+(v\d+)\.seq$", movie.as_posix(), re.IGNORECASE)
    return f"{match[1].lower()}/{match[2].upper()}" if match else None
