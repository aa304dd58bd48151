"""``msip demo``: the whole way on a small corpus, and one page that shows it."""

from __future__ import annotations

import base64
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, Workers, cores
from .output import StageBars, print_json, print_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from msip.manifest import Manifest

PAGE = "index.html"
_STEPS = 60
_SHOWN_PER_SOURCE = 4
_ROI_PICTURES = 8
_VIEWS = 24


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo"),
    raw: Annotated[
        Path | None, typer.Option(help="Real sources instead of the generated ones.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=10, help="Optimizer steps of the short training run.")] = _STEPS,
    workers: Workers = cores(),
    as_json: Json = False,
) -> None:
    """The whole way on a small corpus: build, verify, RoIs, crops, a short PAD-MAE run, and one page to look at."""
    run = Demo(out, raw, steps, workers, as_json)
    if not as_json:
        print_line(f"From raw sources to a trained adapter: about two minutes on two idle cores. All goes to {out}.")
    summary = run.go()
    if as_json:
        print_json(summary)
        return
    print_line(f"\nLoss {summary['first_loss']:.3f} -> {summary['last_loss']:.3f} in {steps} steps.")
    print_line(f"Open {out / PAGE} in a browser; its training run: {out / 'run' / 'report.html'}.")
    print_line("Your own frames: msip build --folder FRAMES --out DATA (any nesting, 8 to 16 bits).")


class Demo:
    """The steps of the demo, timed, and what they found, for the page."""

    def __init__(self, out: Path, raw: Path | None, steps: int, workers: int, quiet: bool) -> None:
        self.out, self.raw, self.steps, self.workers, self.quiet = out, raw, steps, workers, quiet
        self.times: dict[str, float] = {}

    def go(self) -> dict[str, Any]:
        """Run every step; returns the summary."""
        from msip.files import make_output_folder

        make_output_folder(self.out)
        raw, corpus, sources = self._timed("make the raw sources", self._sources)
        report = self._timed("build", lambda: self._build(raw, corpus, sources))
        checked = self._timed("verify", self._verify)
        exported = self._timed("export crops", self._export)
        result = self._timed("pre-train", self._pretrain)
        losses = _losses(self.out / "run")
        page = self._timed("page", lambda: self._page(report, checked, exported, result, losses))
        return {
            "page": str(page),
            "images": report.images,
            "rois": report.rois,
            "verified": checked.ok,
            "crops": exported.crops,
            "first_loss": losses[0][1],
            "last_loss": losses[-1][1],
            "seconds": {name: round(seconds, 1) for name, seconds in self.times.items()},
        }

    def _timed(self, name: str, step: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        result = step()
        self.times[name] = time.perf_counter() - begin
        if not self.quiet:
            print_line(f"{name:<22} {self.times[name]:6.1f} s")
        return result

    def _sources(self) -> tuple[Path, str | Path, list[str] | None]:
        """(raw folder, corpus, sources to build)."""
        from msip.errors import LayoutError
        from msip.frames import find_root
        from msip.sources import load_corpus, load_source

        if self.raw is None:
            from msip.synthetic import write_raw

            raw = write_raw(self.out / "raw")
            return raw, raw / "corpus.yaml", None
        here = []
        for name in load_corpus("msip").sources:
            try:
                find_root(load_source(name), self.raw)
            except LayoutError:
                continue
            here.append(name)
        if not here:
            raise LayoutError(
                f"no source of the corpus msip lies under {self.raw}; see `msip sources --raw {self.raw}`."
            )
        return self.raw, "msip", here

    def _build(self, raw: Path, corpus: str | Path, sources: list[str] | None) -> Any:
        from msip.pipeline import build

        with StageBars(quiet=self.quiet) as bars:
            return build(raw, self.out / "data", corpus=corpus, sources=sources, workers=self.workers, progress=bars)

    def _verify(self) -> Any:
        from msip.verify import verify_build

        return verify_build(self.out / "data", workers=self.workers)

    def _export(self) -> Any:
        from msip.export import export_crops

        return export_crops(self.out / "data", self.out / "crops", mode="training", per_image=1, workers=self.workers)

    def _pretrain(self) -> Any:
        from pad.config.pretraining import PretrainConfig
        from pad.training.pretrain import pretrain

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
        return pretrain(config, say=lambda _: None if self.quiet else print_line("  " + _))

    def _page(self, report: Any, checked: Any, exported: Any, result: Any, losses: list[tuple[int, float]]) -> Path:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        from msip.files import write_bytes
        from msip.manifest import Manifest

        manifest = Manifest.read(self.out / "data")
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
        )
        html = environment.get_template("demo.html").render(
            generated=self.raw is None,
            report=report,
            checked=checked,
            exported=exported,
            result=dataclasses.asdict(result),
            losses=losses,
            times=self.times,
            machine=f"{platform.machine()}, {cores()} cores, Python {platform.python_version()}",
            sources=_png(_source_sheet(manifest)),
            rois=_png(_roi_sheet(manifest)),
            views=_png(_view_sheet(manifest)),
            loss_curve=_file(self.out / "run" / "loss.png"),
            first_panel=_file(_panels(self.out / "run")[0]),
            last_panel=_file(_panels(self.out / "run")[-1]),
        )
        write_bytes(self.out / PAGE, html.encode())
        return self.out / PAGE


def _losses(run: Path) -> list[tuple[int, float]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]


def _panels(run: Path) -> list[Path]:
    return sorted((run / "panels").glob("*.png"))


def _file(path: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _png(image: NDArray[np.uint8]) -> str:
    from msip.pictures import encode_png

    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def _rows_of(manifest: Manifest, per_source: int) -> list[int]:
    """Rows evenly spread over each source."""
    import numpy as np

    names = np.array(manifest.table.column("source").to_pylist())
    rows: list[int] = []
    for name in manifest.counts():
        own = np.flatnonzero(names == name)
        rows += [int(row) for row in own[np.linspace(0, len(own) - 1, min(per_source, len(own))).astype(int)]]
    return rows


def _read(manifest: Manifest, row: int) -> NDArray[np.uint8]:
    from msip.storage import read_image

    image = read_image(manifest.path(row), 1)
    if image is None:
        raise typer.Exit(1)  # verified a moment ago
    return image


def _source_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    from msip.pictures import contact_sheet

    return contact_sheet([_read(manifest, row) for row in _rows_of(manifest, _SHOWN_PER_SOURCE)], columns=8)


def _roi_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    from msip.pictures import contact_sheet, draw_boxes

    rows = _rows_of(manifest, 1)[:_ROI_PICTURES]
    return contact_sheet([draw_boxes(_read(manifest, row), manifest.rois(row)) for row in rows], columns=4, cell=324)


def _view_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    """Eight draws each of three images: what the trainer sees."""
    from msip.crops import RoiCrop, cut, sample_key, sample_rng
    from msip.pictures import contact_sheet

    crop, crops = RoiCrop(), []
    ids = manifest.table.column("image_id").to_pylist()
    for row in _rows_of(manifest, 1)[:3]:
        image = _read(manifest, row)
        for view in range(_VIEWS // 3):
            rng = sample_rng(0, 0, sample_key(ids[row]), view)
            box, flip = crop.draw((image.shape[1], image.shape[0]), manifest.rois(row), rng)
            crops.append(cut(image, box, crop.size, flip=flip))
    return contact_sheet(crops, columns=8)
