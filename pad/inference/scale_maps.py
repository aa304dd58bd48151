"""``msip scale-maps``: the scale that each adapted layer gives each patch, drawn over images, and its statistics.

The patchwise scale s (arXiv 2312.08192, Fig. 2b) starts at 0.5 everywhere; what moved it is what the adapters learnt
about where, and at which depth, the frozen model needs to change for infrared. Depths differ far more than places, so
a map is coloured by the difference to its layer's mean over all images, and the mean is written above it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from msip.choosing import Choice
from msip.errors import FrameError, LayoutError, ModelError
from msip.extras import need
from msip.files import make_output_folder, write_bytes
from msip.frames import list_folder
from msip.radiometry import read_grey8
from pad.adapters.attach import adapted_blocks, blocks_of, config_of, has_adapters, recorded_scales, token_scales
from pad.data.grey import normalise
from pad.encoders import load_encoder
from pad.encoders.stored import run_state
from pad.encoders.tokens import grid_size

_log = logging.getLogger(__name__)

CSV, MARKDOWN = "scales.csv", "scales.md"
COLUMNS = ("layer", "mean", "std", "p5", "p95", "class_token")
MIN_SPAN = 0.005  # colours show at least this much on either side of a layer's mean


@dataclass(frozen=True)
class ScaleMaps:
    """What was measured and written.

    Attributes:
        folder: with ``scales.csv``, ``scales.md`` and one PNG a drawn image; ``maps``: their names.
        images: measured; ``left_out``: name and reason of those that could not be read.
        layers: a row for each adapted block, keys ``COLUMNS``: mean, standard deviation and percentiles of the scale
            over all patches of all images, and the class token's mean (None without one).
    """

    folder: str
    images: int
    layers: list[dict[str, float | int | None]]
    maps: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def table(self) -> tuple[list[str], list[list[Any]]]:
        """Header and rows for people."""
        rows = [[row["layer"], *(_shown(row[name]) for name in COLUMNS[1:])] for row in self.layers]
        return [name.replace("_", " ") for name in COLUMNS], rows


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def scale_maps(
    run: str | Path,
    images: str | Path,
    to: str | Path | None = None,
    *,
    max_maps: int = 8,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    every: int = 1,
) -> ScaleMaps:
    """Measure and draw the scales of ``run`` (anything ``load_encoder`` reads) on ``images`` (a folder or one image).

    Images of any bit depth are made 8-bit grey as in a build, and resized whole to the model's input; ``include``,
    ``exclude`` and ``every`` choose among those of a folder (see ``msip.choosing.Choice``). Raises
    ``ModelError`` for a model without patchwise adapters, ``LayoutError`` where there is no image, ``MissingExtra``
    without the extra ``plots``.
    """
    need("plots")
    model = _patchwise(run)
    for sentence in run_state(run):
        _log.warning(sentence)
    left_out: dict[str, str] = {}
    scales: list[NDArray[np.float32]] = []
    pictures: list[tuple[str, NDArray[np.uint8]]] = []
    for name, grey in _read(Path(images), Choice(tuple(include), tuple(exclude), every), left_out):
        scales.append(scales_of(model, grey))
        if len(pictures) < max_maps:
            pictures.append((name, grey))
    if not scales:
        raise LayoutError(f"{images} holds no image that can be read; give a folder of frames.")
    folder = make_output_folder(_folder(run) if to is None else Path(to))
    prefix = _prefix(model)
    layers = _statistics(model, np.stack(scales), prefix)
    names = [f"{number:03d}_{Path(name).stem}.png" for number, (name, _) in enumerate(pictures)]
    patches = np.stack(scales)[:, :, prefix:]
    centres = patches.mean(axis=(0, 2))
    span = max(MIN_SPAN, float(np.percentile(np.abs(patches - centres[:, None]), 99)))
    labels = [f"block {row['layer']}: mean {row['mean']:.3f}" for row in layers]
    for file, (_, grey), values in zip(names, pictures, scales, strict=False):
        maps = (values[:, prefix:] - centres[:, None]).reshape(-1, *grid_size(model))
        write_bytes(folder / file, draw(grey, maps, labels, span))
    done = ScaleMaps(str(folder), len(scales), layers, names, left_out)
    _write_tables(folder, done)
    return done


def _patchwise(run: str | Path) -> nn.Module:
    model = load_encoder(run)
    if not has_adapters(model) or config_of(model).scale != "patchwise":
        found = f"{config_of(model).scale} scales" if has_adapters(model) else "no adapters"
        raise ModelError(f"{run} has {found}, one value or none for all patches; give a run with `scale=patchwise`.")
    return model


def _folder(run: str | Path) -> Path:
    path = Path(run)
    return (path if path.is_dir() else path.parent) / "scale-maps"


def _read(images: Path, choice: Choice, left_out: dict[str, str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(name, grey uint8) of every image that can be read, in natural order; the others are named in ``left_out``."""
    if images.is_file():
        files = [(images.name, images)]
    elif images.is_dir():
        listing = list_folder(images, choice=choice)
        left_out.update(listing.problems)
        files = [(frame.source_path, listing.root / frame.source_path) for frame in listing.frames]
    else:
        raise LayoutError(f"{images} does not exist; give a folder of images.")
    for name, path in tqdm(files, desc="scales", unit="img", disable=None):
        try:
            yield name, read_grey8(path, name=name)
        except (FrameError, OSError) as error:
            left_out[name] = str(error)


@torch.no_grad()
def scales_of(model: nn.Module, grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scales of one grey uint8 image (h, w), resized to the model's input: (layers, prefix + patches) in 0 to 1."""
    inner: Any = model
    height, width = inner.patch_embed.img_size
    resized = cv2.resize(
        grey, (width, height), interpolation=cv2.INTER_AREA if grey.shape[1] > width else cv2.INTER_CUBIC
    )
    images = normalise(torch.from_numpy(resized)[None, None], inner.patch_embed.proj.in_channels)
    with recorded_scales(model):
        inner.forward_features(images)
    return torch.cat(token_scales(model))[..., 0].float().numpy()


def _prefix(model: Any) -> int:
    return int(model.num_prefix_tokens)


def _statistics(model: Any, scales: NDArray[np.float32], prefix: int) -> list[dict[str, float | int | None]]:
    """``scales`` (images, layers, tokens) to one row a layer."""
    adapted = {id(block) for block in adapted_blocks(model)}
    numbers = [index for index, block in enumerate(blocks_of(model)) if id(block) in adapted]
    rows: list[dict[str, float | int | None]] = []
    for row, layer in enumerate(numbers):
        patches = scales[:, row, prefix:].astype(np.float64)
        low, high = np.percentile(patches, (5, 95))
        own = float(scales[:, row, 0].mean()) if getattr(model, "cls_token", None) is not None else None
        values = (layer, float(patches.mean()), float(patches.std()), float(low), float(high), own)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def draw(grey: NDArray[np.uint8], maps: NDArray[np.float32], labels: list[str], span: float) -> bytes:
    """PNG: the image, then each layer's map over it; blue below the layer's mean, red above, as far as ``span``.

    Args:
        grey: the image, uint8 (h, w).
        maps: (layers, rows, columns) differences to the layer's mean.
        labels: what is written above each map.
        span: difference that is fully coloured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 5 if len(maps) <= 14 else 7
    rows = -(-(len(maps) + 1) // columns)
    ratio = grey.shape[0] / grey.shape[1]
    figure = Figure(figsize=(2.2 * columns + 0.9, (2.2 * ratio + 0.3) * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    axes.flat[0].imshow(grey, cmap="gray", vmin=0, vmax=255)
    axes.flat[0].set_title("image", fontsize=9)
    extent = (0, grey.shape[1], grey.shape[0], 0)
    shown: Any = None
    for axis, values, label in zip(axes.flat[1:], maps, labels, strict=False):
        axis.imshow(grey, cmap="gray", vmin=0, vmax=255, extent=extent)
        shown = axis.imshow(
            values,
            cmap="coolwarm",
            vmin=-span,
            vmax=span,
            alpha=0.65,
            extent=extent,
            interpolation="nearest",
        )
        axis.set_title(label, fontsize=9)
    figure.colorbar(shown, ax=axes, shrink=0.8, label="scale, minus the layer's mean")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _write_tables(folder: Path, done: ScaleMaps) -> None:
    write_bytes(folder / CSV, pd.DataFrame(done.layers, columns=list(COLUMNS)).to_csv(index=False).encode())
    header, rows = done.table()
    lines = [header, ["---:"] * len(header), *([str(cell) for cell in row] for row in rows)]
    write_bytes(folder / MARKDOWN, ("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n").encode())
