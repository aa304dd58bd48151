"""Archives: every format the same tree, in parts and after a kill; hostile ones refused by name."""

import io
import os
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import py7zr
import pytest
import rars
from archive_bytes import RNG, TREE, rar_bytes, seven_bytes, split_zip, tar_bytes, write, zip_bytes, zst_bytes

from msip.archives import Limits, archive_sets, extract, find_volumes
from msip.errors import ArchiveError, BrokenArchive, OutputError, UnsafeArchive

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


@pytest.mark.parametrize("name", MAKERS)
def test_every_format_gives_the_same_tree_twice(name, tmp_path):
    archive = write(tmp_path, name, MAKERS[name]())
    moved = []
    first = extract(archive, tmp_path / "to", progress=lambda stage, done, total: moved.append(done))
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
        assert [part.name for part in find_volumes(tmp_path / "in" / f"{name}.{suffix}")] == [
            f"{name}.{s}" for s in suffixes
        ]
    assert len(archive_sets(tmp_path / "in")) == 1
    extract(tmp_path / "in" / f"{name}.{suffixes[1]}", tmp_path / "to")
    assert found(tmp_path / "to") == TREE
    (tmp_path / "in" / f"{name}.{suffixes[1]}").unlink()
    with pytest.raises(ArchiveError, match=f"{suffixes[1]} is missing"):
        find_volumes(tmp_path / "in" / f"{name}.{suffixes[2]}")


def test_independent_archives_named_as_parts_stay_apart(tmp_path):
    for number in (1, 2):
        write(tmp_path / "in", f"LSOTB-TIR_TrainingData_part{number}.zip", zip_bytes({f"{number}.jpg": b"x"}))
    assert [len(parts) for parts in archive_sets(tmp_path / "in")] == [1, 1]


@pytest.mark.parametrize("zip64", [False, True])
def test_split_zip_volumes(zip64, tmp_path):
    last = split_zip(tmp_path / "in", zip_bytes(method=zipfile.ZIP_STORED), [4000, 40_000, 20_000], zip64=zip64)
    extract(last, tmp_path / "to")
    assert found(tmp_path / "to") == TREE
    (tmp_path / "in" / "LasHeR.z02").unlink()
    with pytest.raises(ArchiveError, match=r"LasHeR\.z02 is missing"):
        extract(last, tmp_path / "to")


@pytest.mark.usefixtures("info_zip")
@pytest.mark.parametrize("options", [[], ["-fz"]], ids=["zip32", "zip64"])
def test_volumes_that_info_zip_has_written(options, tmp_path):
    for name, data in TREE.items():
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).write_bytes(data)
    (tmp_path / "in").mkdir()
    command = ["zip", "-q", "-r", "-0", "-s", "64k", *options, tmp_path / "in/LasHeR.zip", "set"]
    subprocess.run(command, cwd=tmp_path / "tree", check=True)
    assert (b"PK\x06\x06" in (tmp_path / "in/LasHeR.zip").read_bytes()) == bool(options)
    assert len(find_volumes(tmp_path / "in/LasHeR.z01")) == 2
    extract(tmp_path / "in/LasHeR.zip", tmp_path / "to")
    assert found(tmp_path / "to") == TREE


def rar(path: Path, tree=TREE, **options) -> Path:
    return write(path.parent, path.name, rar_bytes(tree, **options))


RARS = {"4": {"format": "rar29"}, "4, solid": {"format": "rar29", "solid": True}, "5": {"format": "rar50"}}
RARS["5, solid"] = {"format": "rar50", "solid": True}


@pytest.mark.usefixtures("unpacks_rar")
@pytest.mark.parametrize("kind", RARS)
def test_compressed_rar(kind, tmp_path):
    archive = rar(tmp_path / "in/a.rar", **RARS[kind])
    assert archive.read_bytes().startswith(b"Rar!\x1a\x07" + (b"\x01\x00" if "5" in kind else b"\x00"))
    extract(archive, tmp_path / "to")
    assert found(tmp_path / "to") == TREE
    assert extract(archive, tmp_path / "some", ["*/infrared/*"]).written == 2


@pytest.mark.usefixtures("unpacks_rar")
def test_rar_with_empty_files_of_any_name(tmp_path):
    tree = {"[a]*?.txt": b"", "x/[a]*?.txt": b"full", "a.txt": b"", "b/a.txt": b"also full", "a.txt.jpg": b"longer"}
    extract(rar(tmp_path / "in/a.rar", tree, format="rar50"), tmp_path / "to")
    assert found(tmp_path / "to") == tree


@pytest.mark.parametrize("kind", RARS)
def test_compressed_rar_without_a_tool_says_what_to_install(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArchiveError, match=r"a\.rar cannot be unpacked.*apt install libarchive-tools"):
        extract(rar(tmp_path / "in/a.rar", **RARS[kind]), tmp_path / "to")
    assert not found(tmp_path / "to")


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
    "bomb.rar": (rar_bytes({"zeros": bytes(2 << 20)}, format="rar50"), "bomb"),
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
    with pytest.raises(UnsafeArchive, match="`max_unpacked`"):
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


@pytest.mark.parametrize("name", ["y" * 300, "y" * 300 + "/x", "a/" * 2000 + "x"])
def test_names_that_no_file_system_takes(name, tmp_path):
    for archive in (write(tmp_path, "a.tar", hostile_tar(name)), write(tmp_path, "a.zip", hostile_zip(name))):
        with pytest.raises(ArchiveError, match=rf"{archive.name}.*too long"):
            extract(archive, tmp_path / "to")


def test_members_named_as_temporary_files_do_no_harm(tmp_path):
    tree = {f".extract.{os.getpid()}.msip-tmp/x": b"1", ".extract.99999999.msip-tmp/y": b"2", "z": b"3"}
    archive = write(tmp_path, "a.tar", tar_bytes("w", tree))
    for _ in range(2):
        extract(archive, tmp_path / "to")
        assert found(tmp_path / "to") == tree


def test_a_link_may_not_climb_out_of_another_link(tmp_path):
    (tmp_path / "secret").write_text("outside")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in (("one/up", ".."), ("two", "one/up/../secret")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    archive = write(tmp_path, "climbs.tar", buffer.getvalue())
    with pytest.raises(UnsafeArchive, match=r"'two' is a link to 'one/up/\.\./secret'"):
        extract(archive, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())


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


def test_what_is_whole_but_not_read_here_is_not_called_damaged(tmp_path):
    buffer = io.BytesIO()
    with py7zr.SevenZipFile(buffer, "w", password="secret") as file:
        file.writestr(b"text", "a.txt")
    with pytest.raises(ArchiveError, match=r"^a\.7z: it is encrypted; unpack it by hand") as caught:
        extract(write(tmp_path, "a.7z", buffer.getvalue()), tmp_path / "to")
    assert not isinstance(caught.value, BrokenArchive)


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
