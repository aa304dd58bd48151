"""Images and RoIs of a manifest to batches: the same sample whoever draws it.

The crop, the flip and a method's random inputs (masks) of one sample are a function of (seed, epoch, image), and the
order of an epoch is a function of (seed, epoch). So neither the number of workers or ranks, nor a restart, changes
what a model sees. Images travel as one-channel uint8 and are normalised on the device.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from msip.crops import RoiCrop, resize_crop, sample_key, sample_rng
from msip.errors import ManifestError
from msip.files import atomic_path
from msip.manifest import Manifest
from msip.resize import warm_up
from msip.shards import Shards, is_shards
from msip.storage import WHOLE_FILE, Layout, Storage, is_url
from msip.trees import remote_errors

if TYPE_CHECKING:
    from pad.methods.base import InputSampler
    from pad.views import MultiCrop

SampleKey: TypeAlias = tuple[int, int]
"""(epoch, row of the index): what the sampler asks the dataset for; it tells persistent workers the epoch."""

INFRARED_MEAN, INFRARED_STD = 0.3801, 0.1871
"""Of grey values in 0 to 1, over MSIP (reference: ``msip_dataset.py``, three equal channels)."""

REPLACEMENT_VIEW = 1 << 20
"""``view`` of the draw that replaces an unreadable image; far from the numbers of true views."""

REPLACEMENTS = 20
"""Images tried for one place of a batch before giving up."""


def open_data(path: str | Path) -> Manifest | Shards:
    """What there is to train on: a build, or shards of one (a folder or URL). Raises ``MsipError``."""
    if is_url(path):
        with remote_errors(path):
            return Shards.read(path)
    return Shards.read(path) if is_shards(path) else Manifest.read(path)


def write_index(data: Manifest | Shards, path: Path) -> Path:
    """Write what training needs of the data as an Arrow file that all workers memory-map.

    Columns: image_id; path (relative to the data's root), offset, length: where the image lies, see ``msip.storage``;
    width, height; rois (list of 4 int32: x, y, width, height).
    """
    table = data.table
    rois = table.column("rois")
    lengths = pc.fill_null(pc.list_value_length(rois), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    boxes = pc.list_flatten(rois).combine_chunks()
    values = np.stack([boxes.field(name).to_numpy(zero_copy_only=False) for name in ("x", "y", "width", "height")], 1)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), pa.int32()), 4)
    columns = {name: table.column(name).cast(pa.large_string()).combine_chunks() for name in ("image_id", "path")}
    if isinstance(data, Manifest):
        columns |= {"offset": pa.array(np.zeros(len(data), np.int64))}
        columns |= {"length": pa.array(np.full(len(data), WHOLE_FILE))}
    else:
        columns |= {name: table.column(name).combine_chunks() for name in ("offset", "length")}
    columns |= {name: pc.fill_null(table.column(name), 0).combine_chunks() for name in ("width", "height")}
    index = pa.table({**columns, "rois": pa.LargeListArray.from_arrays(pa.array(offsets), flat)})
    index = index.replace_schema_metadata({"layout": data.storage().layout})
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, index.schema) as to,
    ):
        to.write_table(index)
    return path


class ImageIndex:
    """The memory-mapped file of ``write_index``; pickles as its path, so workers share one copy of the pages.

    Attributes:
        layout: how the images are stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(self.path))).read_all()
        if table.num_rows == 0:
            raise ManifestError("the manifest leaves no image to train on; drop an --exclude-flag or build it again.")
        self.layout: Layout = table.schema.metadata[b"layout"].decode()
        self._ids, self._paths, rois = (table.column(name).chunk(0) for name in ("image_id", "path", "rois"))
        names = ("offset", "length", "width", "height")
        self._offset, self._length, self._width, self._height = (table.column(n).chunk(0).to_numpy() for n in names)
        self._first_roi = rois.offsets.to_numpy()
        self._boxes = rois.values.values.to_numpy().reshape(-1, 4)

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.path = state["path"]
        self._open()

    def __len__(self) -> int:
        return len(self._paths)

    def image_id(self, row: int) -> str:
        """``<source>/<stem>``."""
        return str(self._ids[row].as_py())

    def relative_path(self, row: int) -> str:
        """Of the file that holds the image, relative to the data's folder."""
        return str(self._paths[row].as_py())

    def read_grey(self, row: int, storage: Storage) -> NDArray[np.uint8] | None:
        """The stored image, uint8 (h, w), perhaps read-only; ``None`` if it is absent or cannot be decoded."""
        size = int(self._width[row]), int(self._height[row])
        return storage.read_grey(self.relative_path(row), int(self._offset[row]), int(self._length[row]), size)

    def rois(self, row: int) -> NDArray[np.int32]:
        """(n, 4) x, y, width, height in pixels; n may be 0."""
        boxes: NDArray[np.int32] = self._boxes[self._first_roi[row] : self._first_roi[row + 1]]
        return boxes


class PretrainDataset(Dataset[dict[str, Any]]):
    """Crops of a manifest's images.

    Args:
        index: the images, see ``ImageIndex``.
        root: the folder or URL that the index's paths are relative to.
        seed: of every draw.
        crop: how a box is drawn; its ``size`` is the side of the crops, in pixels.
        sampler: the method's random inputs of one sample, if it has any.
        views: how the image becomes several views; one crop if None.
    """

    def __init__(
        self,
        index: ImageIndex,
        root: str | Path,
        *,
        seed: int,
        crop: RoiCrop,
        sampler: InputSampler | None = None,
        views: MultiCrop | None = None,
    ) -> None:
        self.index, self.seed, self.crop, self.sampler = index, seed, crop, sampler
        self.storage, self.views = Storage(root, index.layout), views

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        """One sample of one epoch.

        Returns:
            ``image`` uint8 (1, size, size); ``row`` asked for; ``used``: the row read, another one if the image could
            not be read, -1 if none could; ``inputs``: the method's.
        """
        epoch, row = key
        number = sample_key(self.index.image_id(row))
        used, image = self._read(epoch, row, number)
        rng = sample_rng(self.seed, epoch, number)
        if self.views:
            image = np.zeros((1, 1), np.uint8) if image is None else image
            inputs = self.views(image, self.index.rois(used if used >= 0 else row), self.crop, rng)
            return {"row": row, "used": used, "inputs": inputs}
        pixels = np.zeros((self.crop.size, self.crop.size), np.uint8) if image is None else self._crop(image, used, rng)
        inputs = self.sampler(rng) if self.sampler else {}
        return {"image": pixels[None], "row": row, "used": used, "inputs": inputs}

    def _read(self, epoch: int, row: int, number: int) -> tuple[int, NDArray[np.uint8] | None]:
        for attempt in range(REPLACEMENTS):
            image = self.index.read_grey(row, self.storage)
            if image is not None:
                return row, image
            row = int(sample_rng(self.seed, epoch, number, REPLACEMENT_VIEW + attempt).integers(len(self)))
        return -1, None

    def _crop(self, image: NDArray[np.uint8], row: int, rng: np.random.Generator) -> NDArray[np.uint8]:
        height, width = image.shape
        box = self.crop.box((width, height), self.index.rois(row), rng)
        pixels = resize_crop(image, box, self.crop.size)
        return np.ascontiguousarray(pixels[:, ::-1]) if rng.random() < 0.5 else pixels


def epoch_order(images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The order of one epoch: a permutation of ``range(images)`` that depends on (seed, epoch) alone."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, epoch]))).permutation(images)


class EpochSampler(Sampler[list[SampleKey]]):
    """Micro-batches of one rank, epoch after epoch, from any position on.

    An effective batch is ``batch_size * accumulate * world`` consecutive images of ``epoch_order``; the images of one
    optimizer step are the same however they are split. What does not fill an effective batch at an epoch's end is
    left out (another rest each epoch).

    Args:
        images: length of the dataset.
        batch_size: images of one forward pass on one rank.
        accumulate: forward passes of one optimizer step.
        seed: of the order.
        steps: optimizer steps to yield.
        epoch: to begin with.
        start: images of that epoch (over all ranks) already used.
        rank, world: this process among how many.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        steps: int,
        seed: int,
        accumulate: int = 1,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.images, self.batch_size, self.accumulate, self.steps = images, batch_size, accumulate, steps
        self.seed, self.epoch, self.start, self.rank, self.world = seed, epoch, start, rank, world
        self.effective_batch = batch_size * accumulate * world
        self.steps_per_epoch = images // self.effective_batch

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def __iter__(self) -> Iterator[list[SampleKey]]:
        epoch, position, order = self.epoch, self.start, epoch_order(self.images, self.seed, self.epoch)
        for _ in range(self.steps):
            if position + self.effective_batch > self.images:
                epoch, position = epoch + 1, 0
                order = epoch_order(self.images, self.seed, epoch)
            for micro in range(self.accumulate):
                first = position + (micro * self.world + self.rank) * self.batch_size
                yield [(epoch, int(row)) for row in order[first : first + self.batch_size]]
            position += self.effective_batch


def _start_worker(_: int) -> None:
    """One thread a worker; signals are the main process's business: it finishes its step, then stops the workers."""
    _one_cv2_thread()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _one_cv2_thread() -> None:
    if cv2.getNumThreads() != 1:
        cv2.setNumThreads(1)


def start_reading(loader: DataLoader[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Start the loader's workers; deleting the iterator stops them.

    OpenCV's thread pool is stopped first: a forked worker that inherits one waits forever for threads it does not have.
    """
    warm_up()  # so that forked workers have the machine code
    threads = cv2.getNumThreads()
    _one_cv2_thread()
    batches = iter(loader)
    if threads != 1:
        cv2.setNumThreads(threads)
    return batches


def make_loader(
    dataset: PretrainDataset,
    sampler: EpochSampler,
    *,
    workers: int,
    pin_memory: bool = False,
    start_method: str | None = None,
) -> DataLoader[dict[str, Any]]:
    """Batches in the sampler's order: ``image`` uint8 (b, 1, h, w), ``row`` and ``used`` int64 (b,), ``inputs``.

    Args:
        dataset: see ``PretrainDataset``.
        sampler: which samples, in which order.
        workers: processes that read ahead; 0 reads in this process.
        pin_memory: for asynchronous copies to a GPU.
        start_method: of the workers (``fork``, ``spawn``, ``forkserver``); the platform's default if ``None``.
    """
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        prefetch_factor=3 if workers else None,
        worker_init_fn=_start_worker,
        multiprocessing_context=multiprocessing.get_context(start_method) if workers and start_method else None,
        generator=torch.Generator(),  # the global one belongs to the model's dropout
    )


def to_device(batch: dict[str, Any], device: torch.device, in_chans: int) -> dict[str, Tensor]:
    """A batch's ``images`` and inputs on the device; what is uint8 are grey images and is normalised there."""
    named = {**({"images": batch["image"]} if "image" in batch else {}), **batch["inputs"]}
    moved = {name: value.to(device, non_blocking=True) for name, value in named.items()}
    return {n: normalise(value, in_chans) if value.dtype == torch.uint8 else value for n, value in moved.items()}


def normalise(image: Tensor, in_chans: int) -> Tensor:
    """Grey uint8 (..., 1, h, w) to float32 (..., in_chans, h, w) around 0; the channels are views of one."""
    grey = image.float().div_(255).sub_(INFRARED_MEAN).div_(INFRARED_STD)
    return grey.expand(*grey.shape[:-3], in_chans, *grey.shape[-2:])


def denormalise(image: Tensor) -> NDArray[np.uint8]:
    """Inverse of ``normalise``: float (b, c, h, w) to uint8 (b, h, w), the channels' mean, clipped."""
    grey = image.float().mean(1).mul(INFRARED_STD).add(INFRARED_MEAN).mul(255)
    return grey.round().clamp(0, 255).byte().cpu().numpy()
