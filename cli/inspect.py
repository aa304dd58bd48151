"""``msip inspect``."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import Json, Out
from .output import StageBars, print_json, print_line, print_table, warn

if TYPE_CHECKING:
    from msip.inspection.dataset import Inspection


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
    from msip.inspection.database import connect
    from msip.manifest import Manifest

    Manifest.read(out)  # before FiftyOne's five seconds
    if not (no_launch or pull_tags):
        from msip.inspection.app import check_port

        check_port(address, port)
    fiftyone = connect()
    if pull_tags:
        _pull(fiftyone, out, as_json)
        return
    result = _import(fiftyone, out, seed, epoch, per_image, max_samples, as_json)
    if embeddings is not None:
        _embed(fiftyone, result, embeddings, as_json)
    _report(result, out, as_json)
    if not no_launch:
        _serve(fiftyone, result.dataset, address, port, remote)


def _pull(fiftyone: Any, out: Path, as_json: bool) -> None:
    from msip.inspection.tags import pull_tags

    report = pull_tags(fiftyone, out)
    if as_json:
        print_json(vars(report))
        return
    print_line(f"{report.images:,} images of {out} have other flags now.")
    rows = [[flag, report.added.get(flag, 0), report.removed.get(flag, 0)] for flag in report.added | report.removed]
    if rows:
        print_table(["flag", "added", "removed"], rows)


def _import(
    fiftyone: Any, out: Path, seed: int, epoch: int, per_image: int, max_samples: int | None, as_json: bool
) -> Inspection:
    from msip.inspection.dataset import Draw, inspect

    with StageBars(quiet=as_json) as bars:
        return inspect(
            fiftyone,
            out,
            draw=Draw(seed, epoch, per_image),
            max_samples=max_samples,
            progress=bars,
        )


def _embed(fiftyone: Any, result: Inspection, weights: str, as_json: bool) -> None:
    from msip.inspection.embeddings import add_embeddings
    from pad.inference.features import image_features

    with StageBars(quiet=as_json) as bars:
        features = image_features(
            weights, result.rows.manifest, progress=lambda done, total: bars("features", done, total)
        )
    add_embeddings(fiftyone, result.dataset, result.rows.sample_ids, features)


def _report(result: Inspection, out: Path, as_json: bool) -> None:
    if result.missing:
        warn(f"{len(result.missing):,} images are not where the manifest says (the first: {result.missing[0]}).")
    images = len(result.dataset)
    summary = {
        "dataset": result.dataset.name,
        "images": images,
        "added": result.added,
        "changed": result.changed,
        "removed": result.removed,
        "missing": len(result.missing),
        "views": {view.name: view.holds for view in result.views},
    }
    if as_json:
        print_json(summary)
        return
    print_table(["view", "holds", "", "shows"], [[v.name, v.holds, v.kind, v.shows] for v in result.views])
    done = f"{result.added:,} added, {result.changed:,} changed, {result.removed:,} removed"
    if all(view.name != "RoI crops" for view in result.views):
        print_line(f"There are no RoIs yet: `msip rois {out}` makes them.")
    print_line(f"{images:,} images in the FiftyOne dataset {result.dataset.name} ({done}).")


def _serve(fiftyone: Any, dataset: Any, address: str, port: int, remote: bool) -> None:
    from msip.inspection.app import launch, ssh_line

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a supervisor's end is as clean as Ctrl-C
    with contextlib.suppress(KeyboardInterrupt):
        session = launch(fiftyone, dataset, address=address, port=port, remote=remote)
        print_line(f"The App is at http://{address}:{port}/datasets/{dataset.slug}; end it with Ctrl-C.")
        if remote:
            print_line(f"From another machine: {ssh_line(port)}, then open http://127.0.0.1:{port}.")
        sys.stdout.flush()
        session.wait(-1)
