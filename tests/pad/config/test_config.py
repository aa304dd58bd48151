from __future__ import annotations

import pytest
import yaml
from training_runs import config, make_manifest, train

from msip.errors import ManifestError, ModelError, MsipError, RunError
from pad.config.plan import make_plan
from pad.config.pretraining import PretrainConfig, read_run
from pad.training.building import complete


def plan(images=178_756, device="cuda", world=1, **options):
    return make_plan(PretrainConfig(data="data", out="run", **options), images, device=device, world=world)


def test_paper_preset_is_the_papers_recipe():
    options = PretrainConfig(data="data", out="run", preset="pad-paper")
    assert (options.method, options.model, options.paradigm) == ("mae", "vit_base_patch16_224", "pad")
    assert (options.epochs, options.warmup_epochs, options.blr) == (100, 30, 1e-4)
    assert options.options == {"mask_ratio": 0.75}
    assert (options.scale, options.fusion, options.down_size, options.scale_freeze) == ("patchwise", "concat", 64, 0.6)
    assert options.roi_p == 0.85 and options.weight_decay == 0.05
    decoder = {"decoder_embed_dim": 512, "decoder_depth": 8, "decoder_num_heads": 16}
    assert complete(options).options == {"mask_ratio": 0.75, "norm_pix_loss": True, **decoder}
    made = make_plan(options, 178_756, device="cuda")
    assert made.effective_batch == 4096 and made.batch_size * made.accumulate == 4096
    assert made.lr == pytest.approx(1.6e-3)
    assert (made.steps_per_epoch, made.steps, made.warmup_steps) == (43, 4300, 30 * 43)


def test_effective_batch_gives_accumulation():
    assert plan(preset="pad-paper", batch_size=64).accumulate == 64
    assert plan(preset="pad-paper", batch_size=64, world=8).accumulate == 8
    assert plan(preset="pad-paper", accumulate=16).batch_size == 256
    assert plan(effective_batch=96, device="cpu").batch_size == 32
    assert plan(batch_size=8, accumulate=3, world=2).effective_batch == 48


def test_explicit_options_win_over_the_preset():
    options = PretrainConfig(data="data", out="run", preset="pad-paper", epochs=10, blr=1e-3)
    assert (options.epochs, options.blr) == (10, 1e-3)
    assert options.warmup_epochs == pytest.approx(3)  # the preset's share
    assert plan(preset="pad-paper", batch_size=64, accumulate=2).effective_batch == 128


def test_a_methods_own_recipe_lies_under_its_preset_and_that_under_options():
    plain = complete(PretrainConfig(data="data", out="run", method="ibot"))
    assert (plain.beta2, plain.clip_grad, plain.weight_decay, plain.weight_decay_end) == (0.999, 3.0, 0.04, 0.4)
    assert plain.options["mask_ratio"] == 0.3 and plain.epochs == 100
    preset = complete(PretrainConfig(data="data", out="run", preset="ibot", epochs=40, clip_grad=1.0))
    assert (preset.method, preset.effective_batch, preset.blr) == ("ibot", 1024, 5e-4)
    assert (preset.epochs, preset.warmup_epochs, preset.clip_grad) == (40, pytest.approx(1), 1.0)
    assert complete(preset) == preset and preset.explicit == {"data", "out", "preset", "epochs", "clip_grad"}


def test_an_option_of_another_method_passes_only_with_its_default():
    stored = {"data": "data", "out": "run", "method": "mae", "out_dim": 8192, "ema": 0.996, "teacher": None}
    assert "out_dim" not in complete(PretrainConfig(**stored)).options  # as version 0.1 wrote every run.yaml
    with pytest.raises(RunError, match="`method=mae` has no `out_dim`; leave it out"):
        complete(PretrainConfig(**{**stored, "out_dim": 4096}))


def test_preset_on_a_small_set_uses_what_there_is_and_says_so():
    made = plan(images=200, device="cpu", preset="pad-paper")
    assert made.effective_batch == 192 and made.steps_per_epoch == 1
    assert made.lr == pytest.approx(1e-4 * 192 / 256)
    assert "4,096" in made.notes[0] and "192" in made.notes[0]


def test_defaults_fit_small_sets():
    made = plan(images=20, device="cpu")
    assert made.batch_size == 20 and made.accumulate == 1 and made.steps == 100
    assert plan(images=10_000, device="cuda").batch_size == 256


def test_max_steps_is_the_length_of_the_run_and_keeps_the_warm_ups_share():
    made = plan(images=1000, batch_size=100, max_steps=50, epochs=100, warmup_epochs=20)
    assert made.steps == 50 and made.warmup_steps == pytest.approx(10)


def test_yaml_lies_between_preset_and_options(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"data": "there", "preset": "pad-paper", "blr": 2e-4, "batch-size": 16, "seed": 3}))
    options = PretrainConfig.layered({"out": "run", "seed": 5}, file)
    assert (str(options.data), options.blr, options.batch_size, options.seed) == ("there", 2e-4, 16, 5)
    assert options.epochs == 100 and options.warmup_epochs == 30


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"out": "run"}, "--data is missing"),
        ({"data": "d"}, "--out is missing"),
        ({"bacth_size": 3}, "did you mean 'batch_size'?"),
        ({"xyz": 3}, "there is no option 'xyz'; leave it out."),
        ({"batch_size": 0}, "--batch-size is 0"),
        ({"batch_size": "many"}, "--batch-size is 'many'"),
        ({"mask_ratio": 1.0}, "--mask-ratio"),
        ({"scale": "patch"}, "--scale is 'patch', but input should be 'fixed', 'learnable' or 'patchwise'"),
        ({"preset": "paper"}, "`preset` is 'paper'; choose one of pad-paper, pad-milan, mae"),
        ({"preset": ["paper"]}, "--preset"),
        ({"epochs": "x", "preset": "pad-paper"}, "--epochs is 'x'"),
        ({"device": "tpu"}, "--device is 'tpu'"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_wrong_options_are_one_sentence(options, words):
    required = {} if words.endswith("missing") else {"data": "d", "out": "run"}
    with pytest.raises(RunError) as error:
        complete(PretrainConfig(**required, **options))
    assert words in str(error.value)
    assert "\n" not in str(error.value) and str(error.value).endswith((".", "?")) and "?." not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 30}, "choose a smaller --batch-size"),
        ({"effective_batch": 30}, "choose a smaller --batch-size"),
        ({"effective_batch": 16, "batch_size": 3}, "cannot be split"),
        ({"effective_batch": 16, "batch_size": 3, "accumulate": 2}, "not --effective-batch 16"),
        ({"warmup_epochs": 200}, "shorter warm-up"),
    ],
)
def test_plans_that_cannot_be_are_one_sentence(options, words):
    with pytest.raises(RunError, match=words) as error:
        plan(images=20, device="cpu", **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "proposed"),
    [
        ({"world": 3}, 4104),  # 6 passes of 228
        ({"world": 7}, 4095),  # 3 passes of 195
        ({"world": 3, "batch_size": 64}, 4032),
        ({"world": 3, "accumulate": 5}, 4095),
        ({"world": 3, "device": "cpu"}, 4128),  # 43 passes of 32
        ({"batch_size": 48}, 4080),
    ],
)
def test_a_step_that_cannot_be_shared_out_comes_with_one_that_can(options, proposed):
    """Whoever follows the advice gets a plan of few and large passes."""
    with pytest.raises(RunError, match=rf"--effective-batch {proposed}\b") as error:
        plan(preset="pad-paper", images=178756, **options)
    assert "\n" not in str(error.value) and "4,096" in str(error.value)
    made = plan(preset="pad-paper", images=178756, effective_batch=proposed, **options)
    assert made.effective_batch == proposed and made.batch_size >= 32


@pytest.mark.parametrize(("text", "words"), [("- 1", "option: value"), ("a: [", "not YAML"), (None, "cannot be read")])
def test_wrong_files_are_one_sentence(tmp_path, text, words):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(RunError, match=words) as error:
        PretrainConfig.layered({}, file)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A finished run, to be mistaken for others."""
    run = tmp_path_factory.mktemp("runs") / "run"
    train(config(data, run, max_steps=3))
    return run


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"method": "meow"}, RunError, "choose one of mae"),
        ({"paradigm": "pda"}, RunError, "choose one of pad"),
        ({"model": "vit_huge_nope"}, ModelError, "vit_huge_nope"),
        ({"init": "nowhere.pth"}, MsipError, "nowhere.pth"),
        ({"data": "nowhere"}, ManifestError, "msip build"),
        ({"method": "mae", "teacher": "clip"}, RunError, "has no `teacher`"),
        ({"exclude_flag": ["blank"], "batch_size": 24}, RunError, "has 23"),
    ],
)
def test_runs_that_cannot_start_leave_nothing_behind(data, tmp_path, options, kind, words):
    with pytest.raises(kind, match=words) as error:
        train(config(**{"data": data, "out": tmp_path / "run", **options}))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_cuda_without_a_gpu_is_one_sentence(data, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RunError, match="`device=cpu`"):
        train(config(data, tmp_path / "run", device="cuda"))


def test_data_is_a_folder_or_a_url():
    given = ("data/", "file:///data/msip/", "s3://bucket/shards")
    assert [PretrainConfig(data=data, out="run").data for data in given] == ["data", "/data/msip", given[2]]


def test_resume_needs_only_the_run(stopped, data):
    options = PretrainConfig.layered({"out": stopped, "resume": "auto"})
    assert options.data == str(data)
    assert train(options).status == "already finished"


@pytest.mark.parametrize("changed", [{"seed": 1}, {"blr": 1.0}, {"epochs": 9}, {"max_steps": 4}, {"scale": "fixed"}])
def test_another_run_is_not_a_resume(stopped, data, changed):
    with pytest.raises(RunError, match=r"differs.*leave it out.*another --out") as error:
        train(config(data, stopped, **{"max_steps": 3, **changed}, resume="auto"))
    assert f"--{next(iter(changed)).replace('_', '-')}" in str(error.value)


def test_step_of_another_size_is_not_a_resume(stopped, data):
    (stopped / "result.json").rename(stopped / "kept.json")
    try:
        options = {"out": stopped, "resume": "auto", "batch_size": 3}
        with pytest.raises(RunError, match="--batch-size"):
            train(PretrainConfig.layered(options))
    finally:
        (stopped / "kept.json").rename(stopped / "result.json")


def test_the_same_step_can_be_split_otherwise(stopped):
    stored = read_run(stopped)
    options = PretrainConfig(data="d", out=stopped, resume="auto", batch_size=4).continued(stored["config"])
    made = make_plan(options, 24, device="cpu")
    assert (made.batch_size, made.accumulate, made.effective_batch) == (4, 2, 8)


def test_changed_data_are_not_a_resume(tmp_path):
    root = make_manifest(tmp_path / "data").root
    train(config(root, tmp_path / "run", max_steps=2))
    (tmp_path / "run" / "result.json").unlink()
    make_manifest(tmp_path / "data", images=20)
    with pytest.raises(RunError, match="has changed"):
        train(config(root, tmp_path / "run", max_steps=2, resume="auto"))


def test_resume_by_path_and_its_mistakes(stopped, data, tmp_path):
    options = {"max_steps": 3, "resume": str(stopped / "checkpoints" / "step-00000003")}
    assert train(config(data, tmp_path / "other", **options)).steps == 3
    assert read_run(tmp_path / "other")["config"]["out"] == str(tmp_path / "other")
    with pytest.raises(RunError, match="no checkpoint"):
        train(config(data, tmp_path / "third", resume=str(tmp_path)))
    with pytest.raises(RunError, match="another run"):
        train(config(data, tmp_path / "other", resume=str(stopped)))
