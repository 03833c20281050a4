"""How soon it is quiet."""

from __future__ import annotations

import pytest

from knothole.engine.pulse import LEAST_QUIET_SECONDS, Pulse


@pytest.mark.parametrize(
    ("every", "quiet"), [(0.02, LEAST_QUIET_SECONDS), (0.1, 0.3), (0.5, 1.5), (2.0, None)]
)
def test_three_packets_are_missing_before_it_is_quiet(every: float, quiet: float | None) -> None:
    pulse = Pulse()
    for number in range(100):
        seconds = pulse.beat(number * every)
    assert seconds == pytest.approx(quiet) if quiet else seconds is None


def test_a_pause_is_remembered_for_a_while() -> None:
    pulse = Pulse()
    for number in range(100):
        pulse.beat(number * 0.02)
    assert pulse.beat(2.5) == pytest.approx(3 * (2.5 - 99 * 0.02))
    later = [pulse.beat(2.5 + number * 0.02) for number in range(1, 100)]
    assert later[-1] == LEAST_QUIET_SECONDS
