"""Raw trees to a manifest: parallel, incremental, idempotent, killed and continued.

Every finished batch is in a ledger on disk (``OUT/.msip``); the manifest is assembled from the ledgers, so it has the
same bytes whatever the number of workers and however often the build was interrupted.

Images are renamed into place but not flushed one by one; all is flushed once, before the manifest names it. What that
means after a power cut is ``msip.durability``'s.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from msip import radiometry
from msip.build_remarks import shared_glob
from msip.build_report import BUILD_NAME, BuildReport, SourceReport, likely_causes, read_build
from msip.choosing import Choice
from msip.durability import drop_torn, flush, mark_unflushed, went_down
from msip.engine import ENGINES, Engine, EngineName
from msip.errors import LayoutError, ManifestError, OptionError, OutputError, SourceError
from msip.extras import EXTRAS, need
from msip.files import free_bytes, local_path, make_output_folder, only_writer, write_json
from msip.formatting import human_bytes
from msip.frames import FrameList, list_folder, list_frames, number, printable, unusable_name
from msip.ledger import Ledger
from msip.manifest import MANIFEST_NAME, SCHEMA, Manifest, carried_flags, flag_name, join_tables
from msip.process import (
    ENTRY_SCHEMA,
    PEAK_SCHEMA,
    RECIPE_VERSION,
    Batch,
    Recipe,
    peak_batch,
    process_batch,
)
from msip.progress import Progress, silent
from msip.proposals import add_rois, recorded_proposals, write_roi_txt
from msip.radiometry.suspects import VISIBLE_PHOTO
from msip.sources import Corpus, Source, load_corpus, load_source
from msip.trees import file_stat, is_remote, raw_tree, remote_errors
from msip.version import __version__

_BATCH = 64


@dataclass
class Plan:
    """One source of a build, before anything is written."""

    recipe: Recipe
    listing: FrameList
    report: SourceReport
    source: Source | None = None
    stats: list[tuple[int, int]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The source's name: the folder in OUT and the first part of every image id."""
        return self.recipe.source


def build(
    raw: str | Path | None,
    out: str | Path,
    *,
    corpus: str | Path = "msip",
    sources: Sequence[str] | None = None,
    folder: str | Path | None = None,
    workers: int = 1,
    name: str | None = None,
    agc: radiometry.AgcMethod = "percentile",
    agc_window: tuple[int, int] | None = None,
    keep_blank: bool = False,
    channel: int | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    every: int = 1,
    with_rois: bool = True,
    roi_txt: bool = False,
    dry_run: bool = False,
    engine: EngineName = "local",
    progress: Progress = silent,
) -> BuildReport:
    """Build a corpus from raw trees, or a data set from a folder of one's own frames.

    Args:
        raw: the folder (or fsspec URL) that holds the published trees; ``None`` with ``folder``.
        out: the folder to build in; what an earlier build left there is reused where it still holds.
        corpus: a name, or the path of a corpus file.
        sources: build only these of the corpus.
        folder: anyone's own frames (a folder or an fsspec URL), recursively, instead of a corpus.
        workers: processes.
        name: the source name for ``folder``; the folder's own name by default.
        agc, agc_window: how 16-bit frames become 8-bit (see ``msip.radiometry.to_8bit``).
        keep_blank: with ``folder``: keep constant frames, flagged.
        channel: with ``folder``: store this channel alone (1 = first as stored: red, green, blue, alpha).
        include, exclude, every: with ``folder``: which frames are taken (see ``msip.choosing.Choice``).
        with_rois: compute RoIs.
        roi_txt: also write ``<source>/roi/<stem>.txt``.
        dry_run: only list and estimate; nothing is written.
        engine: ``local``: processes of this machine; ``ray``: a Ray cluster (see ``msip.engine.RayEngine``).
        progress: one stage a source, then ``RoIs``, in images.

    Returns:
        Counts, problems and likely causes per source. Where no frame could be used, ``images`` is 0, build.json is
        written and no manifest.

    Raises:
        MsipError: one sentence on what was found, what was expected and what to do.
    """
    out = local_path(out)
    raw, folder = (None if place is None else raw_tree(place) for place in (raw, folder))
    tree = raw if folder is None else folder
    _refuse_memory(tree, workers, engine)
    for extra in {agc, engine} & EXTRAS.keys():  # `clahe` and `ray` are called as their extras are
        need(extra)
    with remote_errors(tree) if tree is not None and is_remote(tree) else contextlib.nullcontext():
        recipe = Recipe("", channel=channel, agc=agc, agc_window=agc_window, keep_blank=keep_blank)
        choice = Choice(tuple(include), tuple(exclude), every)
        plans, corpus_name = _plan(raw, out, corpus, sources, folder, name, recipe, choice)
        report = BuildReport([plan.report for plan in plans], corpus_name, dry_run=dry_run)
        _measure(plans, report, out)
    if dry_run:
        return report
    make_output_folder(out)
    with only_writer(out, out / ".msip" / "lock", "build"), ENGINES[engine](workers) as runner:
        _refuse_full_disk(report, out)
        if went_down(out):
            folders = sorted(_ledgers(out).glob("*/*"))  # of all sources: the mark goes when this build ends
            ledgers = (Ledger(folder, ENTRY_SCHEMA, "source_path").read() for folder in folders)
            drop_torn(out, ledgers, progress)
        mark_unflushed(out)
        tables = [_build_source(plan, out, runner, progress) for plan in plans]
        manifest = _assemble(out, plans, tables, report)
        if with_rois and len(manifest):
            proposals = recorded_proposals(out)  # what `msip rois --proposals` chose stays
            manifest = add_rois(manifest, engine=runner, proposals=proposals, progress=progress)
            report.rois, report.proposals = _count_rois(manifest), proposals
        if roi_txt and len(manifest):
            write_roi_txt(manifest)
        _write(out, manifest, plans, report, _accepted(raw))
    return report


def _refuse_memory(tree: Path | None, workers: int, engine: EngineName) -> None:
    if (
        tree is not None
        and is_remote(tree)
        and tree.as_uri().startswith("memory:")
        and (workers > 1 or engine != "local")
    ):
        raise OptionError("memory: is the memory of this process alone; build from it with `workers=1`.")


def _plan(
    raw: Path | None,
    out: Path,
    corpus: str | Path,
    sources: Sequence[str] | None,
    folder: Path | None,
    name: str | None,
    recipe: Recipe,
    choice: Choice,
) -> tuple[list[Plan], str | None]:
    if recipe.agc == "window" and recipe.agc_window is None:
        raise OptionError("`agc=window` needs `agc_window`: the two counts that become black and white.")
    if folder is not None:
        if raw is not None or sources:
            other = "`sources`" if raw is None else "`raw`"
            raise OptionError(
                f"`folder` does not go with {other}: your own frames come from `folder`, a corpus from `raw`; "
                "leave one of them out."
            )
        return [_plan_folder(folder, out, name, recipe, choice)], None
    if raw is None:
        raise OptionError("nothing to build from: give `raw` for a corpus, or `folder` for your own frames.")
    if own := [*choice.as_dict(), *(["channel"] if recipe.channel else [])]:
        raise OptionError(f"`{own[0]}` chooses among your own frames: it goes with `folder`; leave it out.")
    chosen = load_corpus(corpus)
    return _plan_corpus(chosen, raw, out, sources, recipe), chosen.name


def _plan_folder(folder: Path, out: Path, name: str | None, recipe: Recipe, choice: Choice) -> Plan:
    if recipe.channel is not None and not 1 <= recipe.channel <= 4:
        raise OptionError(f"`channel` is {recipe.channel}, expected 1 to 4: red, green, blue, alpha.")
    listing = list_folder(folder, exclude=out, choice=choice)
    name = name or folder.resolve().name
    if not name or name in (".", "..", ".msip") or any(sign in name for sign in "/\\\0"):
        raise SourceError(f"{name!r} cannot name a source: it becomes a folder of the output; choose another `name`.")
    if (reason := unusable_name(name)) is not None:
        raise SourceError(f"{printable(name)} cannot name a source: {reason}; choose another `name`.")
    if is_remote(folder) or folder.resolve() not in out.resolve().parents:  # inside, OUT is left out as a whole
        _refuse_among_frames(out, name, folder)
    return Plan(replace(recipe, source=name), listing, SourceReport(name, choice=choice.as_dict()))


def _refuse_among_frames(out: Path, name: str, frames: Path) -> None:
    """Stored images among the frames would be frames of the next build, or replace those that they are made from."""
    stored = out / name / "thermal"
    if is_remote(frames):
        return
    if stored.resolve().is_relative_to(frames.resolve()) or frames.resolve().is_relative_to(stored.resolve()):
        raise OutputError(
            f"the images would be stored in {stored}, among the frames in {frames} that they are made from; choose "
            "another `out`."
        )


def _plan_corpus(
    corpus: Corpus,
    raw: Path,
    out: Path,
    sources: Sequence[str] | None,
    base: Recipe,
) -> list[Plan]:
    for name in sources or ():
        if name not in corpus.sources:
            raise SourceError(f"{name!r} is not in the corpus {corpus.name}; it has {', '.join(corpus.sources)}.")
    plans, absent = [], []
    for name, expected in corpus.sources.items():
        if sources and name not in sources:
            continue
        source = load_source(name)
        try:
            listing = list_frames(source, raw)
        except LayoutError as error:
            absent.append((name, str(error)))
            continue
        _refuse_among_frames(out, name, listing.root)
        recipe = Recipe(
            name,
            source.selection.split,
            source.licence.name,
            agc=base.agc,
            agc_window=base.agc_window,
            **source.transform.model_dump(),
        )
        report = SourceReport(name, expected=None if expected == "unknown" else expected)
        plans.append(Plan(recipe, listing, report, source))
    if absent:
        raise LayoutError(_absent_message(absent, [plan.name for plan in plans], raw))
    return plans


def _absent_message(absent: list[tuple[str, str]], present: list[str], raw: Path) -> str:
    if len(absent) == 1:
        message = absent[0][1]
    else:
        names = ", ".join(name for name, _ in absent)
        message = f"{len(absent)} sources are not under {raw}: {names}; the first: {absent[0][1]}"
    if present:
        message += " To build only what is there: " + " ".join(f"`sources={name}`" for name in present) + "."
    return message


def _measure(plans: list[Plan], report: BuildReport, out: Path) -> None:
    """Ask the size of the selected raw files: for the ledgers, and as an estimate of the disk needed."""
    for plan in plans:
        plan.stats = [file_stat(plan.listing.root / frame.source_path) for frame in plan.listing.frames]
        source = plan.report
        source.seen, source.sequences = plan.listing.seen, plan.listing.sequences
        source.strays, source.leftovers = dict(plan.listing.strays), dict(plan.listing.leftovers)
        source.twins, source.examples = plan.listing.twins, plan.listing.examples
        source.selected = source.images = len(plan.listing.frames)
        source.stored_bytes = sum(size for size, _ in plan.stats)
        report.needed_bytes += source.stored_bytes
    report.free_bytes = free_bytes(out)


def _refuse_full_disk(report: BuildReport, out: Path) -> None:
    """Only a build that is new to ``out`` is refused: of a continued one, most is already there."""
    if report.needed_bytes > report.free_bytes and not _ledgers(out).exists():
        raise OutputError(
            f"{out} has {human_bytes(report.free_bytes)} free, about {human_bytes(report.needed_bytes)} are needed; "
            "free space, choose another `out` or fewer `sources`."
        )


def _build_source(plan: Plan, out: Path, engine: Engine, progress: Progress) -> pa.Table:
    """Store all frames of one source. Returns its ledger entries in output order, problems among them."""
    _drop_dark(plan, out, engine, progress)
    ledger = _frames_ledger(plan, out)
    done = _still_valid(plan, out, ledger)
    plan.report.done_before = sum(done)
    total = len(plan.listing.frames)
    progress(plan.name, plan.report.done_before, total)
    todo = [index for index, valid in enumerate(done) if not valid]
    ledger.drop_others()  # before the images that they tell of are replaced, or a return to them would trust these
    for entries in engine.run(process_batch, _batches(plan, out, todo, flush=not engine.one_machine)):
        ledger.append(entries)
        progress(plan.name, len(entries), total)
    return ledger.finish([frame.source_path for frame in plan.listing.frames])


def _ledgers(out: Path) -> Path:
    return out / ".msip" / "frames"


def _frames_ledger(plan: Plan, out: Path) -> Ledger:
    return Ledger(_ledgers(out) / plan.name / plan.recipe.digest()[:16], ENTRY_SCHEMA, "source_path")


def _batches(plan: Plan, out: Path, indices: Sequence[int], *, flush: bool = False) -> Iterator[Batch]:
    for start in range(0, len(indices), _BATCH):
        chosen = indices[start : start + _BATCH]
        frames = [plan.listing.frames[index] for index in chosen]
        yield Batch(plan.listing.root, out, plan.recipe, frames, [plan.stats[index] for index in chosen], flush)


def _still_valid(plan: Plan, out: Path, ledger: Ledger) -> list[bool]:
    """Per frame: an entry exists for the same raw file under the same name, and the stored file is as it was."""
    table = ledger.read()
    rows = ledger.index(table)
    columns = ("raw_bytes", "raw_mtime_ns", "problem", "image_id", "path", "stored_bytes")
    values = {name: table.column(name).to_pylist() for name in columns}
    result = []
    for frame, stat in zip(plan.listing.frames, plan.stats, strict=True):
        row = rows.get(frame.source_path)
        valid = row is not None and (values["raw_bytes"][row], values["raw_mtime_ns"][row]) == stat
        if valid and values["problem"][row] is None:
            valid = values["image_id"][row] == f"{plan.name}/{frame.stem}"
            valid = valid and file_stat(out / values["path"][row])[0] == values["stored_bytes"][row]
        result.append(valid)
    return result


def _drop_dark(plan: Plan, out: Path, engine: Engine, progress: Progress) -> None:
    """Drop frames below the source's peak, after the stride, before they are numbered (as the reference does)."""
    least = plan.source.selection.min_peak_grey if plan.source else None
    if least is None:
        return
    ledger = Ledger(out / ".msip" / "peaks" / plan.name / "v1", PEAK_SCHEMA, "source_path")
    table = ledger.read()
    rows = ledger.index(table)
    sizes, mtimes = table.column("raw_bytes").to_pylist(), table.column("raw_mtime_ns").to_pylist()
    paths = [frame.source_path for frame in plan.listing.frames]
    known = [
        (path in rows and (sizes[rows[path]], mtimes[rows[path]]) == stat)
        for path, stat in zip(paths, plan.stats, strict=True)
    ]
    stage, total = f"{plan.name} (dark filter)", len(paths)
    progress(stage, sum(known), total)
    todo = [index for index, is_known in enumerate(known) if not is_known]
    for entries in engine.run(peak_batch, _batches(plan, out, todo)):
        ledger.append(entries)
        progress(stage, len(entries), total)
    peaks = ledger.finish(paths).column("peak").to_pylist()
    # An unreadable frame keeps its place: it is reported as broken, and the others keep their numbers.
    keep = [index for index, peak in enumerate(peaks) if peak is None or peak >= least]
    plan.report.dropped_dark = total - len(keep)
    plan.listing.frames = [plan.listing.frames[index] for index in keep]
    plan.stats = [plan.stats[index] for index in keep]
    if plan.source and plan.source.naming == "numbered":
        number(plan.listing)


def _assemble(out: Path, plans: list[Plan], tables: list[pa.Table], report: BuildReport) -> Manifest:
    """Join the sources' rows, with those of sources that an earlier build left here, and flags given since."""
    parts, earlier = {}, _earlier(out)
    for plan, table in zip(plans, tables, strict=True):
        _fill_report(plan, table)
        parts[plan.name] = _rows(table.filter(pc.is_null(table.column("problem"))))
    for name, table in _by_source(earlier).items():
        if name not in parts:
            parts[name] = Manifest(table, out).with_flags([[]] * len(table)).table  # they come back below
            report.kept[name] = len(table)
    joined = join_tables([parts[name] for name in _source_order(parts)])
    if len(joined) == 0 and len(earlier):
        raise ManifestError(f"no frame could be used, what an earlier build left stays; {_first_problem(plans)}.")
    manifest = Manifest(joined, out)
    return manifest.with_flags(carried_flags(joined, earlier))


def _first_problem(plans: list[Plan]) -> str:
    return next((f"the first: {path}: {reason}" for plan in plans for path, _, reason in plan.report.problems), "")


def _rows(entries: pa.Table) -> pa.Table:
    no_rois = pa.nulls(len(entries), SCHEMA.field("rois").type)
    return entries.append_column(SCHEMA.field("rois"), no_rois)


def _earlier(out: Path) -> pa.Table:
    """What an earlier build left; empty if none did."""
    return Manifest.read(out).table if (out / MANIFEST_NAME).exists() else SCHEMA.empty_table()


def _by_source(table: pa.Table) -> dict[str, pa.Table]:
    names = table.column("source").unique().to_pylist()
    return {name: table.filter(pc.equal(table.column("source"), name)) for name in names}


def _source_order(parts: dict[str, pa.Table]) -> list[str]:
    """MSIP's order first, then the others by name."""
    order = list(load_corpus("msip").sources)
    return sorted(parts, key=lambda name: (order.index(name) if name in order else len(order), name))


def _fill_report(plan: Plan, table: pa.Table) -> None:
    report = plan.report
    failed = table.filter(pc.is_valid(table.column("problem")))
    columns = (failed.column(name).to_pylist() for name in ("source_path", "problem", "reason"))
    report.problems = [(path, "broken", reason) for path, reason in plan.listing.problems]
    report.problems += list(zip(*columns, strict=True))
    report.images = len(table) - len(failed)
    report.stored_bytes = pc.sum(table.column("stored_bytes")).as_py() or 0
    flags = pc.list_flatten(table.column("flags")).to_pylist()
    report.flags = dict(sorted(Counter(map(flag_name, flags)).items()))
    report.suspects = _suspects(table) if plan.source is None else {}
    if plan.source is not None:
        sequences = plan.source.sequences
        report.causes = likely_causes(
            report, plan.source.selection.stride, sequences if isinstance(sequences, int) else None
        )


def _suspects(table: pa.Table) -> dict[str, tuple[int, str, str]]:
    """The stored images of one's own per flag that a build gives; photographs count as such, not as false colour."""
    paths, flags = (table.column(name).to_pylist() for name in ("source_path", "flags"))
    flagged: dict[str, list[str]] = {}
    for path, names in zip(paths, flags, strict=True):
        for flag in set(names or ()) - ({"colour_mapped"} if VISIBLE_PHOTO in (names or ()) else set()):
            flagged.setdefault(flag, []).append(path)
    return {flag: (len(some), some[0], shared_glob(some, paths)) for flag, some in sorted(flagged.items())}


def _count_rois(manifest: Manifest) -> int:
    return int(pc.sum(pc.list_value_length(manifest.table.column("rois"))).as_py() or 0)


def _accepted(raw: Path | None) -> dict[str, Any]:
    """Per source, the terms that were accepted when ``msip download`` brought it."""
    from msip.download.terms import accepted_terms

    return accepted_terms(raw) if raw is not None else {}


def _write(out: Path, manifest: Manifest, plans: list[Plan], report: BuildReport, accepted: dict[str, Any]) -> None:
    """Put the results under their final names; first the report, then the manifest, then tidy up."""
    record = read_build(out) or {"sources": {}}
    kept = {name: entry for name, entry in record["sources"].items() if name in report.kept}
    built = {plan.name: {"recipe": _recipe_record(plan.recipe)} | plan.report.as_dict() for plan in plans}
    for name in accepted.keys() & built.keys():
        built[name]["terms"] = accepted[name]
    write_json(
        out / BUILD_NAME,
        {
            "corpus": report.corpus or record.get("corpus"),
            "images": len(manifest),
            "rois": report.rois,
            "proposals": report.proposals,
            "sources": kept | built,
            "versions": versions(),
        },
    )
    flush(out, then=manifest.write if len(manifest) else lambda: None)
    for plan in plans:
        _remove_orphans(out, plan.name, manifest)


def _recipe_record(recipe: Recipe) -> dict[str, Any]:
    return asdict(recipe) | {"version": RECIPE_VERSION, "sha256": recipe.digest()}


def versions() -> dict[str, str]:
    """Of everything that decides the bytes of a build."""
    import cv2
    import numpy as np
    import PIL

    return {"msip": __version__, "opencv": cv2.__version__, "numpy": np.__version__, "pillow": PIL.__version__}


def _remove_orphans(out: Path, source: str, manifest: Manifest) -> None:
    """Delete stored images that are no longer in the manifest: trainers read the folder, not the manifest."""
    table = manifest.table
    paths = table.column("path").filter(pc.equal(table.column("source"), source)).to_pylist()
    wanted = {path.rsplit("/", 1)[1] for path in paths}
    folder = out / source / "thermal"
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name not in wanted:
            file.unlink()
