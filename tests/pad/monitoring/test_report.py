"""RUN/report.html: every figure on it is one of the run's own files."""

import html
import json
import re

import pytest
import yaml
from training_runs import config, heard, make_manifest, train

from msip.errors import RunError
from pad.monitoring.charts import Scale, line_chart, thinned
from pad.monitoring.monitor import read_metrics
from pad.monitoring.report import charts, collapse, layers, tables, tiles, totals, write_report
from pad.training.pretrain import pretrain


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    data = make_manifest(folder / "data").root
    with heard() as said:
        pretrain(config(data, folder / "run", epochs=4, log_every=1, scale_freeze=0.1))
    assert any("report.html" in line for line in said)
    return folder / "run"


def page(run):
    return (run / "report.html").read_text()


def chart(run, title):
    """The series of one chart, read off the page: {name: [(step, value)]}."""
    block = re.search(rf"<h3>{title}</h3>.*?</svg>", page(run), re.S)[0]
    found = {}
    for text in re.findall(r"<title>(.*?)</title>", block):
        name, step, value = re.fullmatch(r"(?:(.*), )?step ([\d,]+): (.*)", text).groups()
        found.setdefault(name, []).append((int(step.replace(",", "")), float(value)))
    return found


@pytest.mark.parametrize(
    ("title", "name", "factor"),
    [
        ("Loss", "loss", 1),
        ("Learning rate", "lr", 1),
        ("Gradient norm", "grad_norm", 1),
        ("RankMe", "rankme", 1),
        ("Feature spread", "feature_std", 1),
        ("Images per second", "images_per_s", 1),
        ("Waiting for data", "data_wait", 100),
    ],
)
def test_curves_are_the_lines_of_metrics(run, title, name, factor):
    lines = [(line["step"], line[name] * factor) for line in read_metrics(run) if name in line]
    assert len(lines) > 1
    read = chart(run, title)[None]
    assert [step for step, _ in read] == [step for step, _ in lines]
    assert [value for _, value in read] == pytest.approx([value for _, value in lines], rel=1e-5)


def test_every_layer_has_its_scale(run):
    lines = read_metrics(run)
    read = chart(run, "Adapter scale")
    depth = len(lines[0]["scale"])
    assert list(read) == [f"layer {i}" for i in range(depth)]
    for i in range(depth):
        assert [v for _, v in read[f"layer {i}"]] == pytest.approx([line["scale"][i] for line in lines], rel=1e-5)
    table = [(first, last) for _, first, last, _ in layers(lines)]
    assert table == list(zip(lines[0]["scale"], lines[-1]["scale"], strict=True))


def test_figures_are_those_of_the_runs_files(run):
    metrics, stored = read_metrics(run), yaml.safe_load((run / "run.yaml").read_text())
    result = json.loads((run / "result.json").read_text())
    text = html.unescape(re.sub(r"\s+", " ", page(run)))
    assert f"{metrics[0]['loss']:.4g} → {metrics[-1]['loss']:.4g}" in text
    assert f"{result['trained_parameters']:,}" in text and f"{result['adapter_parameters']:,} in adapters" in text
    seconds = sum(line["seconds"] for line in metrics)
    cost = totals(stored, metrics)
    assert cost["seconds"] == seconds and cost["images"] == metrics[-1]["step"] * 8
    assert cost["images_per_s"] == pytest.approx(cost["images"] / seconds, rel=0.05)
    assert cost["flops"] == stored["flops_per_image"] * cost["images"]
    rows = {name: value for _, rows in tables(stored, metrics, result) for name, value in rows}
    assert rows["of these, adapters"] + rows["head"] + rows["trunk"] == rows["trained"] == result["trained_parameters"]
    assert rows["images"] == 24 and rows["manifest, SHA-256"] == stored["data"]["manifest_sha256"]
    assert rows["--epochs"] == 4 and rows["--image-size"] == 32 and "--weight-decay" not in rows
    for figure, _ in tiles(stored, metrics):
        assert figure in text
    assert "finished: 12 steps" in text and str(stored["data"]["manifest_sha256"]) in text


def test_page_stands_alone(run):
    text = page(run)
    assert not re.search(r"https?://|<script|<link|url\(", text)
    images = re.findall(r'<img src="(.*?)"', text)
    assert len(images) == 2 + 5 and all(image.startswith("data:image/png;base64,") for image in images)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert captions[:3] == ["input", "what is seen", "step 0"] and captions[-1] == "step 12"
    assert not list(run.glob(".report*"))


def test_a_lost_page_is_made_again(run):
    before = page(run)
    (run / "report.html").unlink()
    stored = yaml.safe_load((run / "run.yaml").read_text())["config"]
    again = config(stored["data"], run, epochs=4, resume="auto", log_every=1, scale_freeze=0.1)
    assert train(again).status == "already finished"
    assert page(run) == before


def test_stopped_and_failed_runs_have_a_page_too(run, tmp_path):
    for name in ("run.yaml", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    write_report(tmp_path)
    assert "stopped: last log at step 12 of 12" in page(tmp_path) and "<figure>" not in page(tmp_path)
    write_report(tmp_path, failed="the loss is <not> finite")
    assert "failed after step 12" in page(tmp_path) and "the loss is &lt;not&gt; finite" in page(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    write_report(tmp_path)
    assert "Nothing was logged" in page(tmp_path)
    with pytest.raises(RunError, match=r"no run\.yaml"):
        write_report(tmp_path / "nowhere")


def test_collapse_is_said():
    lines = [{"step": s, "loss": 1.0, "feature_std": f, "rankme": 5.0} for s, f in ((1, 0.9), (5, 0.05), (9, 0.04))]
    assert collapse(lines).startswith("Features collapsed at step 5")
    assert collapse(lines[:1]).startswith("No collapse") and collapse([]) == ""
    lines.append({"step": 7, "loss": 1.0, "rankme": None, "feature_std": None})
    assert collapse(lines) == "Features were not finite at step 7."
    assert next(chart for chart in charts(lines) if chart.title == "RankMe")


def test_points_lie_where_the_axis_says():
    """Tick labels and points are read off the SVG and must tell the same value."""
    values = [(step, 0.3 + 0.01 * step) for step in range(10, 60)]
    svg = str(line_chart({"": values}))
    ticks = [(float(y) - 4, float(v)) for y, v in re.findall(r'class="y" x="\d+" y="([\d.]+)">([\d.]+)<', svg)]
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    pixels = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert len(pixels) == 50
    read = [v0 + (float(y) - y0) / (y1 - y0) * (v1 - v0) for _, y in pixels]
    assert read == pytest.approx([value for _, value in values], abs=1e-3)


@pytest.mark.parametrize("value", [0.5, 37.558, 9.9995, 1000.0, 8191.7])
def test_ticks_of_a_line_that_hardly_moves_differ(value):
    svg = str(line_chart({"": [(1, value), (2, value * (1 + 1e-6))]}))
    labels = re.findall(r'class="y" [^>]*>([^<]+)<', svg)
    assert len(labels) >= 3 and len(set(labels)) == len(labels)


def test_log_scale_and_odd_series():
    scale = Scale(1, 100, 0, 200, log=True)
    assert scale(10) == pytest.approx(100) and scale.ticks(5) == [1, 2, 5, 10, 20, 50, 100]
    for odd in ([(1, 2.0)], [(1, 0.0), (2, 0.0)], [(1, -1.0), (2, 3.0)]):
        assert "<polyline" in line_chart({"": odd}, log=True)
    assert charts([]) == []


def test_spikes_survive_thinning():
    points = [(i, 0.0) for i in range(10_000)]
    points[4321] = (4321, 9.0)
    kept = thinned(points)
    assert len(kept) <= 402 and (4321, 9.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]
    assert thinned(points[:300]) == points[:300]


def test_a_diverged_run_leaves_its_page(tmp_path, monkeypatch):
    from pad.training.trainer import Trainer

    data = make_manifest(tmp_path / "data").root

    def diverge(self):
        raise RunError("the loss is not finite")

    monkeypatch.setattr(Trainer, "_check_finite", diverge)
    with pytest.raises(RunError, match="not finite"):
        pretrain(config(data, tmp_path / "run"))
    assert "the loss is not finite" in page(tmp_path / "run")
