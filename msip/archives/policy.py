"""What an archive may do: the same rules for every format.

A member may not have an absolute path, climb with ``..``, be a device, or be a link that leaves the folder; and an
archive may not unpack to far more than its own size (a bomb). Refusals name the archive and the member.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from msip.errors import BrokenArchive, UnsafeArchive
from msip.formatting import human_bytes

Kind = Literal["file", "folder", "symlink", "hardlink", "special"]

_FLOOR = 1 << 20  # smaller than this, nothing is a bomb
_MAX_TARGET = 4096


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to; raise them for an archive that is trusted and really that big.

    Attributes:
        ratio: unpacked bytes over packed bytes, of the whole and of each member (images are close to 1).
        total_bytes: unpacked bytes of the whole.
        members: files, folders and links.
    """

    ratio: float = 100
    total_bytes: int = 4 << 40
    members: int = 20_000_000


@dataclass(frozen=True)
class Member:
    """One entry of an archive.

    Attributes:
        name: as the archive spells it.
        kind: what it would become on the disk.
        size: unpacked bytes, as announced.
        packed: packed bytes, where the format says.
        mtime: seconds since 1970, or ``None``.
        target: of a link: symlinks relative to their folder, hard links to the archive's root.
    """

    name: str
    kind: Kind
    size: int = 0
    packed: int | None = None
    mtime: float | None = None
    target: str = ""


def printable(name: str) -> str:
    """A member's name for a message: short, and without control characters."""
    text = name.encode("utf-8", "backslashreplace").decode()
    text = "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)
    return text if len(text) <= 120 else text[:80] + "..." + text[-30:]


def member_path(archive: str, name: str) -> str:
    """The path of a member below the target folder, with forward slashes; empty for the folder itself.

    Raises ``UnsafeArchive`` where it would leave the folder.
    """
    path = name.replace("\\", "/")
    if path.startswith("/") or re.match(r"[A-Za-z]:", path):
        raise UnsafeArchive(f"{archive} is refused: its member {printable(name)!r} has an absolute path.")
    if "\0" in path:
        raise UnsafeArchive(f"{archive} is refused: its member {printable(name)!r} has a NUL in its name.")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise UnsafeArchive(f"{archive} is refused: its member {printable(name)!r} climbs out of the folder with '..'.")
    return "/".join(parts)


def check_member(archive: str, member: Member, limits: Limits) -> str:
    """The member's path below the target folder. Raises ``UnsafeArchive`` for what no archive may do."""
    path = member_path(archive, member.name)
    if member.kind == "special":
        raise UnsafeArchive(
            f"{archive} is refused: its member {printable(member.name)!r} is a device, a pipe or a socket."
        )
    if member.kind in ("symlink", "hardlink"):
        _check_link(archive, member, path)
    if member.size > limits.total_bytes:
        raise _too_much(archive, limits)
    if member.packed is not None and member.size > _FLOOR + limits.ratio * member.packed:
        raise UnsafeArchive(
            f"{archive} is refused as a bomb: its member {printable(member.name)!r} unpacks "
            f"{human_bytes(member.packed)} to {human_bytes(member.size)}, more than {limits.ratio:g} to 1; if you "
            "trust it, raise the limit (`max_ratio`, Limits(ratio=...))."
        )
    return path


def _check_link(archive: str, member: Member, path: str) -> None:
    target = member.target.replace("\\", "/")
    base = path.split("/")[:-1] if member.kind == "symlink" else []
    absolute = target.startswith("/") or re.match(r"[A-Za-z]:", target)
    leaves = absolute or not target or "\0" in target or len(target) > _MAX_TARGET
    descended = False
    for part in () if leaves else target.split("/"):
        if part == ".." and (descended or not base):  # what is descended into may be another link: ".." leads anywhere
            leaves = True
            break
        if part == "..":
            base = base[:-1]
        elif part not in ("", "."):
            descended = True
    if leaves:
        raise UnsafeArchive(
            f"{archive} is refused: its member {printable(member.name)!r} is a link to {printable(target)!r}, "
            "which is or may be outside the folder."
        )


class Meter:
    """Counts what an archive has unpacked, and stops it at the limits."""

    def __init__(self, archive: str, limits: Limits) -> None:
        self.archive, self.limits = archive, limits
        self.bytes = self.members = 0

    def member(self) -> None:
        """One member more."""
        self.members += 1
        if self.members > self.limits.members:
            raise UnsafeArchive(
                f"{self.archive} is refused: it has more than {self.limits.members:,} members; if you trust it, raise "
                "the limit (Limits(members=...))."
            )

    def unpacked(self, count: int, packed: int) -> None:
        """``count`` bytes more came out; ``packed`` is what has been read of the archive so far."""
        self.bytes += count
        self.check(self.bytes, packed)

    def check(self, total: int, packed: int) -> None:
        """Refuse ``total`` unpacked bytes out of ``packed``."""
        if total > self.limits.total_bytes:
            raise _too_much(self.archive, self.limits)
        if total > _FLOOR + self.limits.ratio * packed:
            raise UnsafeArchive(
                f"{self.archive} is refused as a bomb: {human_bytes(packed)} of it unpack to {human_bytes(total)}, "
                f"more than {self.limits.ratio:g} to 1; if you trust it, raise the limit (`max_ratio`, "
                "Limits(ratio=...))."
            )


def _too_much(archive: str, limits: Limits) -> UnsafeArchive:
    return UnsafeArchive(
        f"{archive} is refused: it unpacks to more than {human_bytes(limits.total_bytes)}; if you trust it, raise the "
        "limit (`max_unpacked`, Limits(total_bytes=...))."
    )


def broken(archive: str, why: str) -> BrokenArchive:
    """The error for an archive that cannot be read to its end."""
    return BrokenArchive(
        f"{archive} cannot be read: {why}; it is damaged or not complete, so download it (or the part that is short) "
        "again."
    )
