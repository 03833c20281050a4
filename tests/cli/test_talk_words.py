"""How a call is told: one line for people, numbers for programs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from knothole.apps.call_outcome import CallStats
from knothole.cli.talk import clock, meter, stats_facts, stats_text
from knothole.engine.voice.call import CallState
from knothole.peer.line import Path
from knothole.wire.address import Address

STATS = CallStats(
    duration_seconds=75.4,
    state=CallState.FLOWING,
    path=Path("direct", Address("192.0.2.1", 1), Address("192.0.2.2", 2), 0.04),
    muted=False,
    rtt_seconds=0.0412,
    loss_in=0.02,
    loss_out=0.0,
    level_in_db=-30.0,
    level_out_db=-127.0,
    jitter_seconds=0.003,
    playout_delay_seconds=0.04,
    mouth_to_ear_seconds=0.0871,
    packets_sent=1,
    packets_received=2,
    packets_lost=3,
    packets_late=4,
    frames_played=5,
    frames_recovered=6,
    frames_concealed=7,
)


def test_the_line_has_duration_path_round_trip_delay_loss_and_levels() -> None:
    assert stats_text(STATS, "bob") == (
        "1:15  direct  you [     ]  bob [██▄  ]  rtt 41 ms  delay 87 ms  loss in 2.0% out 0.0%"
    )


def test_the_line_says_who_is_muted_or_not_heard() -> None:
    assert "you muted" in stats_text(replace(STATS, muted=True), "bob")
    assert "bob muted" in stats_text(replace(STATS, state=CallState.MUTED), "bob")
    assert "bob not heard" in stats_text(replace(STATS, state=CallState.SILENT), "bob")


def test_before_the_first_round_trip_nothing_is_said_of_it() -> None:
    text = stats_text(replace(STATS, rtt_seconds=None, mouth_to_ear_seconds=None), "bob")
    assert "rtt" not in text and "delay" not in text


def test_programs_get_times_in_milliseconds_and_the_path_in_parts() -> None:
    facts = stats_facts(STATS)
    assert facts["rtt_ms"] == 41.2
    assert facts["mouth_to_ear_ms"] == 87.1
    assert facts["duration_seconds"] == 75.4
    assert (facts["path"], facts["local"]) == ("direct", "192.0.2.1:1")
    assert facts["state"] == "flowing"
    assert not any(name.endswith("_seconds") for name in facts if name != "duration_seconds")


@pytest.mark.parametrize(
    ("level", "bar"),
    [(-127, "[     ]"), (-60, "[     ]"), (-54, "[▄    ]"), (-30, "[██▄  ]"), (0, "[█████]")],
)
def test_a_level_is_five_blocks(level: float, bar: str) -> None:
    assert meter(level) == bar


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.9, "0:59"), (60, "1:00"), (3725, "1:02:05")]
)
def test_a_duration_reads_like_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text
