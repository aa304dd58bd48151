"""Batch sizes that fit, and what is said when memory runs out; a GPU is played by a number."""

from __future__ import annotations

import pytest
import torch
from trainers import trainer_of
from training_runs import config, heard, make_manifest, train

from msip.errors import RunError
from pad.config.plan import batch_sizes, make_plan
from pad.config.pretraining import PretrainConfig
from pad.training.memory import find_batch_size, largest_fitting


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 47, 48, 100, 4095, 4096, 10_000])
@pytest.mark.parametrize("share", [1, 48, 4096, 97])
def test_the_largest_divisor_that_fits_is_found_in_few_trials(limit, share):
    tried = []
    sizes = batch_sizes(share)
    found = largest_fitting(sizes, lambda size: (tried.append(size), size <= limit)[1])
    assert found == max((size for size in sizes if size <= limit), default=None)
    assert len(tried) == len(set(tried)) <= 2 * len(sizes).bit_length() + 1


def test_found_size_is_said_with_what_was_tried():

    def trial(size):
        if size > 96:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with heard() as said:
        assert find_batch_size(batch_sizes(4096), trial) == 64
    assert "64" in said[0] and "128 too many" in said[0]
    with pytest.raises(RunError, match="`recompute`"):
        find_batch_size([128, 256], trial)
    with pytest.raises(RuntimeError, match="a bug"):
        find_batch_size([1], lambda size: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_auto_splits_the_step_and_never_changes_it():
    options = PretrainConfig(data="d", out="r", preset="pad-paper", batch_size="auto")
    made = make_plan(options, 178_756, device="cuda", world=4)
    assert made.effective_batch == 4096 and made.lr == pytest.approx(1.6e-3)
    assert make_plan(PretrainConfig(data="d", out="r", batch_size="auto"), 9999, device="cuda").effective_batch == 256


@pytest.mark.parametrize(
    ("options", "device", "words"),
    [({}, "cpu", "on a CPU give a number"), ({"accumulate": 2}, "cuda", "finds --accumulate too")],
)
def test_auto_where_it_cannot_be_is_one_sentence(options, device, words):
    with pytest.raises(RunError, match=words):
        make_plan(PretrainConfig(data="d", out="r", batch_size="auto", **options), 999, device=device)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("[enforce fail] ... can't allocate memory")]
)
def test_memory_that_runs_out_is_two_sentences_with_the_way_out(data, tmp_path, error):
    trainer = trainer_of(config(data, tmp_path / "run", epochs=3, save_every=1))
    backward = trainer._on_device.backward

    def full(batch, seen, **options):
        if trainer.step == 2:
            raise error
        return backward(batch, seen, **options)

    trainer._on_device.backward = full
    with pytest.raises(RunError) as caught:
        trainer.run()
    said = str(caught.value)
    assert "step 3" in said and "8 images of 32 px" in said and "`batch_size=4` `accumulate=2`" in said
    assert "`recompute`" in said and "`resume=auto`" in said and "\n" not in said
    options = config(data, tmp_path / "run", epochs=3, resume="auto", batch_size=4, accumulate=2, recompute=True)
    assert train(options).status == "finished"


@pytest.mark.gpu
def test_batch_size_is_found_on_a_gpu(data, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    result = train(config(data, tmp_path / "run", max_steps=2, device="cuda", batch_size="auto", effective_batch=24))
    assert result.status == "finished" and result.effective_batch == 24
