"""Every method from the command's configuration to the export, interrupted and whole."""

import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import config, fingerprint, losses, make_manifest, stopped_after, train

from msip.crops import RoiCrop
from msip.errors import RunError
from pad.data.views import MultiCrop, block_mask, grown
from pad.encoders import load_encoder
from pad.encoders.export import export_model

pytestmark = pytest.mark.forks

METHODS = {
    "mae": {},
    "milan": {"teacher": True},
    "simmim": {},
    "ibot": {"out_dim": 16, "local_crops": 2, "local_size": 16},
    "distil": {"teacher": True},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


@pytest.fixture(scope="module")
def teacher(data, tmp_path_factory):
    """A finished run of another method."""
    run = tmp_path_factory.mktemp("teacher") / "run"
    train(config(data, run, max_steps=1, paradigm="scratch"))
    return run


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_run_equals_the_whole_one(method, data, teacher, tmp_path):
    options = {"method": method, "epochs": 2, "scale_freeze": 0.0, **METHODS[method]}
    if "teacher" in options:
        options["teacher"] = str(teacher)
    made = {name: config(data, tmp_path / name, **options) for name in ("whole", "cut")}
    assert train(made["whole"]).status == "finished"
    with stopped_after(4):
        assert train(made["cut"]).status == "stopped"
    assert train(config(data, tmp_path / "cut", resume="auto", **options)).status == "finished"
    assert fingerprint(tmp_path / "cut") == fingerprint(tmp_path / "whole")
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    assert all(np.isfinite(loss) for _, loss in losses(tmp_path / "cut"))
    assert (tmp_path / "whole/adapter.safetensors").is_file()


@pytest.mark.parametrize("paradigm", ["pad", "continual"])
def test_ibot_leaves_its_teacher(paradigm, data, tmp_path):
    """Stopped, finished and exported, a run gives the moving average, not the student."""
    options = {"method": "ibot", "epochs": 2, "scale_freeze": 0.0, "paradigm": paradigm, **METHODS["ibot"]}
    run = tmp_path / "run"

    def kept(step):
        checkpoint = load_file(run / f"checkpoints/step-{step:08d}/model.safetensors")
        teacher = {n.removeprefix("teacher/"): t for n, t in checkpoint.items() if n.startswith("teacher/encoder/")}
        assert len(teacher) > 20
        names = {name: name.replace("/", ".") for name in teacher}
        assert not all(torch.equal(teacher[name], checkpoint[names[name]]) for name in teacher)  # the student went on
        return {names[name].removeprefix("encoder."): tensor for name, tensor in teacher.items()}

    def given(path):
        return load_encoder(path).state_dict()

    with stopped_after(4):
        assert train(config(data, run, **options)).status == "stopped"
    wanted, found = kept(4), given(run)
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    assert train(config(data, run, resume="auto", **options)).status == "finished"
    export_model(run, tmp_path / "export", format="timm")
    wanted = kept(6)
    for path in (run, run / "checkpoints/step-00000006", tmp_path / "export"):
        found = given(path)
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    saved = load_file(run / ("adapter.safetensors" if paradigm == "pad" else "encoder.safetensors"))
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in saved.items() if name in wanted)


def _rank(options, rank, port):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    train(options)


def _free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "mae"])  # MAE: test_trainer.py
def test_two_processes_equal_one_with_the_same_batch(method, data, teacher, tmp_path):
    options = {"method": method, "epochs": 2, "batch_size": 4, "scale_freeze": 0.2, **METHODS[method]}
    if "teacher" in options:
        options["teacher"] = str(teacher)
    train(config(data, tmp_path / "one", accumulate=2, **options))
    context, port, two = multiprocessing.get_context("fork"), _free_port(), config(data, tmp_path / "two", **options)
    ranks = [context.Process(target=_rank, args=(two, rank, port)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0
    assert losses(tmp_path / "two") == [
        (step, pytest.approx(loss, rel=1e-4)) for step, loss in losses(tmp_path / "one")
    ]
    last = fingerprint(tmp_path / "one")[0]
    one, two = (load_file(tmp_path / name / "checkpoints" / last / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for name in one:  # iBOT's centres and teacher among them
        torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4, msg=name)


def test_a_method_that_needs_a_teacher_says_so(data, tmp_path):
    with pytest.raises(RunError, match="give `teacher`"):
        train(config(data, tmp_path / "run", method="milan"))


def test_views_share_a_grown_crop_and_follow_their_generator():
    image = np.random.default_rng(0).integers(0, 255, (120, 160), dtype=np.uint8)
    rois = np.array([[10, 10, 60, 50]], np.int32)
    views = MultiCrop((4, 4), 3, 16)
    one, two = (views(image, rois, RoiCrop(size=32), np.random.default_rng(1)) for _ in range(2))
    assert one["global_views"].shape == (2, 1, 32, 32) and one["local_views"].shape == (3, 1, 16, 16)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not np.array_equal(one["global_views"][0], one["global_views"][1])
    x, y, width, height = grown((100, 0, 40, 40), (160, 120), 0.25)
    assert (width, height) == (69, 69) and 0 <= x <= 160 - 69 and y == 0


def test_block_masks_hide_what_is_asked():
    rng = np.random.default_rng(0)
    shares = [block_mask((14, 14), 0.3, rng).mean() for _ in range(50)]
    assert 0.2 < np.mean(shares) <= 0.3 and max(shares) <= 0.3


def test_health_of_the_features_is_measured(data, tmp_path):
    from pad.monitoring.monitor import read_metrics

    train(config(data, tmp_path / "run", epochs=2))
    lines = read_metrics(tmp_path / "run")
    assert {"rankme", "feature_std"} <= lines[0].keys() & lines[-1].keys()
    assert lines[-1]["rankme"] > 1 and lines[-1]["feature_std"] > 0
