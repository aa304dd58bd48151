import pytest
import torch

from pad.health import feature_std, rankme


def test_rank_and_spread_tell_a_collapse():
    torch.manual_seed(0)
    spread = torch.randn(2000, 16)
    assert 15 < rankme(spread) < 16.01 and feature_std(spread) == pytest.approx(1, abs=0.03)
    line = torch.randn(2000, 1) * torch.randn(1, 16)
    assert rankme(line) == pytest.approx(1, abs=1e-3)
    assert feature_std(torch.ones(50, 16) + 1e-5 * torch.randn(50, 16)) < 1e-3
