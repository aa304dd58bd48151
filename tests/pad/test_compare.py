"""A comparison at toy size: run once, kept, continued, refused where it would mix, and scored alike for a seed."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import timm
import torch
import yaml
from msip_cli.main import app
from safetensors.torch import save_file
from scipy import stats
from training_runs import make_manifest
from typer.testing import CliRunner

from msip.errors import EvaluationError, MsipError, RunError
from pad.evaluation.cells import Cell, Contestant, Task, run_cell, weights_digest
from pad.evaluation.comparison import Comparing, Comparison
from pad.evaluation.evidence import Hits
from pad.evaluation.leaks import find_leaks
from pad.evaluation.report import lines_of, write_report
from pad.evaluation.statistics import difference, interval, resample
from pad.export import export_model

SMALL = {"image_size": 32, "steps": 2, "batch_size": 2}


def make_sets(root):
    """Bright squares to find, by mask, by box and by class; every image with noise of its own."""
    rng = np.random.default_rng(0)
    boxes = []
    for number in range(12):
        image = cv2.GaussianBlur(rng.integers(0, 90, (48, 64), dtype=np.uint8), (0, 0), 2)
        x, y = rng.integers(4, 34, 2)
        mask = np.zeros_like(image)
        mask[y : y + 10, x : x + 14] = 255
        image[mask > 0] = 230
        split = "train" if number < 8 else "test"
        for kind, pixels in (("images", image), ("masks", mask)):
            (root / "seg" / split / kind).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / "seg" / split / kind / f"{number}.png"), pixels)
        for folder in (root / "yolo" / "images" / split, root / "classes" / split / ("left" if x < 18 else "right")):
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{number}.png"), image)
        labels = root / "yolo" / "labels" / split
        labels.mkdir(parents=True, exist_ok=True)
        boxes.append(f"0 {(x + 7) / 64} {(y + 5) / 48} {14 / 64} {10 / 48}\n")
        (labels / f"{number}.txt").write_text(boxes[-1])
    (root / "yolo" / "classes.txt").write_text("square\n")
    make_manifest(root / "build", 12)


FILE = {
    "seeds": [0, 1],
    "baseline": "none",
    "pretrain": {
        "data": "build",
        "model": "test_vit",
        "image_size": 32,
        "max_steps": 2,
        "batch_size": 4,
        "workers": 0,
        "decoder_embed_dim": 16,
        "decoder_depth": 1,
        "decoder_num_heads": 2,
    },
    "runs": {"first": {"paradigm": "scratch"}, "pad": {"paradigm": "pad", "init": "run:first"}},
    "contestants": {
        "none": {"weights": "random:test_vit"},
        "frozen": {"weights": "run:first", "mode": "frozen"},
        "pad": {"weights": "run:pad", "mode": "adapter"},
    },
    "tasks": {
        "squares": {"task": "segmentation", "data": "seg", **SMALL},
        "boxes": {"task": "detection", "data": "yolo", "seeds": [0], **SMALL, "image_size": 64, "steps": 1},
        "sides": {"task": "probe", "data": "classes", "image_size": 32},
        "patches": {"task": "probe", "data": "seg", "image_size": 32, "seeds": [0]},
    },
}


def write_file(root, **changed):
    (root / "c.yaml").write_text(yaml.safe_dump({**FILE, **changed}, sort_keys=False))
    return root / "c.yaml"


def work(root, said):
    return Comparing(Comparison.read(root / "c.yaml"), root, root / "c", device="cpu", say=said.append)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    make_sets(root)
    write_file(root)
    first = work(root, [])
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
    said: list[str] = []
    work(root, said).run()
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
        work(root, []).run()
        assert not (root / "c/runs").exists()
        write_file(root, pretrain={**FILE["pretrain"], "max_steps": 3})
        with pytest.raises(EvaluationError, match="computed with another hash of weights"):
            work(root, []).run()
    finally:
        (root / "runs-elsewhere").rename(root / "c/runs")
        write_file(root)


def test_a_part_is_run_and_the_report_keeps_the_rest(compared, tmp_path):
    root, _, lines = compared
    shutil.copytree(root / "c", tmp_path / "c")
    for lost in ("pad/squares/seed-1.json", "frozen/boxes/seed-0.json", "none/sides/seed-0.json"):
        (tmp_path / "c/cells" / lost).unlink()
    said: list[str] = []
    part = Comparing(
        Comparison.read(root / "c.yaml"), root, tmp_path / "c", runs=root / "c/runs", device="cpu", say=said.append
    )
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
            work(root, []).run()
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
        (["--mode", "lora"], "a probe takes frozen"),
        (["--decoder-channels", "64"], "a probe trains no decoder and takes no steps; leave --decoder-channels out"),
        (["--steps", "7"], "leave --steps out"),
        (["--image-size", "0"], "--image-size: input should be greater than or equal to 1 (given: 0)"),
        (["--label-fraction", "2"], "--label-fraction: input should be less than or equal to 1"),
        (["--device", "gpu"], "--device is 'gpu'; choose one of auto, cpu, cuda"),
    ):
        wrong = CliRunner().invoke(app, [*probe, *more])
        assert isinstance(wrong.exception, EvaluationError) and message in str(wrong.exception)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tasks": {**FILE["tasks"], "late": {"task": "probe", "data": "solr"}}},
            "solr, the data of late, is no f",
        ),
        ({"runs": {**FILE["runs"], "pad": {"paradigm": "padd"}}}, "there is no paradigm 'padd'"),
        ({"runs": {**FILE["runs"], "pad": {"max_stepz": 8}}}, "there is no option 'max_stepz'"),
        ({"runs": {**FILE["runs"], "pad": {"model": "vit_tinny"}}}, "timm knows no model 'vit_tinny'"),
        ({"runs": {**FILE["runs"], "pad": {"data": "built"}}}, "built"),
        ({"contestants": {**FILE["contestants"], "pad": {"weights": "random:test_vitt"}}}, "no model 'test_vitt'"),
        (
            {"contestants": {**FILE["contestants"], "pad": {"weights": "runs/pad"}}},
            "does not exist; give a run",
        ),
    ],
)
def test_mistakes_in_the_file_are_found_before_anything_is_computed(tmp_path, changed, message):
    make_sets(tmp_path)
    with pytest.raises(MsipError, match=message):
        toy(tmp_path, **changed)[0].run()
    assert not (tmp_path / "c").exists()


def test_intervals_hold_the_mean_and_shrink_to_nothing_against_oneself(compared):
    _, results, _ = compared
    cells = results["squares"]["none"]
    values = [cell.scores()["mIoU"] for cell in cells]
    low, high = interval(values, resample(cells)["mIoU"])
    assert low <= np.mean(values) <= high
    same = lines_of({"t": {"a": cells, "b": cells}}, "a")[-1]
    assert (same.gap.low, same.gap.value, same.gap.high) == (0, 0, 0) and not same.gap.real


def test_the_interval_of_seeds_is_students_and_grows_with_that_of_the_images():
    values = [1.0, 2.0, 6.0]
    expected = stats.t.interval(0.95, 2, loc=3.0, scale=stats.sem(values))
    still = np.full(500, 3.0)
    assert interval(values, still) == pytest.approx(expected)
    moving = still + np.linspace(-2, 2, 500)
    arm = np.hypot(expected[1] - 3, np.percentile(moving, 97.5) - 3)
    assert interval(values, moving) == pytest.approx((3 - arm, 3 + arm))
    assert interval([3.0], moving) == pytest.approx(np.percentile(moving, [2.5, 97.5]))
    assert interval([3.0], np.array([np.nan, 2.0, 4.0])) == pytest.approx((2.05, 3.95))


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_equal_contestants_are_seldom_called_different(seeds):
    """Two contestants of the same worth, each seed with luck of its own: one in twenty may look real."""
    rng = np.random.default_rng(seeds)
    images, trials, real = 200, 150, 0
    for _ in range(trials):
        hard = rng.normal(size=images)
        contestants = [
            [right_cell(hard + rng.normal(0, 0.5, images) + rng.normal(0, 0.2), seed) for seed in range(seeds)]
            for _ in range(2)
        ]
        drawn = tuple(resample(cells, count=80) for cells in contestants)
        real += difference(*contestants, drawn, "accuracy").real
    assert real <= 0.09 * trials


def right_cell(margins, seed):
    hits = Hits(("a", "b"), np.zeros(len(margins), np.int64), margins > 0)
    return Cell({"seed": seed, "test_images": len(margins)}, {"": hits}, {})


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
    task = Task("squares", "segmentation", root / "seg", **SMALL)
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


def toy(root, **changed):
    """A comparison of its own folder with the small sets, and what it said."""
    if not (root / "seg").is_dir():
        make_sets(root)
    write_file(root, **changed)
    said: list[str] = []
    return work(root, said), said


ONE_TASK = {"seeds": [0], "tasks": {"squares": FILE["tasks"]["squares"]}}
ONLY_NONE = {"contestants": {"none": {"weights": "random:test_vit"}}, "runs": {}}


def test_weights_that_are_a_name_are_known_by_it(tmp_path):
    toy(tmp_path, **ONE_TASK, **ONLY_NONE)[0].run()
    other = {"runs": {}, "contestants": {"none": {"weights": "random:vit_tiny_patch16_224"}}}
    with pytest.raises(EvaluationError, match=r"computed with another weights .*random:test_vit"):
        toy(tmp_path, **ONE_TASK, **other)[0].run()


def test_cells_of_other_data_are_refused(tmp_path):
    toy(tmp_path, **ONE_TASK, **ONLY_NONE)[0].run()
    mask = next((tmp_path / "seg/test/masks").iterdir())
    cv2.imwrite(str(mask), 255 - cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE))
    with pytest.raises(EvaluationError, match="computed with another hash of data"):
        toy(tmp_path, **ONE_TASK, **ONLY_NONE)[0].run()


@pytest.mark.parametrize(
    "change",
    [
        {"first": {"paradigm": "scratch", "seed": 3}},  # what the run starts from
        {"other": {"paradigm": "scratch", "seed": 3}, "pad": {"paradigm": "pad", "init": "run:other"}},
        {"pad": {"paradigm": "pad", "init": "run:first"}},  # an option taken back
    ],
)
def test_a_finished_pre_training_of_other_options_or_another_start_is_refused(tmp_path, change):
    runs = {"first": {"paradigm": "scratch"}, "pad": {"paradigm": "pad", "init": "run:first", "mask_ratio": 0.5}}
    only_pad = {"baseline": "pad", "contestants": {"pad": {"weights": "run:pad"}}}
    toy(tmp_path, **ONE_TASK, **only_pad, runs=runs)[0].run()
    shutil.rmtree(tmp_path / "c/cells")
    after = {"first": runs["first"], **change}
    after["pad"] = after.pop("pad", runs["pad"])  # behind what it starts from
    changed = toy(tmp_path, **ONE_TASK, **only_pad, runs=after)[0]
    with pytest.raises(EvaluationError, match=r"runs/pad was pre-trained with other options, or from another start"):
        changed.run()


def test_other_weights_under_the_same_path_are_other_results(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text('{"architecture": "test_vit"}')
    digests = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("test_vit", num_classes=0)
        save_file(model.state_dict(), folder / "model.safetensors")
        digests.append(weights_digest(str(folder)))
    assert None not in digests and digests[0] != digests[1]
    assert weights_digest("random:test_vit") is None


def test_adapters_alone_are_known_with_the_weights_that_they_sit_on(compared, tmp_path):
    root, _, _ = compared
    export_model(str(root / "c/runs/pad"), tmp_path / "alone", format="adapter")
    mine = weights_digest(str(tmp_path / "alone"))
    assert mine.count("+") >= 1  # the adapters' and the trunk's
    run = root / "c/runs/pad"
    assert weights_digest(str(run)) not in (None, mine)


def test_a_task_may_have_seeds_of_its_own(tmp_path):
    own = {"seeds": [0], "tasks": {"squares": {**FILE["tasks"]["squares"], "seeds": [1, 2]}}}
    toy(tmp_path, **own, **ONLY_NONE)[0].run()
    names = sorted(path.name for path in (tmp_path / "c/cells/none/squares").iterdir())
    assert names == ["seed-1.jpg", "seed-1.json", "seed-2.json"]
    toy(tmp_path, **own, **ONLY_NONE)[0].run(seeds=(2,))
    with pytest.raises(EvaluationError, match="no seed 0"):
        toy(tmp_path, **own, **ONLY_NONE)[0].run(seeds=(0,))


def test_what_a_pre_training_starts_from_is_relative_to_the_root(tmp_path, monkeypatch):
    make_sets(tmp_path)
    model = timm.create_model("test_vit", num_classes=0, img_size=32)
    save_file(model.state_dict(), tmp_path / "start.safetensors")
    monkeypatch.chdir("/")
    runs = {"pad": {"paradigm": "pad", "init": "start.safetensors"}}
    contestants = {"pad": {"weights": "run:pad"}}
    toy(tmp_path, **ONE_TASK, baseline="pad", runs=runs, contestants=contestants)[0].run()
    assert (tmp_path / "c/cells/pad/squares/seed-0.json").is_file()


def test_one_cell_that_fails_does_not_hold_up_the_others(tmp_path):
    weights = "random:test_vit"
    contestants = {"wild": {"weights": weights, "lr": 1e30}, "none": {"weights": weights}}
    comparison, said = toy(tmp_path, **ONE_TASK, runs={}, contestants=contestants)
    with pytest.raises(RunError, match=r"1 cells could not be computed.*wild, squares, seed 0: the loss is no number"):
        comparison.run(finished=lambda results: write_report(comparison, results))
    assert (tmp_path / "c/cells/none/squares/seed-0.json").is_file()
    assert "| none |" in (tmp_path / "c/results.md").read_text()
    assert any("error: wild" in text for text in said)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": [-1]}, r"seeds\.0: input should be greater than or equal to 0 \(given: -1\)"),
        ({"seeds": []}, "seeds: tuple should have at least 1 item"),
        ({"tasks": {"t": {**FILE["tasks"]["squares"], "image_size": 0}}}, r"tasks\.t\.image_size: input should be"),
        ({"tasks": {"t": {**FILE["tasks"]["squares"], "steps": 0}}}, r"tasks\.t\.steps: input should be"),
        ({"tasks": {"t": {**FILE["tasks"]["squares"], "lr": -1}}}, r"tasks\.t\.lr: input should be"),
        ({"contestants": {"none": {"weights": "random:test_vit", "lr": 0}}}, r"contestants\.none\.lr: input should be"),
        ({"pretrain": {}}, "run first has no data; give it there, or under pretrain"),
    ],
)
def test_values_that_cannot_be_are_one_sentence(tmp_path, changed, message):
    with pytest.raises(EvaluationError, match=message):
        Comparison.read(write_file(tmp_path, **changed))


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
