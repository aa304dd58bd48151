"""What a build may trust after the machine itself went down (a power cut, a crash of the kernel).

A build renames images into place without flushing each: flushing 178,756 files one by one would be most of its time. A
killed build loses nothing by that, since what it wrote is in the system's cache. A machine that goes down may: on most
file systems a file of the right size is whole, but none promises it. So a mark with the identity of the running system
lies in ``OUT/.msip`` from before the first image is written until all are flushed. A build that finds the mark of
another system start compares every image with its recorded hash, and makes again what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from msip.engine import cores
from msip.files import sha256_file, sync_all, write_bytes
from msip.progress import Progress

_MARK = "unflushed"


def system_start() -> str:
    """A name of this start of this machine; empty where the system tells none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def went_down(out: Path) -> bool:
    """Whether images in ``out`` were written, and not flushed, before the machine last started (or by another one)."""
    try:
        mark = (out / ".msip" / _MARK).read_text(encoding="ascii")
    except OSError:
        return False
    return not mark or mark != system_start()


def mark_unflushed(out: Path) -> None:
    """From here on, images are written that are not flushed. Raises ``OutputError``."""
    write_bytes(out / ".msip" / _MARK, system_start().encode())


def flush(out: Path, *, then: Callable[[], object]) -> None:
    """Flush all that was written, call ``then`` (which names it), and take the mark away."""
    sync_all()
    then()
    (out / ".msip" / _MARK).unlink(missing_ok=True)


def drop_torn(out: Path, entries: Iterable[pa.Table], progress: Progress) -> int:
    """Remove stored images whose bytes are not those of their ledger entry. Returns how many.

    Args:
        out: the folder of the build.
        entries: ledgers of stored images (columns ``path`` and ``sha256``).
        progress: of the stage ``check after a crash``, in images.
    """
    recorded: dict[str, str] = {}
    for table in entries:
        pairs = zip(table.column("path").to_pylist(), table.column("sha256").to_pylist(), strict=True)
        recorded |= {path: digest for path, digest in pairs if path is not None}
    torn = 0
    with ThreadPoolExecutor(cores()) as pool:  # hashing releases the interpreter's lock
        found = pool.map(lambda item: _is_whole(out / item[0], item[1]), recorded.items())
        for path, whole in zip(recorded, found, strict=True):
            if not whole:
                (out / path).unlink(missing_ok=True)
                torn += 1
            progress("check after a crash", 1, len(recorded))
    return torn


def _is_whole(path: Path, digest: str) -> bool:
    try:
        return sha256_file(path) == digest
    except OSError:
        return False
