"""``msip stats``: numbers, plots, a page, a data card and Croissant metadata of a build.

    OUT/stats/stats.json        every number
    OUT/stats/*.svg             plots
    OUT/stats/index.html        all of it on one page, without other files
    OUT/stats/samples.jpg       some images of each source
    OUT/data-card.md            what it is, of whom, under which terms: the README of whoever passes it on
    OUT/croissant.json          for machines: https://mlcommons.org/croissant

The same build gives the same bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from msip.build_report import read_build
from msip.curation.measure import measure, read_pixels
from msip.engine import LocalEngine
from msip.extras import need
from msip.files import write_bytes
from msip.manifest import Manifest
from msip.pictures import contact_sheet, encode_jpeg
from msip.progress import Progress, silent
from msip.radiometry import to_grey
from msip.statistics import plots
from msip.statistics.croissant import croissant
from msip.statistics.page import render
from msip.statistics.summary import Numbers, summarise
from msip.statistics.terms import commercial_shares, terms_of
from msip.storage import INFRARED_MEAN, INFRARED_STD
from msip.version import __version__

FOLDER = "stats"
CARD_NAME, CROISSANT_NAME = "data-card.md", "croissant.json"
_VERSION = 1
_SAMPLES = 8  # images a source on the sheet

DEFINITIONS = {
    "brightness": "mean grey value of an image, 0 to 1",
    "contrast": "grey levels between an image's 1st and 99th percentile, 0 to 1",
    "entropy": "entropy of an image's 256 grey levels, bits",
    "rois_per_image": "RoIs of an image",
    "roi_side": "square root of a RoI's area over its image's",
    "sequence_length": "images of a sequence in this build",
}
"""What the distributions are of."""


@dataclass(frozen=True)
class StatsReport:
    """What ``stats`` made: the numbers, as in ``stats.json``, and the files."""

    numbers: Numbers
    files: list[Path]


def stats(out: str | Path, *, workers: int = 1, progress: Progress = silent) -> StatsReport:
    """Count and draw what a build holds; see the module. Images measured before are not read again.

    Args:
        out: a build.
        workers: processes that measure.
        progress: of the stage ``measure``, in images.

    Raises:
        MsipError: no manifest, ``out`` cannot be written, or the extra ``plots`` is missing.
    """
    need("plots")
    manifest = Manifest.read(out)
    with LocalEngine(workers) as engine:
        measures = measure(manifest, engine=engine, progress=progress)
    numbers = _with_facts(manifest, summarise(manifest, measures))
    drawn = draw(numbers)
    samples = encode_jpeg(sample_sheet(manifest), 85)
    content = {f"{FOLDER}/{name}.svg": svg.encode() for name, svg in drawn.items()}
    content |= {
        f"{FOLDER}/stats.json": _json(numbers),
        f"{FOLDER}/samples.jpg": samples,
        f"{FOLDER}/index.html": render("page.html", numbers, drawn, samples).encode(),
        CARD_NAME: render("card.md", numbers, drawn, samples).encode(),
        CROISSANT_NAME: _json(croissant(manifest, numbers)),
    }
    for name, data in content.items():
        (manifest.root / name).parent.mkdir(exist_ok=True)
        write_bytes(manifest.root / name, data)
    return StatsReport(numbers, [manifest.root / name for name in content])


def _with_facts(manifest: Manifest, numbers: Numbers) -> Numbers:
    """The numbers with what is known of build and sources."""
    build = read_build(manifest.root) or {}
    terms = terms_of(manifest.counts())
    return {
        "version": _VERSION,
        "build": {
            "name": build.get("corpus") or manifest.root.resolve().name,
            "corpus": build.get("corpus"),
            "proposals": build.get("proposals"),
            "msip": __version__,
            "manifest_sha256": manifest.digest(),
            "sources": len(terms),
        },
        "definitions": DEFINITIONS,
        **numbers,
        "reference": {"mean": INFRARED_MEAN, "std": INFRARED_STD},
        "commercial": commercial_shares(terms),
        "terms": {item.name: item.as_dict() for item in terms},
    }


def draw(numbers: Numbers) -> dict[str, str]:
    """All plots, SVG texts by name; empty where there is nothing to draw."""
    sources = numbers["sources"]
    result = {"images": plots.bars([(name, part["images"]) for name, part in sources.items()], "images a source")}
    for name, text in DEFINITIONS.items():
        result[name] = plots.strips([(source, part[name]) for source, part in sources.items()], text)
    result["grey_levels"] = plots.histogram(numbers["overall"]["grey_levels"], 0, 256, "grey levels of all pixels")
    return {name: svg for name, svg in result.items() if svg}


def sample_sheet(manifest: Manifest) -> NDArray[np.uint8]:
    """A line of images a source, evenly spaced over its rows."""
    names = manifest.table.column("source").to_pylist()
    cells: list[NDArray[np.uint8]] = []
    for source, count in manifest.counts().items():
        rows = [row for row, name in enumerate(names) if name == source]
        for place in range(_SAMPLES):
            row = rows[min(count - 1, (2 * place + 1) * count // (2 * _SAMPLES))]
            pixels = read_pixels(manifest.path(row)) if place < count else None
            cells.append(np.zeros((3, 4), np.uint8) if pixels is None else np.asarray(to_grey(pixels), np.uint8))
    return contact_sheet(cells, columns=_SAMPLES, cell=150)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
