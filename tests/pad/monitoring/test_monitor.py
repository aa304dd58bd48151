"""What the clock of a run counts."""

import pytest

from pad.monitoring.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time is set by hand: (the clock, how to let seconds pass)."""
    now = [100.0]
    monkeypatch.setattr("pad.monitoring.clock.time.perf_counter", lambda: now[0])

    def passes(seconds):
        now[0] += seconds

    made = Clock()
    made.start()
    return made, passes


def test_speed_leaves_out_the_first_step_and_all_saving(clock):
    made, passes = clock
    for seconds in (10, 2, 2, 2):  # the first one compiles
        passes(seconds)
        made.step()
        with made.paused():
            passes(50)  # after the last step too: a checkpoint
    assert made.speed(8) == pytest.approx(3 * 8 / 6)


def test_window_counts_waiting_and_not_what_is_paused(clock):
    made, passes = clock
    with made.waiting():
        passes(1)
    passes(3)
    with made.paused():
        passes(7)
    assert made.window() == pytest.approx((4, 1))
    made.next_window()
    passes(2)
    assert made.window() == pytest.approx((2, 0))
