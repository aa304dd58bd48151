"""One raw frame to one stored image and its manifest row. Runs in the workers; knows no source by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from msip import radiometry
from msip.errors import BlankFrame, BrokenFrame, FrameError
from msip.files import sha256_bytes, write_bytes
from msip.frames import Frame
from msip.manifest import OPTIONAL, SCHEMA
from msip.radiometry.suspects import suspicions
from msip.storage import quiet_cv2
from msip.trees import read_file

RECIPE_VERSION = 2
"""Raised whenever the same frame would become other bytes or another row, so that old work is not reused."""

_WHITE = 200  # a JPEG-coded white border is not exactly 255

ENTRY_SCHEMA = pa.schema(
    [pa.field(field.name, field.type) for field in (*SCHEMA, *OPTIONAL) if field.name != "rois"]
    + [
        pa.field("raw_bytes", pa.int64()),
        pa.field("raw_mtime_ns", pa.int64()),
        pa.field("stored_bytes", pa.int64()),
        pa.field("problem", pa.string()),  # null: the frame is in the manifest
        pa.field("reason", pa.string()),
    ]
)
"""Of the ledger: a manifest row without RoIs, what it was made from, or why it was not made."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides how the frames of one source become images.

    Attributes:
        source, split, licence: columns of the manifest.
        crop_px: pixels cut off all four sides.
        grey: store one channel, mixed of all.
        channel: store this one alone (1 = first as stored: red, green, blue, alpha).
        jpeg_quality: of transformed JPEG frames; ``None`` stores them as PNG.
        agc: how 16-bit frames become 8-bit: ``percentile``, ``full``, ``clahe`` or ``window``.
        agc_window: (low, high) in counts, for ``window``.
        keep_blank: keep constant frames, flagged; otherwise they are left out and listed.
    """

    source: str
    split: str | None = None
    licence: str | None = None
    crop_px: int = 0
    grey: bool = False
    channel: int | None = None
    jpeg_quality: int | None = None
    agc: radiometry.AgcMethod = "percentile"
    agc_window: tuple[int, int] | None = None
    keep_blank: bool = True

    @property
    def of_own_frames(self) -> bool:
        """Whether the frames are anyone's own: those of a published source have a licence, and are what it says."""
        return self.licence is None

    def digest(self) -> str:
        """Hexadecimal SHA-256 over all attributes and ``RECIPE_VERSION``."""
        text = json.dumps({"version": RECIPE_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Batch:
    """A task for a worker: some frames of one source.

    ``root`` is the folder that their ``source_path`` is relative to; ``stats`` are the files' ``msip.trees.file_stat``;
    ``flush``: each image is flushed by the machine that writes it, because nobody else can.
    """

    root: Path
    out: Path
    recipe: Recipe
    frames: Sequence[Frame]
    stats: Sequence[tuple[int, int]]
    flush: bool = False


@dataclass(frozen=True)
class Stored:
    """What is written: the file's bytes and extension, its pixels as grey, and how it came about.

    ``nodata``: pixels without a measurement; where there are any, they and no others are 0.
    """

    data: bytes
    extension: str
    grey: NDArray[np.uint8]
    channels: int
    transform: str
    flags: tuple[str, ...]
    nodata: int = 0


def process_batch(batch: Batch) -> list[dict[str, Any]]:
    """Store the frames of a batch; one ledger entry each. For when files are flushed see ``msip.durability``."""
    return [
        _process(batch, frame, raw_bytes, mtime_ns)
        for frame, (raw_bytes, mtime_ns) in zip(batch.frames, batch.stats, strict=True)
    ]


def _process(batch: Batch, frame: Frame, raw_bytes: int, mtime_ns: int) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "source": batch.recipe.source,
        "source_path": frame.source_path,
        "raw_bytes": raw_bytes,
        "raw_mtime_ns": mtime_ns,
        "problem": None,
    }
    try:
        data = read_file(batch.root / frame.source_path)
    except OSError as error:  # no stat: permissions and disks are mended without a change to the file
        reason = f"cannot be read: {error.strerror}"
        return entry | {"raw_bytes": None, "raw_mtime_ns": None, "problem": BrokenFrame.kind, "reason": reason}
    try:
        raw = radiometry.decode(data, name=frame.source_path)
        stored = render(raw, data, batch.recipe)
    except FrameError as error:
        reason = str(error).removeprefix(f"{frame.source_path}: ")  # the entry itself says which frame
        return entry | {"problem": error.kind, "reason": reason}
    path = f"{batch.recipe.source}/thermal/{frame.stem}{stored.extension}"
    write_bytes(batch.out / path, stored.data, sync=batch.flush)
    return entry | _row(frame, raw, data, stored, batch.recipe) | {"path": path, "stored_bytes": len(stored.data)}


def _row(frame: Frame, raw: radiometry.RawFrame, data: bytes, stored: Stored, recipe: Recipe) -> dict[str, Any]:
    mean, std = radiometry.image_statistics(stored.grey[stored.grey > 0][None] if stored.nodata else stored.grey)
    whole = np.where(stored.grey > 0, stored.grey, np.uint8(255 * mean)) if stored.nodata else stored.grey
    source_sha256 = sha256_bytes(data)
    height, width = stored.grey.shape
    return {
        "image_id": f"{recipe.source}/{frame.stem}",
        "split": recipe.split,
        "sequence": frame.sequence,
        "frame_index": frame.frame_index,
        "width": width,
        "height": height,
        "channels": stored.channels,
        "bit_depth": raw.bit_depth,
        "sha256": source_sha256 if stored.data is data else sha256_bytes(stored.data),
        "source_sha256": source_sha256,
        "transform": stored.transform,
        "pixel_mean": mean,
        "pixel_std": std,
        "phash": radiometry.phash(whole),
        "flags": list(stored.flags),
        "licence": recipe.licence,
        "nodata": stored.nodata or None,
    }


def render(raw: radiometry.RawFrame, data: bytes, recipe: Recipe) -> Stored:
    """Decide what is stored for a decoded frame: its own bytes where they will do, else a re-encoded image.

    Raises ``BlankFrame``, ``CollapsedFrame`` or ``BrokenFrame``.
    """
    if recipe.channel is not None:
        raw = _one_channel(raw, recipe.channel, of_own_frames=recipe.of_own_frames)
    flags = ["colour_mapped"] if radiometry.is_colour_mapped(raw.pixels) else []
    if recipe.of_own_frames:
        flags += suspicions(raw)
    if radiometry.is_constant(raw.pixels):
        flags.append("blank")
        if not recipe.keep_blank:
            raise BlankFrame(f"every pixel is {int(raw.pixels.flat[0])}; `keep_blank` keeps such frames")
    if raw.pixels.dtype == np.uint16 or raw.radiometric:
        return _render_counts(raw, recipe, flags)
    if recipe.crop_px or recipe.grey or recipe.channel is not None:
        return _render_transformed(raw, data, recipe, flags)
    grey = radiometry.to_grey(raw.pixels)
    if (extension := radiometry.kept_suffix(raw.container)) is not None:
        return Stored(data, extension, grey, raw.channels, raw.note, tuple(flags))
    channels = 1 if raw.pixels.ndim == 2 else raw.pixels.shape[2]
    return Stored(_encode(".png", raw.pixels), ".png", grey, channels, _joined(raw.note, "png"), tuple(flags))


def _one_channel(raw: radiometry.RawFrame, channel: int, *, of_own_frames: bool) -> radiometry.RawFrame:
    """One channel as it is stored, nothing mixed or blended (an alpha too may be an image: MFNet's is)."""
    held = 1 if raw.pixels.ndim == 2 else raw.pixels.shape[2]
    if channel > held:
        why = "; correct `channel` or leave it out" if of_own_frames else ", which its source says is the image"
        raise BrokenFrame(f"has no channel {channel} (it has {held}){why}")
    if held == 1:
        return raw
    plane = {1: 2, 2: 1, 3: 0, 4: 3}[channel]  # OpenCV keeps blue first
    pixels = np.ascontiguousarray(raw.pixels[..., plane])
    return replace(raw, pixels=pixels, note=_joined(raw.note, f"channel {channel}"))


def _render_counts(raw: radiometry.RawFrame, recipe: Recipe, flags: list[str]) -> Stored:
    """16-bit counts to 8 bit by the recipe's AGC, stored as PNG (lossless)."""
    counts = radiometry.to_grey(raw.pixels)
    steps = [raw.note]
    if recipe.crop_px:
        counts = _crop(counts, recipe.crop_px)
        steps.append(f"crop {recipe.crop_px}px")
    if "blank" in flags:
        grey = np.zeros(counts.shape, np.uint8)
        steps.append("blank")
    else:
        grey, description = radiometry.to_8bit(counts, recipe.agc, recipe.agc_window, nodata=raw.nodata)
        steps.append(description)
    missing = 0 if raw.nodata is None else int(np.count_nonzero(counts == raw.nodata))
    return Stored(_encode(".png", grey), ".png", grey, 1, _joined(*steps), tuple(flags), missing)


def _render_transformed(raw: radiometry.RawFrame, data: bytes, recipe: Recipe, flags: list[str]) -> Stored:
    pixels = _grey_as_reference(raw, data) if recipe.grey else raw.pixels
    steps = [raw.note]
    if recipe.crop_px:
        if not _border_is_white(radiometry.to_grey(pixels), recipe.crop_px):
            flags.append("border_not_white")
        pixels = _crop(pixels, recipe.crop_px)
        steps.append(f"crop {recipe.crop_px}px")
    if recipe.grey:
        steps.append("grey")
    quality = recipe.jpeg_quality if raw.container == "jpeg" else None
    extension, options = (".png", []) if quality is None else (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])
    encoded = _encode(extension, pixels, options)
    grey = radiometry.to_grey(np.asarray(cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)))
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return Stored(encoded, extension, grey, channels, _joined(*steps), tuple(flags))


def _grey_as_reference(raw: radiometry.RawFrame, data: bytes) -> NDArray[np.uint8]:
    """The luma plane of a JPEG, as the reference's ``cv2.imread(path, 0)`` gives it."""
    if raw.container != "jpeg":
        return radiometry.to_grey(raw.pixels)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), flags), np.uint8)


def _border_is_white(grey: NDArray[np.uint8], border: int) -> bool:
    ring = np.ones(grey.shape, bool)
    ring[border:-border, border:-border] = False
    return bool(np.median(grey[ring]) >= _WHITE)


def _crop(pixels: NDArray, border: int) -> NDArray:
    height, width = pixels.shape[:2]
    if min(height, width) <= 2 * border:
        raise BrokenFrame(f"{width}x{height} pixels are too few to cut {border} px off each side")
    return np.ascontiguousarray(pixels[border:-border, border:-border])


def _encode(extension: str, pixels: NDArray, options: Sequence[int] = ()) -> bytes:
    done, encoded = cv2.imencode(extension, pixels, list(options))
    if not done:
        raise BrokenFrame(f"cannot be encoded as {extension[1:]}")
    return encoded.tobytes()


def _joined(*steps: str) -> str:
    return "; ".join(step for step in steps if step)


def peak_grey(path: Path) -> int | None:
    """The largest grey value of a frame, as the reference's dark filter sees it; ``None`` if it cannot be read."""
    try:
        data = np.frombuffer(read_file(path), np.uint8)
        with quiet_cv2():
            image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    except (OSError, cv2.error):
        return None
    return None if image is None else int(image.max())


PEAK_SCHEMA = pa.schema(
    [
        pa.field("source_path", pa.string()),
        pa.field("raw_bytes", pa.int64()),
        pa.field("raw_mtime_ns", pa.int64()),
        pa.field("peak", pa.int16()),
    ]
)


def peak_batch(batch: Batch) -> list[dict[str, Any]]:
    """``peak_grey`` of each frame of a batch, as ledger entries; where there is none, the next build asks again."""
    entries: list[dict[str, Any]] = []
    for frame, (size, mtime) in zip(batch.frames, batch.stats, strict=True):
        peak = peak_grey(batch.root / frame.source_path)
        stat = {"raw_bytes": None, "raw_mtime_ns": None} if peak is None else {"raw_bytes": size, "raw_mtime_ns": mtime}
        entries.append({"source_path": frame.source_path, "peak": peak, **stat})
    return entries
