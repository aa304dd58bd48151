"""``RUN/report.html``: one page on a run, made of what lies in its folder and of nothing else.

Curves and figures come from metrics.jsonl, facts from run.yaml, the end from result.json, pictures from panels/. The
page needs no network, no script and no other file, so it can be mailed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from msip.errors import RunError
from msip.extras import need
from msip.files import write_bytes
from msip.formatting import human_duration, human_number
from msip.pages import data_url, fill
from msip.pictures import encode_png
from msip.sampling import evenly_spread
from pad.config.options import option
from pad.config.pretraining import RESULT, PretrainConfig, read_run
from pad.monitoring.charts import colour, line_chart
from pad.monitoring.cost import TERA
from pad.monitoring.health import COLLAPSED
from pad.monitoring.monitor import read_metrics
from pad.monitoring.panels import GAP_PX

REPORT = "report.html"
MOST_PANELS = 5  # reconstructions side by side, the first and the last among them
WHERE = ("data", "out", "resume")  # of the configuration: told elsewhere on the page


@dataclass(frozen=True)
class Chart:
    """A curve with its title, and a sentence on how to read it."""

    title: str
    note: str
    svg: Markup


def write_report(run: str | Path, *, failed: str = "") -> Path:
    """Write RUN/report.html, whole or not at all; ``failed``: why the run ended, if it did not mean to.

    Raises ``RunError`` for a folder that is no run, ``OutputError`` where it cannot be written, ``MissingExtra``
    without the extra ``plots``.
    """
    need("plots")
    run = Path(run)
    stored = read_run(run)
    if stored is None:
        raise RunError(f"{run} holds no run.yaml; give the folder of a run of `msip pretrain`.")
    metrics = read_metrics(run)
    result = json.loads((run / RESULT).read_text()) if (run / RESULT).is_file() else None
    page = fill(
        Path(__file__).with_name(REPORT),
        name=run.resolve().name,
        config=stored["config"],
        status=_status(stored, metrics, result, failed),
        failed=failed,
        tiles=tiles(stored, metrics),
        columns=_columns(run, stored["config"]["image_size"]),
        charts=charts(metrics),
        collapse=collapse(metrics),
        layers=layers(metrics),
        tables=tables(stored, metrics, result),
    )
    write_bytes(run / REPORT, page.encode())
    return run / REPORT


def _status(stored: dict[str, Any], metrics: list[dict[str, Any]], result: dict[str, Any] | None, failed: str) -> str:
    step, steps = metrics[-1]["step"] if metrics else 0, stored["plan"]["steps"]
    if failed:
        return f"failed after step {step:,} of {steps:,}"
    return f"finished: {steps:,} steps" if result else f"stopped: last log at step {step:,} of {steps:,}"


def collapse(metrics: list[dict[str, Any]]) -> str:
    """A sentence on the features' health: their spread at the start and at the end, and whether it collapsed."""
    health = [line for line in metrics if "feature_std" in line]
    if not health:
        return ""
    broken = next((line for line in health if line["feature_std"] is None), None)
    if broken:
        return f"Features were not finite at step {broken['step']:,}."
    first, last = health[0], health[-1]
    fallen = next((line for line in health if line["feature_std"] < COLLAPSED * first["feature_std"]), None)
    said = f"RankMe {human_number(first['rankme'])} to {human_number(last['rankme'])}, feature spread "
    said += f"{human_number(first['feature_std'])} to {human_number(last['feature_std'])}"
    return f"Features collapsed at step {fallen['step']:,}: {said}." if fallen else f"No collapse: {said}."


def tiles(stored: dict[str, Any], metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(figure, what it is) of the head of the page."""
    found = []
    if metrics:
        first, last = metrics[0]["loss"], metrics[-1]["loss"]
        found.append((f"{human_number(first)} → {human_number(last)}", "loss, first and last logged"))
    parameters = stored["parameters"]
    found.append(
        (human_number(parameters["trained"]), f"parameters trained, {human_number(parameters['adapters'])} in adapters")
    )
    cost = totals(stored, metrics)
    if "seconds" in cost:
        found.append((human_number(cost["images"]), f"crops of {human_number(stored['data']['images'])} images"))
        found.append((human_duration(cost["seconds"]), f"of training on {stored['device']}"))
        found.append(
            (human_number(cost["images_per_s"]), f"images/s, {100 * cost['data_wait']:.1f} % of the time waiting")
        )
    if "mfu" in cost:
        found.append((f"{100 * cost['mfu']:.1f} %", "of the GPU's peak used (MFU)"))
    return found


def totals(stored: dict[str, Any], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What the logged steps cost together: images, seconds, and means over time; steps lost to a kill not counted."""
    timed = [line for line in metrics if "seconds" in line]
    if not timed:
        return {}
    seconds = sum(line["seconds"] for line in timed)

    def mean(name: str) -> float:
        return float(sum(line[name] * line["seconds"] for line in timed) / seconds)

    images = metrics[-1]["step"] * stored["config"]["effective_batch"]
    found = {"images": images, "seconds": seconds, "images_per_s": mean("images_per_s"), "data_wait": mean("data_wait")}
    found["memory_bytes"] = max(line["memory_bytes"] for line in timed)
    if "flops_per_image" in stored:
        found["flops"] = stored["flops_per_image"] * images
    return found | ({"mfu": mean("mfu")} if all("mfu" in line for line in timed) else {})


def charts(metrics: list[dict[str, Any]]) -> list[Chart]:
    """Every curve that the run has values for."""

    def points(name: str, factor: float = 1.0) -> list[tuple[float, float]]:
        return [(line["step"], factor * line[name]) for line in metrics if line.get(name) is not None]

    scales = [line for line in metrics if line.get("scale")]
    depth = len(scales[0]["scale"]) if scales else 0
    blocks = {f"layer {i}": [(line["step"], line["scale"][i]) for line in scales] for i in range(depth)}
    asked = [
        ("Loss", "Mean of the steps since the line before.", {"": points("loss")}, {}),
        ("Learning rate", "Of the last step.", {"": points("lr")}, {"low": 0.0}),
        ("Gradient norm", "Of the last step, before clipping; spikes are worth a look.", {"": points("grad_norm")}, {}),
        (
            "RankMe",
            "Effective rank of the patch tokens; near 1 is collapse.",
            {"": points("rankme")},
            {},
        ),
        (
            "Feature spread",
            "About 1 when tokens point everywhere, 0 when all are alike.",
            {"": points("feature_std")},
            {"low": 0.0},
        ),
        ("Adapter scale", "Mean per layer, blue the first, red the last; 0.5 at the start.", blocks, {}),
        ("Images per second", "Over all processes.", {"": points("images_per_s")}, {"low": 0.0}),
        (
            "Waiting for data",
            "Per cent of the time; on a GPU an upper bound.",
            {"": points("data_wait", 100)},
            {"low": 0.0, "high": 100.0},
        ),
        ("MFU", "Per cent of the GPU's peak.", {"": points("mfu", 100)}, {"low": 0.0, "high": 100.0}),
    ]
    logarithmic = ("Gradient norm",)
    return [
        Chart(title, note, line_chart(series, log=title in logarithmic, **limits))
        for title, note, series, limits in asked
        if any(series.values())
    ]


def layers(metrics: list[dict[str, Any]]) -> list[tuple[str, float, float, str]]:
    """(layer, first mean scale, last one, its colour in the chart)."""
    lines = [line["scale"] for line in metrics if line.get("scale")]
    if not lines:
        return []
    pairs = enumerate(zip(lines[0], lines[-1], strict=True))
    return [(str(i), first, last, colour(i, len(lines[0]))) for i, (first, last) in pairs]


def tables(
    stored: dict[str, Any], metrics: list[dict[str, Any]], result: dict[str, Any] | None
) -> list[tuple[str, list[tuple[str, Any]]]]:
    """(title, rows of name and value) of the facts below the curves."""
    parameters, data, cost = stored["parameters"], stored["data"], totals(stored, metrics)
    weights = stored.get("weights") or {}
    frozen = parameters["total"] - parameters["trained"]
    head = parameters["trained"] - parameters["adapters"] - parameters["trained_trunk"]
    what = [("in all", parameters["total"]), ("frozen", frozen), ("trained", parameters["trained"])]
    what += [("of these, adapters", parameters["adapters"]), ("trunk", parameters["trained_trunk"]), ("head", head)]
    from_where = [("images", data["images"]), ("left out by flag", data["excluded"]), ("stored as", data["layout"])]
    from_where += [("folder", data["root"]), ("manifest, SHA-256", data["manifest_sha256"])]
    if weights:
        lists = [(name, len(weights[name])) for name in ("missing", "unexpected", "reshaped")]
        from_where += [("weights from", weights["source"]), ("their layout", weights["layout"])]
        from_where += [(f"tensors {name}", count) for name, count in lists]
    return [
        ("Cost", _cost_rows(stored, cost, result)),
        ("Parameters", what),
        ("Data and weights", from_where),
        ("Schedule", [(name.replace("_", " "), value) for name, value in stored["plan"].items()]),
        ("Options", _options(stored["config"])),
        ("Versions", [*stored["versions"].items(), ("commit", stored["git_commit"])]),
    ]


def _cost_rows(stored: dict[str, Any], cost: dict[str, Any], result: dict[str, Any] | None) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("device", stored["device"]), ("reading processes", stored["workers"])]
    config = stored["config"]
    world = config["effective_batch"] // (config["batch_size"] * config["accumulate"])
    rows.append(("training processes", world))
    if cost:
        rows += [("training time", human_duration(cost["seconds"])), ("images seen", cost["images"])]
        rows += [("images per second", cost["images_per_s"]), ("waiting for data", f"{100 * cost['data_wait']:.1f} %")]
        rows.append(("device hours", world * cost["seconds"] / 3600))
        rows.append(("peak memory", f"{cost['memory_bytes'] / 2**30:.2f} GiB"))
    if "flops_per_image" in stored:
        rows.append(("model FLOPs of an image", f"{stored['flops_per_image'] / 1e9:,.2f} G"))
    if "flops" in cost:
        rows.append(("model FLOPs in all", f"{cost['flops'] / TERA:,.2f} T"))
    if "mfu" in cost:
        rows.append(("MFU", f"{100 * cost['mfu']:.1f} %"))
    if result and result.get("estimated_s") is not None:
        rows.append(("expected before the first step", human_duration(result["estimated_s"])))
    if result:
        rows.append(("images that could not be read", result["unreadable_images"]))
    rows += [("continued at step", _continued(entry)) for entry in stored.get("continued", [])]
    return rows


def _continued(entry: dict[str, Any]) -> str:
    """The step, and options that were changed there."""
    changed = [
        f"{option(name)} {human_number(entry[name])}, before {human_number(was)}"
        for name, was in entry.get("before", {}).items()
    ]
    return ", ".join([human_number(entry["step"]), *changed])


def _options(config: dict[str, Any]) -> list[tuple[str, Any]]:
    """What differs from the defaults; the others are in run.yaml."""
    defaults = {name: field.default for name, field in PretrainConfig.model_fields.items()}
    told = {name: value for name, value in config.items() if name in defaults and name not in WHERE}
    empty: tuple[Any, ...] = (None, [])  # as YAML has what was not given
    return [
        (f"--{name.replace('_', '-')}", value)
        for name, value in told.items()
        if value not in empty and value != defaults[name]
    ]


def _columns(run: Path, side: int) -> list[tuple[str, str]]:
    """(caption, PNG as data URL): input and masked input once, then the reconstruction through the run."""
    panels = sorted((run / "panels").glob("step-*.png"))
    found: list[tuple[str, str]] = []
    for index in evenly_spread(len(panels), MOST_PANELS):
        picture = cv2.imread(str(panels[index]), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            continue
        *before, last = _split(picture, side)
        if not found:
            found = [(name, _url(column)) for name, column in zip(("input", "what is seen"), before, strict=False)]
        found.append((f"step {int(panels[index].stem.removeprefix('step-')):,}", _url(last)))
    return found


def _split(picture: NDArray[Any], side: int) -> list[NDArray[Any]]:
    return [picture[:, left : left + side] for left in range(0, picture.shape[1], side + GAP_PX)]


def _url(picture: NDArray[Any]) -> str:
    return data_url(encode_png(np.ascontiguousarray(picture)))
