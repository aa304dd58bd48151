"""A comparison's file: what it may say, and mistakes in it."""

import pytest
import timm
from comparisons import FILE, ONE_TASK, ONLY_NONE, make_sets, toy, write_file
from safetensors.torch import save_file

from msip.errors import EvaluationError, MsipError, RunError
from pad.evaluation.comparison import Comparison
from pad.evaluation.report import write_report


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
