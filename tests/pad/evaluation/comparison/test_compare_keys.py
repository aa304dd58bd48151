"""What makes a result another one: weights, data, options, and what they are called."""

import shutil

import cv2
import pytest
import timm
import torch
from comparisons import ONE_TASK, ONLY_NONE, toy
from safetensors.torch import save_file

from msip.errors import EvaluationError
from pad.evaluation.comparison.cells import weights_digest


def test_weights_that_are_a_name_are_known_by_it(tmp_path):
    toy(tmp_path, **ONE_TASK, **ONLY_NONE).run()
    other = {"runs": {}, "contestants": {"none": {"weights": "random:vit_tiny_patch16_224"}}}
    with pytest.raises(EvaluationError, match=r"computed with another weights .*random:test_vit"):
        toy(tmp_path, **ONE_TASK, **other).run()


def test_cells_of_other_data_are_refused(tmp_path):
    toy(tmp_path, **ONE_TASK, **ONLY_NONE).run()
    mask = next((tmp_path / "seg/test/masks").iterdir())
    cv2.imwrite(str(mask), 255 - cv2.imread(str(mask), cv2.IMREAD_GRAYSCALE))
    with pytest.raises(EvaluationError, match="computed with another hash of data"):
        toy(tmp_path, **ONE_TASK, **ONLY_NONE).run()


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
    toy(tmp_path, **ONE_TASK, **only_pad, runs=runs).run()
    shutil.rmtree(tmp_path / "c/cells")
    after = {"first": runs["first"], **change}
    after["pad"] = after.pop("pad", runs["pad"])  # behind what it starts from
    changed = toy(tmp_path, **ONE_TASK, **only_pad, runs=after)
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
