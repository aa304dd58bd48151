"""A comparison's file: what it may say, and mistakes in it."""

import json
import shutil

import pytest
import timm
import torch
import yaml
from comparisons import FILE, ONE_TASK, ONLY_NONE, make_sets, toy, write_file
from safetensors.torch import save_file
from training_runs import heard

from msip.errors import EvaluationError, MsipError, RunError
from msip.files import sha256_file
from pad.evaluation.comparison.file import Comparison
from pad.evaluation.comparison.tables import write_report
from pad.evaluation.evaluate import evaluate


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
        toy(tmp_path, **changed).run()
    assert not (tmp_path / "c").exists()


def test_a_task_may_have_seeds_of_its_own(tmp_path):
    own = {"seeds": [0], "tasks": {"squares": {**FILE["tasks"]["squares"], "seeds": [1, 2]}}}
    toy(tmp_path, **own, **ONLY_NONE).run()
    names = sorted(path.name for path in (tmp_path / "c/cells/none/squares").iterdir())
    assert names == ["seed-1.jpg", "seed-1.json", "seed-2.json"]
    toy(tmp_path, **own, **ONLY_NONE).run(seeds=(2,))
    with pytest.raises(EvaluationError, match="no seed 0"):
        toy(tmp_path, **own, **ONLY_NONE).run(seeds=(0,))


def test_what_a_pre_training_starts_from_is_relative_to_the_root(tmp_path, monkeypatch):
    make_sets(tmp_path)
    model = timm.create_model("test_vit", num_classes=0, img_size=32)
    save_file(model.state_dict(), tmp_path / "start.safetensors")
    monkeypatch.chdir("/")
    runs = {"pad": {"paradigm": "pad", "init": "start.safetensors"}}
    contestants = {"pad": {"weights": "run:pad"}}
    toy(tmp_path, **ONE_TASK, baseline="pad", runs=runs, contestants=contestants).run()
    assert (tmp_path / "c/cells/pad/squares/seed-0.json").is_file()


EACH = {
    "seeds": [0, 3],
    "baseline": "first",
    "runs": {
        "first": {"paradigm": "scratch"},
        "own-{seed}": {"paradigm": "scratch"},
        "pad-{seed}": {"paradigm": "pad", "init": "run:own-{seed}"},
    },
    "contestants": {"first": {"weights": "run:first"}, "pad": {"weights": "run:pad-{seed}"}},
    "tasks": {"sides": FILE["tasks"]["sides"]},
}


def test_each_seed_may_have_a_pre_training_of_its_own(tmp_path):
    """The spread over seeds is then that of pre-trainings, too, also where the task has no luck of its own."""
    comparison = toy(tmp_path, **EACH)
    results = comparison.run()
    write_report(comparison, results)
    assert "pre-training of its own for `pad`; one" in (tmp_path / "c/results.md").read_text()
    runs = {path.name: yaml.safe_load((path / "run.yaml").read_text()) for path in (tmp_path / "c/runs").iterdir()}
    assert set(runs) == {"first", "own-0", "own-3", "pad-0", "pad-3"}
    assert {name: run["config"]["seed"] for name, run in runs.items()} == {
        "first": 0,
        **{"own-0": 0, "own-3": 3, "pad-0": 0, "pad-3": 3},
    }
    assert "runs/own-3" in runs["pad-3"]["config"]["init"]
    losses = [(tmp_path / f"c/runs/{name}/metrics.jsonl").read_text() for name in ("pad-0", "pad-3")]
    assert losses[0] != losses[1]
    assert [cell.key["weights"] for cell in results["sides"]["pad"]] == ["run:pad-0", "run:pad-3"]
    shutil.rmtree(tmp_path / "c/runs")
    (tmp_path / "c/cells/pad/sides/seed-3.json").unlink()
    again = toy(tmp_path, **EACH).run()
    assert {path.name for path in (tmp_path / "c/runs").iterdir()} == {"own-3", "pad-3"}  # what the lost cell needs
    assert again["sides"]["pad"][1].scores() == results["sides"]["pad"][1].scores()
    runs = {**EACH["runs"], "own-{seed}": {"paradigm": "scratch", "max_steps": 3}}
    with pytest.raises(EvaluationError, match="computed with another hash of weights"):
        toy(tmp_path, **EACH | {"runs": runs}).run()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"runs": {**EACH["runs"], "own-{seed}": {"seed": 1}}}, r"run own-{seed} has a seed of its own beside {seed}"),
        (
            {"runs": {**EACH["runs"], "pad": {"init": "run:own-{seed}"}}},
            "run pad begins with one of run:own-{seed}; put",
        ),
        ({"runs": {**EACH["runs"], "own-3": {"paradigm": "scratch"}}}, "two runs own-3"),
        ({"contestants": {"first": {"weights": "run:own-1"}}}, "contestant first takes run:own-1, and no such run"),
    ],
)
def test_mistakes_in_runs_of_each_seed(tmp_path, changed, message):
    with pytest.raises(EvaluationError, match=message):
        Comparison.read(write_file(tmp_path, **EACH | changed))


def test_weights_for_each_seed_may_have_been_pre_trained_elsewhere(tmp_path):
    make_sets(tmp_path)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = timm.create_model("test_vit", num_classes=0, img_size=32)
        notes = {"model": "test_vit", "image_size": "32"}
        save_file(model.state_dict(), tmp_path / f"mine-{seed}.safetensors", notes)
    task = {"out": tmp_path / "out", "image_size": 32, "device": "cpu"}
    weights = str(tmp_path / "mine-{seed}.safetensors")
    report = evaluate(weights, "probe", tmp_path / "classes", seeds=2, **task)
    cells = report.folder / "cells/frozen/classes"
    digests = [json.loads((cells / f"seed-{seed}.json").read_text())["key"]["weights_sha256"] for seed in (0, 1)]
    assert digests == [sha256_file(tmp_path / f"mine-{seed}.safetensors") for seed in (0, 1)]
    assert report.lines[0].seeds == 2 and "{" not in str(report.folder)
    with pytest.raises(MsipError, match=r"mine-2\.safetensors"):
        evaluate(weights, "probe", tmp_path / "classes", seeds=3, **task)


def test_one_cell_that_fails_does_not_hold_up_the_others(tmp_path):
    weights = "random:test_vit"
    contestants = {"wild": {"weights": weights, "lr": 1e30}, "none": {"weights": weights}}
    comparison = toy(tmp_path, **ONE_TASK, runs={}, contestants=contestants)
    failed = r"1 cells could not be computed.*wild, squares, seed 0: the loss is no number"
    with heard() as said, pytest.raises(RunError, match=failed):
        comparison.run(finished=lambda results: write_report(comparison, results))
    assert (tmp_path / "c/cells/none/squares/seed-0.json").is_file()
    assert "| none |" in (tmp_path / "c/results.md").read_text()
    assert any("wild, squares, seed 0: the loss is no number" in text for text in said)


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
