"""Archives: every format the same tree, in parts and after a kill; hostile ones refused by name; fuzz."""

import contextlib
import io
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import py7zr
import pytest
import rars

from msip.archives import Limits, archive_sets, extract, find_parts, rar_tool
from msip.errors import ArchiveError, MsipError, OutputError, UnsafeArchive

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


MAKERS = {
    "a.zip": zip_bytes,
    "a.tar": lambda: tar_bytes("w"),
    "a.tar.gz": lambda: tar_bytes("w:gz"),
    "a.tar.bz2": lambda: tar_bytes("w:bz2"),
    "a.tar.xz": lambda: tar_bytes("w:xz"),
    "a.tar.zst": lambda: zst_bytes(tar_bytes("w")),
    "a.7z": seven_bytes,
}


def found(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, name: str, data: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_gives_the_same_tree_twice(name, tmp_path):
    archive = write(tmp_path, name, MAKERS[name]())
    moved = []
    first = extract(archive, tmp_path / "to", progress=moved.append)
    assert found(tmp_path / "to") == TREE and first.written == len(TREE) and first.present == 0
    assert sum(moved) == archive.stat().st_size
    second = extract(archive, tmp_path / "to")
    assert second.written == 0 and second.present == len(TREE)
    wanted = extract(archive, tmp_path / "some", lambda path: "infrared" in path)
    assert wanted.written == 2 and wanted.unwanted == 3
    assert set(found(tmp_path / "some")) == {"set/infrared/001.jpg", "set/infrared/002.jpg"}
    moved_to = extract(archive, tmp_path / "new", lambda path: path[4:] if "infrared/" in path else None)
    assert moved_to.written == 2 and set(found(tmp_path / "new")) == {"infrared/001.jpg", "infrared/002.jpg"}


@pytest.mark.parametrize(
    "suffixes", [("001", "002", "003"), ("part.aa", "part.ab", "part.ac"), ("part1", "part2", "part3")]
)
@pytest.mark.parametrize("name", MAKERS)
def test_slices_are_read_as_one_without_joining(name, suffixes, tmp_path):
    data = MAKERS[name]()
    cut = len(data) // 3
    slices = [data[:cut], data[cut : 2 * cut], data[2 * cut :]]
    for suffix, piece in zip(suffixes, slices, strict=True):
        write(tmp_path / "in", f"{name}.{suffix}", piece)
    for suffix in suffixes:
        assert [part.name for part in find_parts(tmp_path / "in" / f"{name}.{suffix}")] == [
            f"{name}.{s}" for s in suffixes
        ]
    assert len(archive_sets(tmp_path / "in")) == 1
    extract(tmp_path / "in" / f"{name}.{suffixes[1]}", tmp_path / "to")
    assert found(tmp_path / "to") == TREE
    (tmp_path / "in" / f"{name}.{suffixes[1]}").unlink()
    with pytest.raises(ArchiveError, match=f"{suffixes[1]} is missing"):
        find_parts(tmp_path / "in" / f"{name}.{suffixes[2]}")


def test_independent_archives_named_as_parts_stay_apart(tmp_path):
    for number in (1, 2):
        write(tmp_path / "in", f"LSOTB-TIR_TrainingData_part{number}.zip", zip_bytes({f"{number}.jpg": b"x"}))
    assert [len(parts) for parts in archive_sets(tmp_path / "in")] == [1, 1]


def split_zip(folder: Path, data: bytes, sizes: list[int]) -> Path:
    """Cut a zip into volumes as zip -s does: every offset becomes (volume, offset in it)."""
    data = b"PK\x07\x08" + data
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    at = data.rfind(b"PK\x05\x06")
    end = list(struct.unpack("<4s4H2LH", data[at : at + 22]))
    directory = bytearray(data[end[6] + 4 : at])

    def place(offset: int) -> tuple[int, int]:
        volume = max(index for index, start in enumerate(starts) if start <= offset)
        return volume, offset - starts[volume]

    position = 0
    for _ in range(end[4]):
        volume, offset = place(struct.unpack_from("<L", directory, position + 42)[0] + 4)
        struct.pack_into("<H", directory, position + 34, volume)
        struct.pack_into("<L", directory, position + 42, offset)
        name, extra, comment = struct.unpack_from("<3H", directory, position + 28)
        position += 46 + name + extra + comment
    volume, end[6] = place(end[6] + 4)
    end[1], end[2] = len(starts) - 1, volume
    data = data[: at - len(directory)] + bytes(directory) + struct.pack("<4s4H2LH", *end)
    pieces = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for index, piece in enumerate(pieces[:-1]):
        write(folder, f"LasHeR.z{index + 1:02d}", piece)
    return write(folder, "LasHeR.zip", pieces[-1])


def test_split_zip_volumes(tmp_path):
    last = split_zip(tmp_path / "in", zip_bytes(method=zipfile.ZIP_STORED), [4000, 40_000, 20_000])
    extract(last, tmp_path / "to")
    assert found(tmp_path / "to") == TREE
    (tmp_path / "in" / "LasHeR.z02").unlink()
    with pytest.raises(ArchiveError, match=r"LasHeR\.z02 is missing"):
        extract(last, tmp_path / "to")


def rar(path: Path, tree=TREE, **options) -> Path:
    builder = rars.RarBuilder(**options)
    for name, data in tree.items():
        builder.add_bytes(data, name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(builder.to_bytes())
    return path


@pytest.mark.parametrize("options", [{"format": "rar29"}, {"format": "rar29", "solid": True}])
def test_compressed_rar(options, tmp_path):
    archive = rar(tmp_path / "in/a.rar", **options)
    if rar_tool() is None:
        with pytest.raises(ArchiveError, match="apt install libarchive-tools"):
            extract(archive, tmp_path / "to")
        return
    extract(archive, tmp_path / "to")
    assert found(tmp_path / "to") == TREE
    assert extract(archive, tmp_path / "some", ["*/infrared/*"]).written == 2
    bomb = rar(tmp_path / "in/bomb.rar", {"zeros": bytes(40 << 20)})
    with pytest.raises(UnsafeArchive, match="bomb"):
        extract(bomb, tmp_path / "none")


def test_stored_rar_needs_no_tool(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    extract(rar(tmp_path / "in/a.rar", store=True), tmp_path / "to")
    assert found(tmp_path / "to") == TREE


def test_chinese_windows_names(tmp_path):
    plain = zip_bytes({"XXXX/1.jpg": b"x"})
    archive = write(tmp_path, "ship.zip", plain.replace(b"XXXX", "红外".encode("gb18030")))
    extract(archive, tmp_path / "to")
    assert set(found(tmp_path / "to")) == {"红外/1.jpg"}


def hostile_tar(name="ok", kind=tarfile.REGTYPE, target="") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        good = tarfile.TarInfo("fine.txt")
        good.size = 4
        tar.addfile(good, io.BytesIO(b"fine"))
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        tar.addfile(info)
    return buffer.getvalue()


def hostile_zip(name="ok", mode=0, data=b"x") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("fine.txt", "fine")
        info = zipfile.ZipInfo("x")
        info.filename, info.external_attr, info.create_system = name, mode << 16, 3
        file.writestr(info, data)
    return buffer.getvalue()


def hostile_seven(name="ok") -> bytes:
    plain = io.BytesIO()
    with py7zr.SevenZipFile(plain, "w") as file:
        file.set_encoded_header_mode(False)
        file.writestr(b"fine", "fine.txt")
        file.writestr(b"evil", "Q" * len(name))
    data = bytearray(plain.getvalue().replace(("Q" * len(name)).encode("utf-16-le"), name.encode("utf-16-le")))
    import zlib

    offset, size = struct.unpack_from("<2Q", data, 12)
    struct.pack_into("<L", data, 28, zlib.crc32(data[32 + offset : 32 + offset + size]))
    struct.pack_into("<L", data, 8, zlib.crc32(data[12:32]))
    return bytes(data)


def hostile_rar(target: bytes) -> bytes:
    builder = rars.RarBuilder(store=True)
    builder.add_bytes(b"fine", "fine.txt")
    builder.add_unix_symlink("link", target)
    return builder.to_bytes()


HOSTILE = {
    "symlink.rar": (hostile_rar(b"../../etc"), "link to"),
    "absolute.tar": (hostile_tar("/etc/evil"), "absolute"),
    "dots.tar": (hostile_tar("a/../../evil"), r"'\.\.'"),
    "symlink.tar": (hostile_tar("link", tarfile.SYMTYPE, "../../etc"), "link to"),
    "symlink-absolute.tar": (hostile_tar("link", tarfile.SYMTYPE, "/etc/passwd"), "link to"),
    "hardlink.tar": (hostile_tar("link", tarfile.LNKTYPE, "../evil"), "link to"),
    "device.tar": (hostile_tar("null", tarfile.CHRTYPE), "device"),
    "pipe.tar": (hostile_tar("pipe", tarfile.FIFOTYPE), "device"),
    "absolute.zip": (hostile_zip("/etc/evil"), "absolute"),
    "drive.zip": (hostile_zip("C:\\evil"), "absolute"),
    "dots.zip": (hostile_zip("a\\..\\..\\evil"), r"'\.\.'"),
    "nul.zip": (hostile_zip("a\0b"), "NUL"),
    "symlink.zip": (hostile_zip("link", stat.S_IFLNK | 0o777, b"/etc"), "link to"),
    "device.zip": (hostile_zip("null", stat.S_IFCHR | 0o666), "device"),
    "dots.7z": (hostile_seven("../../evil"), r"'\.\.'"),
    "absolute.7z": (hostile_seven("/etc/evil"), "absolute"),
    "bomb.zip": (zip_bytes({"zeros": bytes(40 << 20)}), "bomb"),
    "bomb.tar.gz": (tar_bytes("w:gz", {"zeros": bytes(40 << 20)}), "bomb"),
    "bomb.tar.zst": (zst_bytes(tar_bytes("w", {"zeros": bytes(40 << 20)})), "bomb"),
    "bomb.tar.xz": (tar_bytes("w:xz", {"zeros": bytes(40 << 20)}), "bomb"),
    "bomb.7z": (seven_bytes({"zeros": bytes(40 << 20)}), "bomb"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_by_name_and_leave_nothing(name, tmp_path):
    data, words = HOSTILE[name]
    archive = write(tmp_path / "in", name, data)
    with pytest.raises(UnsafeArchive, match=words) as caught:
        extract(archive, tmp_path / "to")
    assert name in str(caught.value)
    assert found(tmp_path) == {f"in/{name}": data}


def test_limits_can_be_raised_and_lowered(tmp_path):
    archive = write(tmp_path, "zeros.tar.gz", HOSTILE["bomb.tar.gz"][0])
    assert extract(archive, tmp_path / "to", limits=Limits(ratio=2000)).bytes == 40 << 20
    with pytest.raises(UnsafeArchive, match="--max-unpacked"):
        extract(archive, tmp_path / "less", limits=Limits(ratio=2000, total_bytes=1 << 20))
    with pytest.raises(UnsafeArchive, match="members"):
        extract(write(tmp_path, "a.tar", tar_bytes("w")), tmp_path / "few", limits=Limits(members=3))


def test_nothing_is_written_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "set").symlink_to(outside)
    with pytest.raises(UnsafeArchive, match="through the link"):
        extract(write(tmp_path, "a.zip", zip_bytes()), tmp_path / "to")
    assert not list(outside.iterdir())


def test_links_that_stay_inside_are_kept(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a/1.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"one"))
        for name, kind, target in (("b/2.jpg", tarfile.SYMTYPE, "../a/1.jpg"), ("b/3.jpg", tarfile.LNKTYPE, "a/1.jpg")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    archive = write(tmp_path, "links.tar", buffer.getvalue())
    for _ in range(2):
        extract(archive, tmp_path / "to")
    assert found(tmp_path / "to") == {"a/1.jpg": b"one", "b/2.jpg": b"one", "b/3.jpg": b"one"}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_archive_says_so(name, share, tmp_path):
    data = MAKERS[name]()
    archive = write(tmp_path, name, data[: int(len(data) * share)])
    with pytest.raises(ArchiveError, match=name):
        extract(archive, tmp_path / "to")
    assert all(TREE[path] == content for path, content in found(tmp_path / "to").items())


def test_a_web_page_is_named(tmp_path):
    with pytest.raises(ArchiveError, match="web page"):
        extract(write(tmp_path, "a.zip", b"<!DOCTYPE html><html>quota"), tmp_path / "to")


def test_killed_and_continued(tmp_path):
    tree = {f"set/{index:05d}.jpg": RNG.randbytes(4000) for index in range(3000)}
    archive = write(tmp_path, "big.tar.gz", tar_bytes("w:gz", tree))
    code = "import sys; from msip.archives import extract; extract(sys.argv[1], sys.argv[2])"
    for _ in range(3):
        child = subprocess.Popen([sys.executable, "-c", code, str(archive), str(tmp_path / "to")])
        time.sleep(0.5)
        child.send_signal(signal.SIGKILL)
        child.wait()
    extract(archive, tmp_path / "to")
    assert found(tmp_path / "to") == tree


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    for to in (tmp_path / "file" / "to", "/proc/nowhere/to"):
        with pytest.raises(OutputError, match=r"choose another|check the path"):
            extract(write(tmp_path, "a.zip", zip_bytes()), to)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    (tmp_path / "to").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="permission"):
        extract(write(tmp_path, "a.zip", zip_bytes()), tmp_path / "to")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst", "a.tar.bz2"])
def test_fuzz(name, tmp_path):
    """Mutations end in an MsipError or a tree inside the folder, within memory and time."""
    rng = random.Random(name)
    tree = {"a/1.jpg": rng.randbytes(600), "a/2.jpg": bytes(3000), "b.txt": b"text" * 100}
    data = {"a.zip": lambda: zip_bytes(tree)}.get(
        name, lambda: tar_bytes("w" + {"gz": ":gz", "xz": ":xz", "bz2": ":bz2"}.get(name.split(".")[-1], ""), tree)
    )()
    data = zst_bytes(data) if name.endswith("zst") else data
    (tmp_path / "in").mkdir()
    tracemalloc.start()
    started = time.monotonic()
    for round_ in range(150):
        mutated = mutate(data, rng)
        (tmp_path / "in" / name).write_bytes(mutated)
        with contextlib.suppress(MsipError):
            extract(tmp_path / "in" / name, tmp_path / "box" / "to")
        assert {path.name for path in tmp_path.iterdir()} <= {"in", "box"}, round_
        assert {path.name for path in (tmp_path / "box").iterdir()} <= {"to"}, round_
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20
    assert time.monotonic() - started < 300


def mutate(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(result))
        action = rng.randrange(5)
        if action == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            result[at : at + 8] = rng.choice((b"\xff" * 8, bytes(8), rng.randbytes(8)))
        elif action == 2:
            del result[at : at + rng.randrange(1, 600)]
        elif action == 3:
            result[at:at] = result[: rng.randrange(1, 600)]
        else:
            del result[at:]
        if not result:
            return b"\0"
    return bytes(result)


def test_fuzz_7z(tmp_path):
    rng = random.Random(7)
    data = seven_bytes({"a/1.jpg": rng.randbytes(600), "b.txt": b"text" * 100})
    for _ in range(8):
        archive = write(tmp_path / "in", "a.7z", mutate(data, rng))
        with contextlib.suppress(MsipError):
            extract(archive, tmp_path / "box" / "to")
        assert {path.name for path in tmp_path.iterdir()} <= {"in", "box"}
