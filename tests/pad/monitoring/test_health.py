import pytest
import torch
from training_runs import config, heard, make_manifest, train

from msip.errors import RunError
from pad.monitoring.health import COLLAPSED, feature_std, measure, rankme
from pad.monitoring.monitor import read_metrics


def test_rank_and_spread_tell_a_collapse():
    torch.manual_seed(0)
    spread = torch.randn(2000, 16)
    assert 15 < rankme(spread) < 16.01 and feature_std(spread) == pytest.approx(1, abs=0.03)
    line = torch.randn(2000, 1) * torch.randn(1, 16)
    assert rankme(line) == pytest.approx(1, abs=1e-3)
    assert feature_std(torch.ones(50, 16) + 1e-5 * torch.randn(50, 16)) < 1e-3


@pytest.mark.parametrize(("blr", "collapses"), [(10.0, True), (1e-3, False)])
def test_a_run_that_collapses_says_so_and_another_does_not(tmp_path, blr, collapses):
    """A learning rate four orders too high makes all features of a ViT that trains whole alike."""
    data = make_manifest(tmp_path / "data").root
    with heard() as lines:
        train(config(data, tmp_path / "run", paradigm="scratch", blr=blr, epochs=5))
    spread = [line["feature_std"] for line in read_metrics(tmp_path / "run") if "feature_std" in line]
    said = [line for line in lines if "features collapse" in line]
    assert (spread[-1] < COLLAPSED * spread[0]) is collapses and bool(said) is collapses
    assert ("Features collapsed at step" in (tmp_path / "run/report.html").read_text()) is collapses
    assert all(f"from {spread[0]:.3g} to" in line and line.endswith("lower `blr`.") for line in said)


def test_features_beyond_all_numbers_end_the_run_as_any_step_that_is_not_finite(tmp_path):
    """The first update blows the weights up: features cannot be measured, and the next step cannot be taken."""
    data = make_manifest(tmp_path / "data").root
    with heard() as said, pytest.raises(RunError, match="is not finite at step 2 "):
        train(config(data, tmp_path / "run", paradigm="continual", blr=1e8, warmup_epochs=0))
    line = read_metrics(tmp_path / "run")[-1]
    assert line["step"] == 1 and line["rankme"] is None and line["feature_std"] is None
    assert "warning: the encoder's features are not finite; lower `blr`." in said
    assert (tmp_path / "run/checkpoints/step-00000001").is_dir()
    assert "Features were not finite at step 1." in (tmp_path / "run/report.html").read_text()


def test_health_does_not_depend_on_how_large_features_are():
    class Encoder:
        num_prefix_tokens = 0

        def __init__(self, size: float) -> None:
            self.size = size

        def forward_features(self, images):
            return images * self.size

    def health(size: float) -> dict[str, float]:
        method = torch.nn.Module()
        method.encoder = Encoder(size)
        return measure(method, tokens)

    tokens = torch.randn(2, 50, 8)
    assert health(1.0)["rankme"] > 7
    for size in (1e-30, 1e30):
        assert health(size) == pytest.approx(health(1.0), rel=1e-3)
