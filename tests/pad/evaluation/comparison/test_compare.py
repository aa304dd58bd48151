"""A comparison at toy size: run once, kept, continued, refused where it would mix, and scored alike for a seed."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import yaml
from comparisons import FILE, SMALL, make_sets, work, write_file
from msip_cli.main import app
from training_runs import heard
from typer.testing import CliRunner

from msip.errors import EvaluationError, MsipError
from msip.radiometry import read_grey8
from pad.encoders.export import export_model
from pad.evaluation.comparison.cells import run_cell, weights_digest
from pad.evaluation.comparison.file import Comparison
from pad.evaluation.comparison.intervals import interval, resample
from pad.evaluation.comparison.leaks import find_leaks
from pad.evaluation.comparison.run import Comparing
from pad.evaluation.comparison.tables import lines_of, write_report
from pad.evaluation.tasks.base import Contestant
from pad.evaluation.tasks.registry import make_task


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    make_sets(root)
    write_file(root)
    first = work(root)
    results = first.run()
    return root, results, write_report(first, results)


def test_every_cell_is_one_file_and_the_report_names_them_all(compared):
    root, _, lines = compared
    files = sorted(p.relative_to(root / "c" / "cells").as_posix() for p in (root / "c" / "cells").rglob("*.json"))
    assert len(files) == 3 * (2 + 1 + 2 + 1)
    assert (root / "c/cells/pad/boxes/seed-0.jpg").stat().st_size > 1000
    text = (root / "c/results.md").read_text()
    assert text.index("Near-duplicates") < text.index("## squares") < text.index("## boxes")
    for name in FILE["contestants"]:
        assert text.count(f"| {name} |") == 4
    assert len((root / "c/results.csv").read_text().splitlines()) == 1 + len(lines)
    assert {line.metric for line in lines} == {
        *("mIoU", "AP", "AP50", "AP75"),
        *("knn accuracy", "linear accuracy", "knn mIoU", "linear mIoU"),
    }
    frozen = next(line for line in lines if (line.contestant, line.task) == ("frozen", "squares"))
    assert frozen.cost["trained_encoder_parameters"] == 0 < frozen.cost["trained_parameters"]


def test_running_again_computes_nothing_and_a_lost_cell_comes_back_the_same(compared):
    root, _, _ = compared
    path = root / "c/cells/pad/squares/seed-1.json"
    before = {p: p.stat().st_mtime_ns for p in (root / "c" / "cells").rglob("*.json")}
    old = json.loads(path.read_text())
    path.unlink()
    with heard() as said:
        work(root).run()
    assert [text for text in said if "seed" in text] == [
        text for text in said if text.startswith("pad, squares, seed 1")
    ]
    new = json.loads(path.read_text())
    assert (new["scores"], new["evidence"]) == (old["scores"], old["evidence"])
    assert all(p.stat().st_mtime_ns == time for p, time in before.items() if p != path)


def test_pre_trainings_of_finished_cells_are_not_needed_and_other_ones_are_other_results(compared):
    root, _, _ = compared
    (root / "c/runs").rename(root / "runs-elsewhere")
    try:
        work(root).run()
        assert not (root / "c/runs").exists()
        write_file(root, pretrain={**FILE["pretrain"], "max_steps": 3})
        with pytest.raises(EvaluationError, match="computed with another hash of weights"):
            work(root).run()
    finally:
        (root / "runs-elsewhere").rename(root / "c/runs")
        write_file(root)


def test_a_part_is_run_and_the_report_keeps_the_rest(compared, tmp_path):
    root, _, lines = compared
    shutil.copytree(root / "c", tmp_path / "c")
    for lost in ("pad/squares/seed-1.json", "frozen/boxes/seed-0.json", "none/sides/seed-0.json"):
        (tmp_path / "c/cells" / lost).unlink()
    part = Comparing(Comparison.read(root / "c.yaml"), root, tmp_path / "c", runs=root / "c/runs", device="cpu")
    with heard() as said:
        found = part.run(only=("squares",), contestants=("none",), finished=lambda results: write_report(part, results))
    assert {task: {who: [c.seed for c in cells] for who, cells in of.items()} for task, of in found.items()} == {
        "squares": {"none": [0, 1], "frozen": [0, 1], "pad": [0]},
        "boxes": {"none": [0], "pad": [0]},
        "sides": {"none": [1], "frozen": [0, 1], "pad": [0, 1]},
        "patches": {"none": [0], "frozen": [0], "pad": [0]},
    }
    assert not any("seed" in text for text in said)
    text = (tmp_path / "c/results.md").read_text()
    assert text.count("| frozen |") == 3 and text.count("| pad |") == 4
    one, whole = found["squares"], compared[1]["squares"]
    gap = next(line.gap for line in lines_of({"squares": one}, "none") if line.contestant == "pad")
    scores = [whole[who][0].scores()["mIoU"] for who in ("pad", "none")]
    assert gap.value == pytest.approx(scores[0] - scores[1])  # over the seed that both have
    part.run(only=("sides",), seeds=(1,))
    assert not (tmp_path / "c/cells/none/sides/seed-0.json").exists()
    assert text.count("## ") == 1 + len(FILE["tasks"]) and "4 | 0 | 0.0 %" in text
    part.run(finished=lambda results: write_report(part, results))
    again = (tmp_path / "c/results.csv").read_text().splitlines()
    before = (root / "c/results.csv").read_text().splitlines()
    scores = [[row.rsplit(",", 3)[0] for row in rows] for rows in (again, before)]
    assert scores[0] == scores[1] and len(again) == 1 + len(lines)
    for wrong, message in (
        ({"only": ("poses",)}, "no task 'poses'"),
        ({"contestants": ("x",)}, "no contestant 'x'"),
        ({"seeds": (7,)}, "no seed 7"),
    ):
        with pytest.raises(EvaluationError, match=message):
            part.run(**wrong)


def test_other_options_are_refused_not_mixed(compared):
    root, _, _ = compared
    tasks = {"squares": {**FILE["tasks"]["squares"], "steps": 3}}
    write_file(root, tasks=tasks)
    try:
        with pytest.raises(EvaluationError, match=r"was computed with another steps \(2, now 3\)"):
            work(root).run()
    finally:
        write_file(root)


def test_the_command_prints_the_table_and_says_what_is_wrong(compared):
    root, _, _ = compared
    done = CliRunner().invoke(app, ["compare", str(root / "c.yaml"), "--device", "cpu", "--task", "sides"])
    assert done.exit_code == 0, done.output
    assert "knn accuracy" in done.output and "frozen" in done.output
    for changed, message in (
        ({"baseline": "nobody"}, "the baseline 'nobody' is no contestant"),
        ({"contestants": {"none": {"weights": "run:other"}}}, "takes run:other, and no such run"),
        ({"tasks": {"t": {"task": "pose", "data": "x"}}}, "tasks.t.task"),
        ({"tasks": {}}, "tasks: dictionary should have at least 1 item"),
    ):
        (root / "bad.yaml").write_text(yaml.safe_dump({**FILE, **changed}, sort_keys=False))
        with pytest.raises(EvaluationError, match=message):
            Comparison.read(root / "bad.yaml")


def test_evaluate_compares_modes_continues_and_does_not_mix(compared, tmp_path):
    root, _, _ = compared
    common = ["evaluate", "random:test_vit", "--task", "segmentation", "--data", str(root / "seg"), "--device", "cpu"]
    common += ["--image-size", "32", "--batch-size", "2", "--out", str(tmp_path), "--label-fraction", "0.5"]
    first = CliRunner().invoke(app, [*common, "--seeds", "1", "--steps", "2"])
    assert first.exit_code == 0 and "mIoU" in first.output, first.output
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("seed-*.json")}
    assert len(kept) == 1 and len(list(tmp_path.rglob("seed-0.jpg"))) == 1
    assert not list(tmp_path.rglob("results.png"))  # there is no difference to draw
    modes = ["--mode", "frozen", "--mode", "full"]
    done = json.loads(CliRunner().invoke(app, [*common, "--seeds", "2", "--steps", "2", *modes, "--json"]).stdout)
    rows = {row["contestant"]: row for row in done["results"]}
    assert list(rows) == ["full", "frozen"] and rows["frozen"]["gap"] is None
    assert rows["full"]["gap"]["value"] == pytest.approx(rows["full"]["mean"] - rows["frozen"]["mean"])
    assert (rows["full"]["steps"], rows["full"]["label_fraction"], rows["full"]["train_images"]) == (2, 0.5, 8)
    text = next(tmp_path.rglob("results.md")).read_text()
    assert (
        "- segmentation at 32 px, 2 steps in batches of 2, learning rate 0.0001; 8 training and 4 test images, of"
        in text
    )
    assert len(list(tmp_path.rglob("seed-*.json"))) == 4 and len(list(tmp_path.rglob("results.png"))) == 1
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    other = CliRunner().invoke(app, [*common, "--seeds", "1", "--steps", "3"])
    assert isinstance(other.exception, EvaluationError) and "another steps (2, now 3)" in str(other.exception)
    probe = ["evaluate", "random:test_vit", "--task", "probe", "--data", str(root / "seg"), "--out", str(tmp_path)]
    for more, message in (
        (["--mode", "lora"], "--task probe takes --mode frozen"),
        (["--decoder-channels", "64"], "--decoder-channels is no option here; leave it out"),
        (["--steps", "7"], "--steps is no option here; leave it out"),
        (["--image-size", "0"], "--image-size: input should be greater than or equal to 1 (given: 0)"),
        (["--label-fraction", "2"], "--label-fraction: input should be less than or equal to 1"),
        (["--device", "gpu"], "--device is 'gpu'; choose one of auto, cpu, cuda"),
    ):
        wrong = CliRunner().invoke(app, [*probe, *more])
        assert isinstance(wrong.exception, MsipError) and message in str(wrong.exception)


def test_intervals_hold_the_mean_and_shrink_to_nothing_against_oneself(compared):
    _, results, _ = compared
    cells = results["squares"]["none"]
    values = [cell.scores()["mIoU"] for cell in cells]
    low, high = interval(values, resample(cells)["mIoU"])
    assert low <= np.mean(values) <= high
    same = lines_of({"t": {"a": cells, "b": cells}}, "a")[-1]
    assert (same.gap.low, same.gap.value, same.gap.high) == (0, 0, 0) and not same.gap.real


def test_a_single_seed_is_never_called_a_real_difference(compared):
    _, results, _ = compared
    probe = results["sides"]
    perfect = [
        replace(c, evidence={n: replace(e, right=e.right | True) for n, e in c.evidence.items()}) for c in probe["pad"]
    ]
    wrong = [
        replace(c, evidence={n: replace(e, right=e.right & False) for n, e in c.evidence.items()})
        for c in probe["none"]
    ]
    for count, real in ((1, False), (2, True)):
        gap = lines_of({"sides": {"none": wrong, "pad": perfect[:count]}}, "none")[-1].gap
        assert (gap.value, gap.low, gap.seeds, gap.real) == (100, 100, count, real)


def test_threads_do_not_change_a_cell(compared, tmp_path):
    root, _, _ = compared
    task = make_task("segmentation", "squares", root / "seg", **SMALL)
    who, data = Contestant("none", "random:test_vit"), task.read()
    device = torch.device("cpu")
    scores = [
        run_cell(who, task, data, 0, tmp_path / f"{n}.json", device=device, threads=n).evidence[""].to_json()
        for n in (1, 3)
    ]
    assert scores[0] == scores[1]


def test_near_duplicates_are_found():
    rng = np.random.default_rng(0)
    images = [cv2.GaussianBlur(rng.integers(0, 255, (40, 50), dtype=np.uint8), (0, 0), 4) for _ in range(6)]
    train = [(f"a{n}", image) for n, image in enumerate(images[:4])]
    again = np.clip(images[2].astype(int) + 3, 0, 255).astype(np.uint8)
    test = [("b0", again), ("b1", images[4]), ("b2", np.full((40, 50), 7, np.uint8))]
    found = find_leaks(train, test)
    assert (found.test_images, found.leaked, found.pairs) == (3, 1, (("b0", "a2"),))


def test_different_images_of_one_camera_are_no_leak(cases):
    for name in ("different-modules", "low-contrast-one-camera"):
        files = sorted((cases / "curation" / name / "in").iterdir())
        images = [(path.name, read_grey8(path)) for path in files]
        assert find_leaks(images[::2], images[1::2]).leaked == 0
        assert find_leaks(images[::2], images).leaked == len(images[::2])


def test_adapters_alone_are_known_with_the_weights_that_they_sit_on(compared, tmp_path):
    root, _, _ = compared
    export_model(str(root / "c/runs/pad"), tmp_path / "alone", format="adapter")
    mine = weights_digest(str(tmp_path / "alone"))
    assert mine.count("+") >= 1  # the adapters' and the trunk's
    run = root / "c/runs/pad"
    assert weights_digest(str(run)) not in (None, mine)


def test_sets_and_tasks_of_one_name_do_not_share_results(compared, tmp_path):
    root, _, _ = compared
    shutil.copytree(root / "seg", tmp_path / "other" / "seg")
    first = ["evaluate", "random:test_vit", "--device", "cpu", "--image-size", "32", "--seeds", "1", "--json"]
    first += ["--out", str(tmp_path / "out")]
    trained = ["--task", "segmentation", "--steps", "1", "--batch-size", "2"]
    folders = []
    for more in (
        [*trained, "--data", str(root / "seg")],
        ["--task", "probe", "--data", str(root / "seg")],
        [*trained, "--data", str(tmp_path / "other/seg")],
        [*trained, "--data", str(root / "seg") + "/"],
    ):
        done = CliRunner().invoke(app, [*first, *more])
        assert done.exit_code == 0, done.output
        folders.append(json.loads(done.stdout)["folder"])
    assert len(set(folders)) == 3 and folders[0] == folders[3]


def test_a_run_that_is_not_finished_is_said_to_be(compared, tmp_path):
    root, _, _ = compared
    shutil.copytree(root / "c/runs/first", tmp_path / "part")
    (tmp_path / "part" / "result.json").unlink()
    for file in tmp_path.glob("part/*.safetensors"):
        file.unlink()
    call = ["evaluate", str(tmp_path / "part"), "--task", "probe", "--data", str(root / "seg"), "--seeds", "1"]
    done = CliRunner().invoke(app, [*call, "--image-size", "32", "--out", str(tmp_path / "out"), "--device", "cpu"])
    assert done.exit_code == 0 and "part is not finished (" in done.stderr, done.output
    assert "part is not finished (" in next((tmp_path / "out").rglob("results.md")).read_text()
