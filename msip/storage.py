"""Where the pixels of a training set lie, read one image at a time: files, members of tars, decoded shards.

A place is (path relative to the root, offset, length). The root is a folder or an fsspec URL (``s3://...``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from msip.errors import ManifestError
from msip.extras import need
from msip.files import path_or_url, sha256_bytes

Layout = Literal["folder", "webdataset", "raw"]
Grey: TypeAlias = NDArray[np.uint8]

INFRARED_MEAN, INFRARED_STD = 0.3801, 0.1871
"""What grey values in 0 to 1 are normalised with (reference: ``msip_dataset.py``, three equal channels); how the
reference's authors computed them over MSIP was never published."""

WHOLE_FILE = -1
"""``length`` of an image that has a file of its own."""


@contextlib.contextmanager
def quiet_cv2() -> Iterator[None]:
    """Inside, OpenCV logs nothing of a file that is cut off or absent: whoever reads it says so, once and by name."""
    log = cv2.utils.logging
    level = log.setLogLevel(log.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        log.setLogLevel(level)


def decode_image(data: NDArray[np.uint8], channels: int = 1) -> NDArray[np.uint8] | None:
    """One encoded image as the reference's ``cv2.imread`` gives it, or ``None`` if it cannot be decoded.

    One channel (h, w): colour becomes luma, three equal channels give the channel. More ``channels``: BGR (h, w, 3).
    Turned as stored: a manifest's sizes and RoIs are of the stored pixels, whatever an EXIF tag says.
    """
    if data.size == 0:
        return None
    colour = cv2.IMREAD_GRAYSCALE if channels == 1 else cv2.IMREAD_COLOR
    try:
        with quiet_cv2():
            image = cv2.imdecode(data, colour | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # a header that announces more pixels than OpenCV takes
        return None
    return None if image is None else np.asarray(image, np.uint8)


def read_image(path: Path, channels: int = 1) -> NDArray[np.uint8] | None:
    """The stored image, or ``None`` if it is absent or cannot be decoded; see ``decode_image``."""
    try:
        return decode_image(np.fromfile(path, np.uint8), channels)
    except OSError:
        return None


def stored_bytes(path: Path, sha256: str) -> bytes:
    """A stored image's file. Raises ``ManifestError`` where it is gone or has another hash than the manifest says."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path} is gone or unreadable; run the build again to restore it.") from error
    if sha256_bytes(data) != sha256:
        raise ManifestError(f"{path} is not what the manifest says; delete it and run the build again to restore it.")
    return data


class Storage:
    """Reads images of one root; each process opens its own files (connections of fsspec do not survive a fork).

    Args:
        root: folder or URL.
        layout: ``folder``: a file an image; ``webdataset``: encoded images inside tars; ``raw``: decoded grey pixels.
    """

    def __init__(self, root: str | Path, layout: Layout = "folder") -> None:
        self.root, self.layout = path_or_url(root), layout
        self._open: dict[str, Any] = {}
        self._process: int | None = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "layout": self.layout, "_open": {}, "_process": None}

    def read_grey(
        self, path: str, offset: int, length: int, size: tuple[int, int], sha256: bytes | None = None
    ) -> Grey | None:
        """One image, uint8 (h, w), perhaps read-only; ``None`` if it is absent, damaged or cannot be decoded.

        A disk that gives wrong bytes gives a JPEG that decoders accept with a warning: hence the hash, in all formats.

        Args:
            path: relative to the root.
            offset, length: in bytes; ``WHOLE_FILE`` for an image that is a file.
            size: (width, height) in pixels, needed for decoded pixels.
            sha256: of the encoded image's bytes, which are then compared.
        """
        try:
            if self.layout == "raw":
                pixels = self._pixels(path, offset, length)
                return pixels.reshape(size[1], size[0]) if pixels.size == size[0] * size[1] else None
            if isinstance(self.root, Path) and length == WHOLE_FILE:
                data = np.fromfile(self.root / path, np.uint8)
            else:
                data = np.frombuffer(self._bytes(path, offset, length), np.uint8)
            if sha256 is not None and hashlib.sha256(data.data).digest() != sha256:
                return None
            return decode_image(data)
        except (OSError, ValueError):
            return None

    def _pixels(self, path: str, offset: int, length: int) -> Grey:
        """Views of a memory map on a local disk: only the rows that a crop touches are read."""
        if not isinstance(self.root, Path):
            return np.frombuffer(self._bytes(path, offset, length), np.uint8)
        shard: Grey = self._opened(path, lambda: np.memmap(Path(self.root) / path, np.uint8, "r"))
        return shard[offset : offset + length].view(np.ndarray)

    def _bytes(self, path: str, offset: int, length: int) -> bytes:
        if isinstance(self.root, Path):
            flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)  # of Windows, which would change line ends
            return _read_at(self._opened(path, lambda: os.open(Path(self.root) / path, flags)), length, offset)
        files, root = self._opened("", lambda: filesystem(self.root))
        end = None if length == WHOLE_FILE else offset + length
        data: bytes = files.cat_file(f"{root}/{path}", start=offset, end=end)
        return data

    def _opened(self, name: str, opener: Callable[[], Any]) -> Any:
        if self._process != os.getpid():
            self._open, self._process = {}, os.getpid()
        if name not in self._open:
            self._open[name] = opener()
        return self._open[name]


def _read_at(descriptor: int, length: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)  # Windows
    return os.read(descriptor, length)


def filesystem(url: str | Path) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises ``MissingExtra``."""
    need("s3" if str(url).startswith("s3:") else "remote")
    import fsspec

    files, root = fsspec.core.url_to_fs(str(url))
    return files, root.rstrip("/")
