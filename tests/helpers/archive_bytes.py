"""Archives of one small tree in every format."""

import io
import random
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import py7zr
import rars

RNG = random.Random(0)


TREE = {
    "set/infrared/001.jpg": RNG.randbytes(3000),
    "set/infrared/002.jpg": RNG.randbytes(70_000),
    "set/visible/001.jpg": RNG.randbytes(2000),
    "set/红外/empty.txt": b"",
    "set/strong`head'd.txt": b"names are chaotic" * 9,
}


def tar_bytes(mode: str, tree=TREE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1_600_000_000
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_bytes(tree=TREE, method=zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in tree.items():
            file.writestr(name, data)
    return buffer.getvalue()


def seven_bytes(tree=TREE) -> bytes:
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w") as file:
        for name, data in tree.items():
            file.writestr(data, name)
    return buffer.getvalue()


def zst_bytes(data: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd.compress(data)


def split_zip(folder: Path, data: bytes, sizes: list[int], *, zip64: bool = False) -> Path:
    """Cut a zip into volumes as zip -s does: every offset becomes (volume, offset in it)."""
    data = b"PK\x07\x08" + data
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    at = data.rfind(b"PK\x05\x06")
    _, _, _, entries, _, size, start, _ = struct.unpack("<4s4H2LH", data[at : at + 22])

    def place(offset: int) -> tuple[int, int]:
        volume = max(index for index, start in enumerate(starts) if start <= offset)
        return volume, offset - starts[volume]

    directory = moved_directory(data[start + 4 : at], entries, place, zip64)
    volume, offset = place(start + 4)
    last = len(starts) - 1
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", last, volume, entries, entries, len(directory), offset, 0)
    if zip64:
        record = struct.pack(
            "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, last, volume, entries, entries, len(directory), offset
        )
        where = place(start + 4 + len(directory))
        locator = struct.pack("<4sLQL", b"PK\x06\x07", *where, last + 1)
        end = record + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", *[0xFFFF] * 4, *[0xFFFFFFFF] * 2, 0)
    data = data[: start + 4] + directory + end
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for index, piece in enumerate(pieces[:-1]):
        write(folder, f"LasHeR.z{index + 1:02d}", piece)
    return write(folder, "LasHeR.zip", pieces[-1])


def moved_directory(directory: bytes, entries: int, place: Callable[[int], tuple[int, int]], zip64: bool) -> bytes:
    """Each entry with its volume, in the narrow fields or, as zip64 has it, in an extra field."""
    position, result = 0, b""
    for _ in range(entries):
        fields = list(struct.unpack_from("<4s6H3L5H2L", directory, position))
        name = directory[position + 46 : position + 46 + fields[10]]
        position += 46 + sum(fields[10:13])
        volume, offset = place(fields[16] + 4)
        extra = struct.pack("<2H4s", 0x6375, 4, b"more")  # another field, before and after which ours may stand
        if zip64:
            extra += struct.pack("<2H3QL", 1, 28, fields[9], fields[8], offset, volume)
            fields[8:10], volume, offset = [0xFFFFFFFF] * 2, 0xFFFF, 0xFFFFFFFF
        fields[11], fields[13], fields[16] = len(extra), volume, offset
        result += struct.pack("<4s6H3L5H2L", *fields) + name + extra
    return result


def rar_bytes(tree=TREE, **options) -> bytes:
    builder = rars.RarBuilder(**options)
    for name, data in tree.items():
        builder.add_bytes(data, name)
    return builder.to_bytes()


def write(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name
