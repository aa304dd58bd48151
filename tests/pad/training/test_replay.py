"""A step that is not finite is taken again, and the layer named, in the run and by `msip replay`."""

from __future__ import annotations

import itertools
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from msip_cli.main import app
from trainers import trainer_of
from training_runs import config, make_manifest, train
from typer.testing import CliRunner

from msip.errors import RunError
from pad.adapters.bottleneck import Adapter
from pad.config.pretraining import PretrainConfig, read_run
from pad.training.non_finite import Finding, StepFacts, _passes, _watched_pass, advice
from pad.training.parallel import SingleProcess
from pad.training.replay import replay
from pad.training.step import Step


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_manifest(tmp_path_factory.mktemp("data")).root


def poison(trainer, module, *, at_image: str) -> None:
    """Weights that overflow in ``module`` once the image ``at_image`` comes by, in any later pass too."""
    wanted = next(row for row in range(24) if trainer.dataset.index.image_id(row) == at_image)
    step = trainer._on_device
    backward = step.backward

    def with_poison(batch, *args, **kwargs):
        if wanted in batch["row"].tolist():
            with torch.no_grad():
                module.weight.fill_(3e38)
        return backward(batch, *args, **kwargs)

    step.backward = with_poison


def run_into_it(data, run, name, **options) -> str:
    trainer = trainer_of(config(data, run, epochs=3, accumulate=2, batch_size=4, workers=0, **options))
    trainer._rehearse = lambda batches: (trainer._set_scales(), batches)[1]
    poison(
        trainer,
        trainer.method.get_submodule(name),
        at_image=StepFacts.of(trainer.dataset, trainer.config, trainer.plan, 1, 1).image_ids[5],
    )
    with pytest.raises(RunError) as error:
        trainer.run()
    return str(error.value)


def test_first_layer_that_is_not_finite_is_named(data, tmp_path):
    said = run_into_it(data, tmp_path / "run", "encoder.blocks.3.adapter.down")
    assert "step 2 " in said and "\n" not in said
    assert "output of encoder.blocks.3.adapter.down is the first that is not finite (pass 1 of 2)" in said


def test_a_layer_inside_a_compiled_block_is_named(data, tmp_path, monkeypatch):
    """Traced as on a GPU; the kernels are torch's plain ones."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    said = run_into_it(data, tmp_path / "run", "encoder.blocks.3.adapter.down", compile=True)
    assert "output of encoder.blocks.3.adapter.down is the first that is not finite" in said


def test_the_command_takes_the_kept_step_again(data, tmp_path, monkeypatch):
    run = tmp_path / "run"
    trainer = trainer_of(config(data, run, epochs=3, accumulate=2, batch_size=4))
    forward, calls = Adapter.forward, itertools.count()

    def overflowing(self, x, mlp):
        """The adapter of block 4 divides by zero from the fifth pass on: in step 2 of the run, and when replayed."""
        out = forward(self, x, mlp)
        count = next(calls) if self.training else -1
        number = count // 6
        return out / 0.0 if count % 6 == 4 and number >= 5 else out

    monkeypatch.setattr(Adapter, "forward", overflowing)
    with pytest.raises(RunError, match=r"encoder\.blocks\.4\.adapter"):
        trainer.run()
    calls = itertools.count(5 * 6)
    finding = replay(run, device="cpu")
    assert (finding.kind, finding.name, finding.number, finding.passes) == ("output", "encoder.blocks.4.adapter", 1, 2)
    assert len(finding.image_ids) == 4
    monkeypatch.setattr(Adapter, "forward", forward)
    said = CliRunner().invoke(app, ["replay", str(run), "--device", "cpu"])
    assert said.exit_code == 0 and "all of it is finite" in said.stdout


def test_replayed_step_is_the_step(data, tmp_path):
    """The same loss from the kept facts as the run had: images, crops, masks, dropout, passes."""
    run = tmp_path / "run"
    trainer = trainer_of(config(data, run, epochs=2, accumulate=2, batch_size=4))
    losses: list[float] = []
    update = trainer._on_device.update
    trainer._on_device.update = lambda loss, number: (losses.append(float(loss)), update(loss, number))[1]
    facts = StepFacts.of(trainer.dataset, trainer.config, trainer.plan, 0, 1)
    again: list[torch.Tensor] = []

    trainer.method.train()
    trainer._set_scales()
    single = Step(SingleProcess(trainer.method, trainer.optimizer, torch.device("cpu")), seed=trainer.config.seed)
    backward = single.backward
    single.backward = lambda *args, **kwargs: again.append(backward(*args, **kwargs)) or again[-1]
    seen = 0
    for rows in _passes(trainer.dataset, facts):
        assert _watched_pass(single, trainer.dataset, 0, rows, seen, share=0.5) == ("", "")
        seen += len(rows)
    single.parallel.zero_grad()
    trainer.run()
    assert float(sum(again)) == pytest.approx(losses[0], rel=1e-6)


def test_gradient_that_overflows_alone_is_found(data, tmp_path, monkeypatch):
    class Overflowing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float("inf")

    forward = Adapter.forward

    def steep(self, x, mlp):
        out = forward(self, x, mlp)
        return Overflowing.apply(out) if getattr(self, "steep", False) else out

    monkeypatch.setattr(Adapter, "forward", steep)
    trainer = trainer_of(config(data, tmp_path / "run", epochs=3))
    trainer.method.encoder.blocks[2].adapter.steep = True
    with pytest.raises(
        RunError, match=r"gradient that reaches the output of encoder\.blocks\.2\.adapter\.(up|scale_predictor) "
    ) as error:
        trainer.run()
    assert "step 1 " in str(error.value)


def test_gradients_too_large_for_their_norm_are_said_to_be(data, tmp_path):
    """Each is finite, the sum of their squares is not."""
    trainer = trainer_of(config(data, tmp_path / "run", epochs=3, accumulate=2, batch_size=4))
    trainer.method.decoder_pred.bias.register_hook(lambda gradient: gradient * 1e25)
    with pytest.raises(RunError, match=r"so large that their norm is not; .* that of decoder_pred\.bias\. "):
        trainer.run()
    assert replay(tmp_path / "run", device="cpu").kind == "nothing"  # that hook was the cause


@pytest.fixture(scope="module")
def blown_up(data, tmp_path_factory) -> tuple[Path, str]:
    """A run whose second step is far too long, so that the third cannot be taken; and what it said."""
    run = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(RunError, match="is not finite at step 3 ") as error:
        train(config(data, run, paradigm="continual", blr=1e8, warmup_epochs=1, save_every=1))
    return run, str(error.value)


def test_the_advice_after_such_a_step_can_be_followed(data, blown_up, tmp_path):
    run, said = blown_up
    advised = f"with `resume={run}/checkpoints/step-00000001` and with a lower `blr`, e.g. 5e+07, or with `clip_grad`."
    assert said.endswith(f"Continue from before {advised}")
    run = shutil.copytree(run, tmp_path / "run")
    earlier = str(run / "checkpoints/step-00000001")
    result = train(PretrainConfig(data=data, out=run, resume=earlier, blr=1e-3, clip_grad=1.0))
    assert result.status == "finished" and result.lr == pytest.approx(1e-3 * 8 / 256)
    stored = read_run(run)
    assert (stored["config"]["blr"], stored["config"]["clip_grad"]) == (1e-3, 1.0)
    entry = stored["continued"][0]
    assert (entry["step"], entry["blr"], entry["clip_grad"]) == (1, 1e-3, 1.0)
    assert entry["before"] == {"blr": 1e8, "clip_grad": None} and stored["plan"]["lr"] == result.lr
    assert "1, --blr 0.001, before" in (run / "report.html").read_text()
    with pytest.raises(RunError, match=r"--blr 0\.002 differs from the 0\.001"):  # past that step, a run like any other
        train(PretrainConfig(data=data, out=run, resume="auto", blr=2e-3))


def test_other_options_stay_as_they_were_after_such_a_step(data, blown_up):
    with pytest.raises(RunError, match=r"--mask-ratio .* differs"):
        train(PretrainConfig(data=data, out=blown_up[0], resume="auto", blr=1e-3, mask_ratio=0.5))


def test_without_an_earlier_checkpoint_the_advice_is_a_new_run(data, tmp_path):
    with pytest.raises(RunError, match=r"Start a new run in another `out` with a lower `blr`, e\.g\. 5e\+07, or"):
        train(config(data, tmp_path / "run", paradigm="continual", blr=1e8, warmup_epochs=0))
    options = PretrainConfig(data=data, out=tmp_path / "run", resume="auto")
    assert "Give `resume=auto` `precision=fp32`. If" in advice(options, 1, bf16=True)


def test_a_run_without_such_a_step_says_so(tmp_path):
    with pytest.raises(RunError, match="no step of it had to be called off"):
        replay(tmp_path)
    assert Finding("nothing").sentence().endswith(".")
