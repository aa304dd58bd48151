"""The whole way on a small corpus, timed, and one page that shows it.

OUT/raw       the raw sources, generated unless real ones are given
OUT/data      their build;  OUT/crops  what the trainer sees of it
OUT/run       a short PAD-MAE run
OUT/index.html
"""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from msip.build_report import BuildReport
from msip.crops import RoiCrop, cut
from msip.engine import cores
from msip.errors import LayoutError, ManifestError
from msip.export import ExportReport, export_crops
from msip.extras import need
from msip.files import make_output_folder, write_bytes
from msip.frames import find_root
from msip.manifest import Manifest
from msip.pages import data_url, fill
from msip.pictures import contact_sheet, draw_boxes, encode_png
from msip.pipeline import build
from msip.progress import Progress, silent
from msip.sampling import evenly_spread
from msip.sources import load_corpus, load_source
from msip.storage import read_image
from msip.synthetic import write_raw
from msip.verify import VerifyReport, verify_build
from pad.config import PretrainConfig
from pad.training.pretrain import PretrainResult, pretrain

PAGE = "index.html"
_SHOWN_PER_SOURCE = 4
_ROI_PICTURES = 8
_VIEWS = 24

_log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True)
class DemoReport:
    """The outcome of ``demo``.

    Attributes:
        page: the page to look at.
        images, rois: of the build.
        verified: the build is as its manifest says.
        crops: exported.
        first_loss, last_loss: of the training run.
        seconds: taken by each step.
    """

    page: str
    images: int
    rois: int | None
    verified: bool
    crops: int
    first_loss: float
    last_loss: float
    seconds: dict[str, float]


def demo(
    out: str | Path = "demo",
    *,
    raw: str | Path | None = None,
    steps: int = 60,
    workers: int = 1,
    progress: Progress = silent,
) -> DemoReport:
    """Go the whole way on a small corpus: build, verify, RoIs, crops, a short PAD-MAE run, and one page to look at.

    Finished steps of an earlier call are kept.

    Args:
        out: folder for everything that is made.
        raw: folder with real sources, in place of the generated ones.
        steps: optimizer steps of the training run, at least 10.
        workers: processes.
        progress: as of ``msip.build``.

    Raises:
        LayoutError: ``raw`` holds no source of the corpus.
        OutputError: ``out`` cannot be written.
        MissingExtra: the extra ``plots`` is not installed.
    """
    need("plots")
    return _Demo(Path(out), None if raw is None else Path(raw), steps, workers, progress).go()


class _Demo:
    """The steps, timed."""

    def __init__(self, out: Path, raw: Path | None, steps: int, workers: int, progress: Progress) -> None:
        self.out, self.raw, self.steps, self.workers, self.progress = out, raw, steps, workers, progress
        self.times: dict[str, float] = {}

    def go(self) -> DemoReport:
        """Run every step."""
        make_output_folder(self.out)
        raw, corpus, sources = self._timed("make the raw sources", self._sources)
        report = self._timed("build", lambda: self._build(raw, corpus, sources))
        checked = self._timed("verify", lambda: verify_build(self.out / "data", workers=self.workers))
        exported = self._timed("export crops", self._export)
        result = self._timed("pre-train", self._pretrain)
        losses = _losses(self.out / "run")
        self._timed("page", lambda: self._page(report, checked, exported, result, losses))
        return DemoReport(
            page=str(self.out / PAGE),
            images=report.images,
            rois=report.rois,
            verified=checked.ok,
            crops=exported.crops,
            first_loss=losses[0][1],
            last_loss=losses[-1][1],
            seconds={name: round(seconds, 1) for name, seconds in self.times.items()},
        )

    def _timed(self, name: str, step: Callable[[], _T]) -> _T:
        begin = time.perf_counter()
        result = step()
        self.times[name] = time.perf_counter() - begin
        _log.info("%-22s %6.1f s", name, self.times[name])
        return result

    def _sources(self) -> tuple[Path, str | Path, list[str] | None]:
        """(raw folder, corpus, sources to build)."""
        if self.raw is None:
            raw = write_raw(self.out / "raw")
            return raw, raw / "corpus.yaml", None
        here = [name for name in load_corpus("msip").sources if _is_here(name, self.raw)]
        if not here:
            raise LayoutError(
                f"no source of the corpus msip lies under {self.raw}; see `msip sources --raw {self.raw}`."
            )
        return self.raw, "msip", here

    def _build(self, raw: Path, corpus: str | Path, sources: list[str] | None) -> BuildReport:
        return build(
            raw, self.out / "data", corpus=corpus, sources=sources, workers=self.workers, progress=self.progress
        )

    def _export(self) -> ExportReport:
        return export_crops(self.out / "data", self.out / "crops", mode="training", per_image=1, workers=self.workers)

    def _pretrain(self) -> PretrainResult:
        config = PretrainConfig(
            data=self.out / "data",
            out=self.out / "run",
            model="vit_tiny_patch16_224",
            init="random",
            image_size=112,
            max_steps=self.steps,
            batch_size=32,
            blr=4e-3,
            decoder_embed_dim=128,
            decoder_depth=2,
            decoder_num_heads=4,
            scale_freeze=0.3,
            device="auto",
            workers=1,
            resume="auto",
        )
        return pretrain(config)

    def _page(
        self,
        report: BuildReport,
        checked: VerifyReport,
        exported: ExportReport,
        result: PretrainResult,
        losses: list[tuple[int, float]],
    ) -> None:
        manifest, run = Manifest.read(self.out / "data"), self.out / "run"
        panels = sorted((run / "panels").glob("*.png"))
        html = fill(
            Path(__file__).with_suffix(".html"),
            generated=self.raw is None,
            report=report,
            checked=checked,
            exported=exported,
            result=dataclasses.asdict(result),
            losses=losses,
            times=self.times,
            machine=f"{platform.machine()}, {cores()} cores, Python {platform.python_version()}",
            sources=data_url(encode_png(_source_sheet(manifest))),
            rois=data_url(encode_png(_roi_sheet(manifest))),
            views=data_url(encode_png(_view_sheet(manifest))),
            loss_curve=data_url((run / "loss.png").read_bytes()),
            first_panel=data_url(panels[0].read_bytes()),
            last_panel=data_url(panels[-1].read_bytes()),
        )
        write_bytes(self.out / PAGE, html.encode())


def _is_here(name: str, raw: Path) -> bool:
    try:
        find_root(load_source(name), raw)
    except LayoutError:
        return False
    return True


def _losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]


def _rows_of(manifest: Manifest, per_source: int) -> list[int]:
    """Rows evenly spread over each source."""
    names = np.array(manifest.table.column("source").to_pylist())
    rows: list[int] = []
    for name in manifest.counts():
        own = np.flatnonzero(names == name)
        rows += [int(row) for row in own[evenly_spread(len(own), per_source)]]
    return rows


def _read(manifest: Manifest, row: int) -> NDArray[np.uint8]:
    image = read_image(manifest.path(row), 1)
    if image is None:
        raise ManifestError(f"{manifest.path(row)} is gone or unreadable; run the same command again to restore it.")
    return image


def _source_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    return contact_sheet([_read(manifest, row) for row in _rows_of(manifest, _SHOWN_PER_SOURCE)], columns=8)


def _roi_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    rows = _rows_of(manifest, 1)[:_ROI_PICTURES]
    return contact_sheet([draw_boxes(_read(manifest, row), manifest.rois(row)) for row in rows], columns=4, cell=324)


def _view_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    """Eight draws each of three images: what the trainer sees."""
    crop, crops = RoiCrop(), []
    ids = manifest.table.column("image_id").to_pylist()
    for row in _rows_of(manifest, 1)[:3]:
        image = _read(manifest, row)
        size = image.shape[1], image.shape[0]
        drawn = crop.views(ids[row], size, manifest.rois(row), seed=0, epoch=0, count=_VIEWS // 3)
        crops += [cut(image, box, crop.size, flip=flip) for box, flip in drawn]
    return contact_sheet(crops, columns=8)
