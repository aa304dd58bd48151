"""Which format a file is, by its first bytes, and which tool rar needs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

Format = Literal["zip", "tar", "gz", "bz2", "xz", "zst", "7z", "rar", "seq"]

_MAGIC: tuple[tuple[int, bytes, Format], ...] = (
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"PK\x07\x08", "zip"),
    (0, b"PK00PK\x03\x04", "zip"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"\x1f\x8b\x08", "gz"),
    (0, b"BZh", "bz2"),
    (0, b"\xfd7zXZ\x00", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zst"),
    (0, b"\xed\xfe\x00\x00", "seq"),
    (257, b"ustar", "tar"),
)

_RAR_TOOLS = ("unrar", "bsdtar", "7zz", "7z")
"""Most complete first (Debian builds 7zz without rar); each can write all members to one pipe."""

RAR_ADVICE = (
    "compressed .rar archives need one of the system tools unrar, bsdtar or 7zz; on Debian and Ubuntu "
    "`apt install libarchive-tools` brings bsdtar"
)


def sniff(path: Path) -> Format | None:
    """The format of a file by its content, or ``None`` for none of those that are read here."""
    with path.open("rb") as file:
        return sniff_bytes(file.read(512)) or ("seq" if path.suffix.lower() == ".seq" else None)


def sniff_bytes(head: bytes) -> Format | None:
    """The format that begins with ``head`` (262 bytes suffice)."""
    for offset, magic, name in _MAGIC:
        if head.startswith(magic, offset):
            return name
    return None


def rar_tool() -> str | None:
    """The path of a system tool that unpacks rar, or ``None``."""
    return next((path for name in _RAR_TOOLS if (path := shutil.which(name))), None)
