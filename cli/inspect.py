"""``msip inspect``."""

from __future__ import annotations

import contextlib
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from msip.inspection.app import check_port, ssh_line

from .options import Json, Out
from .output import StageBars, print_json, print_line, print_table, warn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from msip.inspection.dataset import Inspection
    from msip.inspection.tags import PullReport
    from msip.manifest import Manifest


def inspect(
    out: Out,
    no_launch: Annotated[
        bool, typer.Option("--no-launch", help="Import, save the views, print their counts, and return.")
    ] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Serve until interrupted; open no browser here.")] = False,
    address: Annotated[str, typer.Option(help="Where the App listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where the App listens.")] = 5151,
    seed: Annotated[int, typer.Option(min=0, help="Of the training crops.")] = 0,
    epoch: Annotated[int, typer.Option(min=0, help="Of the training crops.")] = 0,
    per_image: Annotated[int, typer.Option(min=1, max=64, help="Training crops an image.")] = 4,
    embeddings: Annotated[
        str | None, typer.Option(help="A run, weights or timm:NAME: map, similarity, uniqueness.")
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(min=1, help="Only this many images, spread evenly.", show_default="all")
    ] = None,
    pull_tags: Annotated[
        bool, typer.Option("--pull-tags", help="Write tags given in the App to the manifest's flags, and return.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Look at a build, its RoIs and its training crops in the FiftyOne App."""
    import msip

    if pull_tags:
        _pull(msip.pull_tags(out), out, as_json)
        return
    if not no_launch:
        check_port(address, port)
    with StageBars(quiet=as_json) as bars:
        result = msip.inspect(
            out,
            seed=seed,
            epoch=epoch,
            per_image=per_image,
            max_samples=max_samples,
            embeddings=None if embeddings is None else partial(_features, embeddings, bars),
            progress=bars,
        )
    _report(result, out, as_json)
    if not no_launch:
        _serve(result, address, port, remote)


def _features(weights: str, bars: StageBars, manifest: Manifest) -> NDArray[np.float32]:
    import pad

    return pad.image_features(weights, manifest, progress=bars)


def _pull(report: PullReport, out: Path, as_json: bool) -> None:
    if as_json:
        print_json(vars(report))
        return
    print_line(f"{report.images:,} images of {out} have other flags now.")
    rows = [[flag, report.added.get(flag, 0), report.removed.get(flag, 0)] for flag in report.added | report.removed]
    if rows:
        print_table(["flag", "added", "removed"], rows)


def _report(result: Inspection, out: Path, as_json: bool) -> None:
    if result.missing:
        warn(f"{len(result.missing):,} images are not where the manifest says (the first: {result.missing[0]}).")
    if as_json:
        print_json(result.as_dict())
        return
    print_table(["view", "holds", "", "shows"], [[v.name, v.holds, v.kind, v.shows] for v in result.views])
    done = f"{result.added:,} added, {result.changed:,} changed, {result.removed:,} removed"
    if all(view.name != "RoI crops" for view in result.views):
        print_line(f"There are no RoIs yet: `msip rois {out}` makes them.")
    print_line(f"{len(result.dataset):,} images in the FiftyOne dataset {result.dataset.name} ({done}).")


def _serve(result: Inspection, address: str, port: int, remote: bool) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's end is as clean as Ctrl-C
    with contextlib.suppress(KeyboardInterrupt):
        session = result.launch(address=address, port=port, remote=remote)
        print_line(f"The App is at http://{address}:{port}/datasets/{result.dataset.slug}; end it with Ctrl-C.")
        if remote:
            print_line(f"From another machine: {ssh_line(port)}, then open http://127.0.0.1:{port}.")
        sys.stdout.flush()
        session.wait(-1)
