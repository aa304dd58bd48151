"""Fuzzing in a process that the system bounds: ``python fuzz_archives.py ROUNDS SEED FOLDER [FORMAT ...]``.

Memory is limited by RLIMIT_AS, files by RLIMIT_FSIZE, each round by an alarm; an audit hook ends the process at the
first write outside FOLDER. Mutations are signed again where a format has checksums of its headers, so that they reach
the code behind. Exit code 0 says that every round ended in a tree inside FOLDER/box or in an ``MsipError``.
"""

import contextlib
import os
import random
import resource
import shutil
import signal
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

from archive_bytes import rar_bytes, seven_bytes, split_zip, tar_bytes, zip_bytes, zst_bytes
from seq_movies import frames, movie

import msip.archives.readers  # noqa: F401 - before the limits
from msip.archives import extract, rar_tool
from msip.archives.sevenzip import _send
from msip.errors import MsipError

MEMORY, FILE, SECONDS = 1 << 30, 64 << 20, 60
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.rename", "os.remove", "os.symlink", "os.link", "os.mkdir", "os.rmdir", "os.utime", "os.truncate"}


def mutate(data: bytes, rng: random.Random) -> bytes:
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(result))
        action = rng.choice((0, 0, 1, 1, 2, 2, 3, 4, 5))
        if action == 0:
            result[at] ^= 1 << rng.randrange(8)
        elif action == 1:
            result[at : at + 8] = rng.choice(
                (b"\xff" * 8, bytes(8), rng.randbytes(8), b"\xff\xd8\xff\xe0", b"../../..")
            )
        elif action == 2:
            result[at : at + 4] = struct.pack("<I", rng.choice((0, 1, len(data), 1 << 31, 0xFFFFFFFF)))
        elif action == 3:
            del result[at : at + rng.randrange(1, 600)]
        elif action == 4:
            result[at:at] = result[: rng.randrange(1, 600)]
        else:
            del result[at:]
        if not result:
            return b"\0"
    return bytes(result)


def signed_tar(data: bytes) -> bytes:
    result = bytearray(data)
    for at in range(0, len(result) - 511, 512):
        if result[at + 257 : at + 262] == b"ustar":
            result[at + 148 : at + 156] = b" " * 8
            result[at + 148 : at + 156] = b"%06o\0 " % (sum(result[at : at + 512]) % 0o1000000)
    return bytes(result)


def signed_seven(data: bytes) -> bytes:
    if len(data) < 32:
        return data
    result = bytearray(data)
    offset, size = struct.unpack_from("<2Q", result, 12)
    if 32 + offset + size <= len(result):
        struct.pack_into("<L", result, 28, zlib.crc32(result[32 + offset : 32 + offset + size]))
    struct.pack_into("<L", result, 8, zlib.crc32(result[12:32]))
    return bytes(result)


def signed_rar5(data: bytes) -> bytes:
    """Each header: CRC32, size (7 bits a byte), that many bytes; they are searched for, packed data lie between."""
    result, at = bytearray(data), 8
    while at + 5 < len(result):
        size, end, shift = 0, at + 4, 0
        while end < len(result) and shift < 21:
            size |= (result[end] & 0x7F) << shift
            end, shift = end + 1, shift + 7
            if not result[end - 1] & 0x80:
                break
        if 2 < size < 200 and end + size <= len(result) and result[end] in (1, 2, 3, 5):
            struct.pack_into("<L", result, at, zlib.crc32(result[at + 4 : end + size]))
            at = end + size
        else:
            at += 1
    return bytes(result)


class Fuzzer:
    def __init__(self, kind: str, seed: int, folder: Path) -> None:
        self.kind, self.rng, self.folder = kind, random.Random(f"{kind} {seed}"), folder
        self.box = folder / "box"
        tree = {"a/1.jpg": self.rng.randbytes(600), "a/2.jpg": bytes(3000), "b.txt": b"text" * 100}
        self.tree = tree
        self.data = {
            "zip": lambda: zip_bytes(tree),
            "zip.split": lambda: zip_bytes(tree, 0),
            "tar": lambda: tar_bytes("w", tree),
            "tar.zst": lambda: zst_bytes(tar_bytes("w", tree)),
            "7z": lambda: seven_bytes(tree),
            "rar": lambda: rar_bytes(tree, format="rar50", store=rar_tool() is None),
            "rar29": lambda: rar_bytes(tree, format="rar29", store=True),
            "seq": lambda: movie(frames(6)),
        }.get(kind, lambda: tar_bytes(f"w:{kind[4:]}", tree))()

    def round(self) -> str:
        archive = self.written()
        try:
            if self.kind == "7z":  # most rounds without the child process that extract starts
                self.send_to_nowhere(archive)
            extract(archive, self.box)
        except MsipError:
            return "refused"
        return "unpacked"

    def send_to_nowhere(self, archive: Path) -> None:
        """The child's work, in this bounded process. What it says stays here; nine rounds of ten end here."""
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
            try:
                _send([archive])
            except Exception as error:
                if self.rng.random() < 0.95:
                    raise MsipError from error
            else:
                if self.rng.random() < 0.95:
                    raise MsipError

    def written(self) -> Path:
        name = {"seq": "V000.seq", "rar29": "a.rar"}.get(self.kind, f"a.{self.kind}")
        archive = self.folder / "in" / name
        if self.kind == "zip.split":
            last = split_zip(self.folder / "in", self.data, [700, 2900])
            for part in self.rng.sample(sorted((self.folder / "in").iterdir()), 2):
                part.write_bytes(mutate(part.read_bytes(), self.rng))
            return last
        archive.write_bytes(self.mutated())
        return archive

    def mutated(self) -> bytes:
        compressed = self.kind.startswith("tar.")
        if not compressed or self.rng.random() < 0.5:
            data = mutate(self.data, self.rng)
            signed = {"tar": signed_tar, "7z": signed_seven, "rar": signed_rar5}.get(self.kind)
            return signed(data) if signed else data
        inner = signed_tar(mutate(tar_bytes("w", self.tree), self.rng))
        return compress(self.kind[4:], inner)


def compress(kind: str, data: bytes) -> bytes:
    import bz2
    import gzip
    import lzma

    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst_bytes}[kind](data)


def guard(folder: Path) -> None:
    """End the process, by name, at a write outside the folder."""
    inside = str(folder.resolve())

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            paths = [arguments[0]] if (arguments[2] or 0) & WRITES else []
        elif event in CHANGES:
            paths = (
                [arguments[1]] if event == "os.symlink" else arguments[: 2 if event in ("os.rename", "os.link") else 1]
            )
        else:
            return
        for path in map(os.fsdecode, (path for path in paths if not isinstance(path, int))):
            real = os.path.realpath(path if event == "open" else Path(path).parent)
            if path != os.devnull and not f"{real}/".startswith(f"{inside}/"):
                os.write(2, f"{event} outside: {path!r}\n".encode())
                os._exit(3)

    sys.addaudithook(hook)


def bound() -> None:
    """The limits of the system; children that the extractors start set their own."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def main(rounds: int, seed: int, folder: Path, kinds: list[str]) -> None:
    (folder / "in").mkdir(parents=True, exist_ok=True)
    (folder / "empty").mkdir(exist_ok=True)
    os.chdir(folder / "empty")
    bound()
    guard(folder)
    for kind in kinds:
        fuzzer, ended = Fuzzer(kind, seed, folder), Counter[str]()
        for number in range(rounds):
            signal.alarm(SECONDS)
            try:
                ended[fuzzer.round()] += 1
            except BaseException:
                sys.stderr.write(f"{kind}, seed {seed}, round {number}\n")
                raise
            shutil.rmtree(fuzzer.box, ignore_errors=True)
        signal.alarm(0)
        sys.stdout.write(f"{kind} {dict(ended)}\n")
        sys.stdout.flush()
    assert {path.name for path in folder.iterdir()} <= {"in", "box", "empty"}, sorted(folder.iterdir())
    assert not list((folder / "empty").iterdir()), "something was written to the working folder"


KINDS = ["zip", "zip.split", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst", "7z", "rar", "rar29", "seq"]


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve(), sys.argv[4:] or KINDS)
