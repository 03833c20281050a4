"""docs/protocol/connection.md Section 9 says what the code does."""

from __future__ import annotations

from pathlib import Path

from knothole.engine import connection, pulse
from knothole.engine.endpoint import parting
from knothole.engine.ice.consent import CONSENT_TIMEOUT
from knothole.engine.secure import library

TEXT = (Path(__file__).parents[2] / "docs" / "protocol" / "connection.md").read_text()


def test_the_numbers_of_a_failing_path_are_those_of_the_code() -> None:
    first = connection.FIRST_SUSPICION_SECONDS
    again = f"{first:g} s, or {connection.SUSPECT_RTTS} round trips"
    for sentence in (
        f"within {parting.PARTING_SECONDS:g} s.",
        f"at most {connection.PATH_ZERO_BYTES} bytes from each end",
        f"unanswered for {again}",
        f"After {connection.SUSPECT_SECONDS:g} s, and then",
        f"none for {pulse.QUIET_GAPS:g} times the widest recent pause",
        f"({pulse.LEAST_QUIET_SECONDS:g} to {pulse.MOST_QUIET_SECONDS:g} s)",
        f"hears nothing for {connection.SILENT_SECONDS:g} s",
        f"A line ends when for {connection.GONE_SECONDS:g} s",
        f"ends {connection.GONE_SECONDS - CONSENT_TIMEOUT:g} s before that",
        f"by PING, {connection.DOUBT_PINGS} times in {connection.DOUBT_SECONDS:g} s",
    ):
        assert sentence in TEXT


def test_quic_does_not_end_a_line_before_the_line_does() -> None:
    assert library.IDLE_TIMEOUT > connection.GONE_SECONDS
