"""A manifest's images as a few large files: WebDataset tars, or decoded grey pixels to be memory-mapped.

    DIR/shards.json             what was sharded: layout, counts, flags left out, subset, each file's size and SHA-256
    DIR/index.arrow             one row an image: where it lies, its size, RoIs, flags and provenance
    DIR/msip-000000.tar|raw     the shards

Why: a tar is one sequential read where a folder is thousands of opens, and decoding JPEG is the floor of every loader.
Which image goes into which shard follows from the manifest alone, so a killed run continues shard by shard, and the
same input gives the same bytes whatever the number of workers.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msip.engine import run_tasks
from msip.errors import ManifestError, OutputError
from msip.files import atomic_path, make_output_folder, path_or_url, sha256_bytes, sha256_file, write_bytes
from msip.manifest import SCHEMA, Manifest, rows_without_flags, unmatched_flags
from msip.progress import Progress, silent
from msip.storage import Storage, decode_image, filesystem, stored_bytes
from msip.subsets import select_subset
from msip.trees import remote_errors

ShardLayout = Literal["webdataset", "raw"]

SHARD_BYTES = 256 << 20
"""A shard is closed before it would grow beyond this."""

SUMMARY_NAME, INDEX_NAME = "shards.json", "index.arrow"
_VERSION = 1
_SUFFIX = {"webdataset": "tar", "raw": "raw"}
_BLOCK = 512  # of a tar
_COPIED = ("image_id", "source", "split", "sequence", "frame_index", "sha256", "transform", "rois", "flags", "licence")

INDEX_SCHEMA = pa.schema(
    [
        *(SCHEMA.field(name) for name in _COPIED),
        pa.field("path", pa.string(), nullable=False),  # of the shard, relative to DIR
        pa.field("offset", pa.int64(), nullable=False),  # of the image's bytes in the shard
        pa.field("length", pa.int64(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class ShardReport:
    """What ``shard`` made: images, shard files, of which kept from an earlier run, and their bytes.

    ``notes``: sentences for whoever asked for them.
    """

    images: int
    shards: int
    kept: int
    bytes: int
    notes: tuple[str, ...] = ()


class Shards:
    """An opened folder of shards.

    Attributes:
        table: columns as in ``INDEX_SCHEMA``; memory-mapped where the folder is local.
        root: the folder, or its URL.
        layout: ``webdataset`` or ``raw``.
        summary: the content of ``shards.json``.
    """

    def __init__(self, table: pa.Table, root: str | Path, summary: dict[str, Any]) -> None:
        self.table, self.root, self.summary = table, root, summary
        self.layout: ShardLayout = summary["layout"]

    @classmethod
    def read(cls, path: str | Path) -> Shards:
        """Open a folder or URL that ``msip shard`` wrote. Raises ``ManifestError``."""
        root = path_or_url(path)
        try:
            summary = json.loads(_read(root, SUMMARY_NAME))
            if isinstance(root, Path):
                index = pa.memory_map(str(root / INDEX_NAME))
            else:
                index = pa.py_buffer(_read(root, INDEX_NAME))
            table = pa.ipc.open_file(index).read_all()
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise ManifestError(f"{path} holds no complete shards ({error}); run `msip shard` again.") from error
        if summary.get("version") != _VERSION or table.schema.names != INDEX_SCHEMA.names:
            raise ManifestError(f"{path} was made by another version of `msip shard`; make it again.")
        return cls(table, root, summary)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def digest(self) -> str:
        """Names exactly these images in exactly these shards."""
        return sha256_bytes(json.dumps(self.summary, sort_keys=True).encode())

    def without_flags(self, flags: Sequence[str]) -> Shards:
        """The images that carry none of ``flags``, see ``Manifest.without_flags``."""
        return Shards(rows_without_flags(self.table, flags), self.root, self.summary) if flags else self

    def storage(self) -> Storage:
        """Reads single images."""
        return Storage(self.root, self.layout)


def is_shards(path: str | Path) -> bool:
    """Whether ``path`` (folder or URL) holds shards, finished or not."""
    root = path_or_url(path)
    if isinstance(root, Path):
        return (root / SUMMARY_NAME).is_file() or any(root.glob(_note_name("msip-*")))
    try:
        return bool(_read(root, SUMMARY_NAME))
    except OSError:
        return False


def shard(
    out: str | Path,
    to: str | Path,
    *,
    layout: ShardLayout = "webdataset",
    exclude_flags: Sequence[str] = (),
    subset: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    workers: int = 1,
    progress: Progress = silent,
) -> ShardReport:
    """Write a build's images as shards; finished shards of an earlier or killed run are kept.

    Args:
        out: a build.
        to: a new folder, one of an earlier run (shards that no longer fit are replaced), or an fsspec URL.
        layout: ``webdataset``: the stored bytes and a JSON record per image, in tars; ``raw``: decoded to one grey
            channel, the pixels that the trainer reads.
        exclude_flags: leave out images with any of these flags.
        subset: only the images of this subset of the build (``msip curate --subset``).
        shard_bytes: the most a shard holds, unless a single image is larger.
        workers: processes.
        progress: of the stage ``shards``, in images.

    Raises:
        ManifestError: no manifest, nothing left to shard, or a stored image is gone or is not what it was.
        OutputError: ``to`` holds something else, or cannot be written.
    """
    manifest = Manifest.read(out)
    notes = unmatched_flags(manifest.table, exclude_flags)
    if subset is not None:
        manifest = select_subset(manifest, subset)
    manifest = manifest.without_flags(exclude_flags)
    if len(manifest) == 0:
        raise ManifestError(f"{out} leaves no image to shard; leave fewer out with `exclude_flags`, or build it again.")
    target = _Target(to)
    target.prepare()
    jobs = list(_plan(manifest, target, layout, shard_bytes))
    known = {job.name: rows for job in jobs if (rows := target.finished(job)) is not None}
    progress("shards", sum(rows.num_rows for rows in known.values()), len(manifest))
    kept = len(known)
    if kept < len(jobs):
        target.withdraw(SUMMARY_NAME)  # index and shards must be of one run
    for name, images in run_tasks(_write_shard, [job for job in jobs if job.name not in known], workers):
        known[name] = target.note(name)
        progress("shards", images, len(manifest))
    noted = [known[job.name] for job in jobs]
    index = _index_bytes(noted)
    summary = _summary(layout, exclude_flags, subset, len(manifest), noted, jobs)
    summary["index_sha256"] = sha256_bytes(index)
    target.publish(INDEX_NAME, index)
    target.publish(SUMMARY_NAME, (json.dumps(summary, indent=2, sort_keys=True) + "\n").encode())
    target.remove_others({job.name for job in jobs})
    written = sum(entry["bytes"] for entry in summary["shards"])
    return ShardReport(len(manifest), len(jobs), kept, written, notes)


class _Target:
    """The folder or URL that shards go to; every file appears there whole or not at all."""

    def __init__(self, to: str | Path) -> None:
        self.to = path_or_url(to)

    def prepare(self) -> None:
        """Make the folder, or refuse one that holds other things. Raises ``OutputError``, of a URL ``SourceError``."""
        if not isinstance(self.to, Path):
            with remote_errors(self.to):
                files, root = filesystem(self.to)
                files.exists(f"{root}/{SUMMARY_NAME}")
            return
        make_output_folder(self.to)
        notes = self.to / ".msip"  # builds and exports have one too, and other things in it
        ours = notes.is_dir() and all(path.name.lstrip(".").startswith("msip-") for path in notes.iterdir())
        if not ours and any(self.to.iterdir()):
            raise OutputError(f"{self.to} is not empty and holds no shards; choose a new folder as `to`.")
        notes.mkdir(exist_ok=True)

    def finished(self, job: _Job) -> pa.Table | None:
        """What is noted about a shard that is there, whole, and of the same images."""
        try:
            note = self.note(job.name)
            facts = note.schema.metadata
            if facts[b"plan"].decode() != job.digest:
                return None
            return note if self._size(job.name) == int(facts[b"bytes"]) else None
        except (OSError, pa.ArrowInvalid, KeyError):
            return None

    def note(self, name: str) -> pa.Table:
        """What ``_write_shard`` noted about a shard."""
        return pq.read_table(pa.BufferReader(_read(self.to, _note_name(name))))

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A temporary local path; what is written there becomes ``name`` on success."""
        if isinstance(self.to, Path):
            with atomic_path(self.to / name) as path:
                yield path
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            yield path
            files, root = filesystem(self.to)
            files.makedirs(str(Path(f"{root}/{name}").parent), exist_ok=True)
            files.put_file(str(path), f"{root}/{name}")

    def publish(self, name: str, data: bytes) -> None:
        """Write a small file."""
        if isinstance(self.to, Path):
            write_bytes(self.to / name, data)
            return
        with self.new_file(name) as path:
            path.write_bytes(data)

    def withdraw(self, name: str) -> None:
        """Remove what an earlier run says of files that are about to be replaced."""
        if isinstance(self.to, Path):
            (self.to / name).unlink(missing_ok=True)
            return
        files, root = filesystem(self.to)
        with contextlib.suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")

    def remove_others(self, names: set[str]) -> None:
        """Remove shards of an earlier plan."""
        if isinstance(self.to, Path):
            for path in [*self.to.glob("msip-*"), *(self.to / ".msip").glob("*.parquet")]:
                if path.name.removesuffix(".parquet") not in names:
                    path.unlink()

    def _size(self, name: str) -> int:
        if isinstance(self.to, Path):
            return (self.to / name).stat().st_size
        files, root = filesystem(self.to)
        return int(files.size(f"{root}/{name}"))


@dataclass(frozen=True)
class _Job:
    """One shard: its file name, what names its content, and its images, rows of the manifest."""

    root: Path
    target: _Target
    layout: ShardLayout
    name: str
    digest: str
    images: list[dict[str, Any]]


def _plan(manifest: Manifest, target: _Target, layout: ShardLayout, most: int) -> Iterator[_Job]:
    """Consecutive images, as many as fit."""
    names = (*_COPIED, "path", "width", "height")
    batch: list[dict[str, Any]] = []
    filled, number = 0, 0

    def job() -> _Job:
        content = hashlib.sha256(f"{_VERSION} {layout}".encode())
        for image in batch:
            copied = {name: image[name] for name in _COPIED}
            content.update(json.dumps([copied, image["width"], image["height"]], sort_keys=True).encode())
        return _Job(
            manifest.root, target, layout, f"msip-{number:06d}.{_SUFFIX[layout]}", content.hexdigest(), list(batch)
        )

    for rows in manifest.table.select(names).to_batches(max_chunksize=4096):
        for image in rows.to_pylist():
            size = image["width"] * image["height"] if layout == "raw" else _size_in_tar(manifest.root / image["path"])
            if batch and filled + size > most:
                yield job()
                batch, filled, number = [], 0, number + 1
            batch.append(image)
            filled += size
    yield job()


def _size_in_tar(path: Path) -> int:
    """About: the image and its record, each with a header and rounded up to blocks."""
    try:
        return -(-path.stat().st_size // _BLOCK) * _BLOCK + 6 * _BLOCK
    except OSError as error:
        raise ManifestError(f"{path} is gone or unreadable; run the build again to restore it.") from error


def _write_shard(job: _Job) -> tuple[str, int]:
    """Write one shard, then its note (its rows of the index): it is there only if the shard is whole."""
    job.target.withdraw(_note_name(job.name))
    with job.target.new_file(job.name) as path:
        with path.open("wb") as file:
            write = _write_tar if job.layout == "webdataset" else _write_raw
            places = write(job, file)
        size, digest = path.stat().st_size, sha256_file(path)
    rows = [
        {**image, "path": job.name, "offset": offset, "length": length}
        for image, (offset, length) in zip(job.images, places, strict=True)
    ]
    notes = {"plan": job.digest, "sha256": digest, "bytes": str(size)}
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA.with_metadata(notes))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    job.target.publish(_note_name(job.name), sink.getvalue().to_pybytes())
    return job.name, len(rows)


def _write_raw(job: _Job, file: io.BufferedWriter) -> list[tuple[int, int]]:
    places = []
    for image in job.images:
        path = job.root / image["path"]
        pixels = decode_image(np.frombuffer(stored_bytes(path, image["sha256"]), np.uint8))
        if pixels is None or pixels.shape != (image["height"], image["width"]):
            raise ManifestError(f"{path} is gone or unreadable; run the build again to restore it.")
        places.append((file.tell(), pixels.size))
        file.write(pixels.tobytes())
    return places


def _write_tar(job: _Job, file: io.BufferedWriter) -> list[tuple[int, int]]:
    places = []
    for image in job.images:
        key, path = tar_key(image["image_id"]), job.root / image["path"]
        data = stored_bytes(path, image["sha256"])
        record = {name: value for name, value in image.items() if name != "path"}
        places.append((add_tar_member(file, key + path.suffix, data), len(data)))
        add_tar_member(file, key + ".json", json.dumps(record, ensure_ascii=False, sort_keys=True).encode())
    end_tar(file)
    return places


def tar_key(image_id: str) -> str:
    """The WebDataset key of an image: its id, dots escaped as ``%2E`` because WebDataset splits names at the first."""
    return image_id.replace("%", "%25").replace(".", "%2E")


def add_tar_member(file: io.BufferedIOBase, name: str, data: bytes) -> int:
    """Append one regular file without owner or date; returns where its bytes begin."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    file.write(info.tobuf(tarfile.GNU_FORMAT))
    offset = file.tell()
    file.write(data)
    file.write(b"\0" * (-len(data) % _BLOCK))
    return offset


def end_tar(file: io.BufferedIOBase) -> None:
    """Two empty blocks."""
    file.write(b"\0" * (2 * _BLOCK))


def _note_name(name: str) -> str:
    return f".msip/{name}.parquet"


def _index_bytes(notes: Sequence[pa.Table]) -> bytes:
    table = pa.concat_tables([note.replace_schema_metadata(None) for note in notes]).combine_chunks()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def _summary(
    layout: str,
    exclude_flags: Sequence[str],
    subset: str | None,
    images: int,
    notes: Sequence[pa.Table],
    jobs: Sequence[_Job],
) -> dict[str, Any]:
    files = [
        {
            "file": job.name,
            "images": note.num_rows,
            "bytes": int(note.schema.metadata[b"bytes"]),
            "sha256": note.schema.metadata[b"sha256"].decode(),
        }
        for job, note in zip(jobs, notes, strict=True)
    ]
    return {
        "version": _VERSION,
        "layout": layout,
        "images": images,
        "exclude_flags": sorted(exclude_flags),
        "subset": subset,
        "shards": files,
    }


def _read(root: Path | str, name: str) -> bytes:
    """The bytes of a file of a folder or URL. Raises ``OSError``."""
    if isinstance(root, Path):
        return (root / name).read_bytes()
    files, base = filesystem(root)
    data: bytes = files.cat_file(f"{base}/{name}")
    return data
