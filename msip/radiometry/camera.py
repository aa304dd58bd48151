"""The contract of a camera format: what one file of ``msip.radiometry.cameras``, or of one's own package, defines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msip.radiometry.frame import RawFrame


@dataclass(frozen=True)
class CameraFormat:
    """One kind of raw file.

    Attributes:
        name: what people call it.
        suffixes: lower case, with the dot; in a folder, files of these names are frames.
        recognises: a cheap test of a file's first bytes. ``decode`` gives it the whole file, the listing of a folder
            the first ``HEAD`` bytes of files whose suffix is unknown.
        read: ``(data, name)`` to the frame, or None where the file is another format after all (a JPEG without this
            maker's segments). Raises ``FrameError`` with a message that begins with ``name``.
        reads: what is read, as the documentation's table says it; empty for what is refused whole.
        refuses: what is refused by name, likewise.
        kept: the suffix under which a build stores the file's own bytes; None stores the pixels as PNG.
    """

    name: str
    suffixes: tuple[str, ...]
    recognises: Callable[[bytes], bool]
    read: Callable[[bytes, str], RawFrame | None]
    reads: str
    refuses: str = ""
    kept: str | None = None
