"""Keepalives: as seldom as the mapping's lifetime lets us, and none while payload flows."""

from __future__ import annotations

import pytest

from knothole.engine.endpoint.discovery import NatDiscovery
from knothole.engine.endpoint.keepalive import keepalive_seconds
from knothole.lab.sim.trace import Action
from knothole.wire.nat import Dependence, NatReport

STUN = ("9.9.9.9", 3478)
ONE_FOR_ALL = NatReport(translated=True, mapping=Dependence.ENDPOINT_INDEPENDENT)
ONE_EACH = NatReport(translated=True, mapping=Dependence.ADDRESS_AND_PORT_DEPENDENT)


@pytest.mark.parametrize(
    ("lifetime", "seconds"),
    [
        (None, 12.0),
        (30.0, 12.0),
        (20.0, 7.0),
        (5.0, 4.0),
        (60.0, 27.0),
        (120.0, 57.0),
        (3600.0, 57.0),
    ],
)
def test_half_the_lifetime_less_a_margin_within_bounds(
    lifetime: float | None, seconds: float
) -> None:
    assert keepalive_seconds(NatReport(lifetime_seconds=lifetime)) == seconds


def test_without_a_report_it_is_the_safe_default() -> None:
    assert keepalive_seconds(None) == 12.0


def asked(town, since: float) -> int:
    """How many Binding requests Alice's standing socket has sent to the STUN server since then."""
    return sum(
        entry.at > since
        and entry.action is Action.SEND
        and entry.node == "alice1"
        and entry.packet.source.port == 5000  # not the fresh sockets of discovery
        and entry.packet.destination == STUN
        and entry.packet.payload[:2] == b"\x00\x01"
        for entry in town.world.trace
    )


def reporting(monkeypatch: pytest.MonkeyPatch, report: NatReport) -> None:
    """Everybody's discovery finds this."""
    fixed = property(lambda self: report, lambda self, learned: None)
    monkeypatch.setattr(NatDiscovery, "report", fixed, raising=False)


@pytest.mark.parametrize(("lifetime", "least", "most"), [(None, 9, 11), (120.0, 1, 3)])
def test_the_measured_lifetime_sets_the_pace(
    town, monkeypatch: pytest.MonkeyPatch, lifetime: float | None, least: int, most: int
) -> None:
    reporting(monkeypatch, NatReport(translated=True, lifetime_seconds=lifetime))
    town.resident("alice")
    town.settle(20.0)
    since = town.world.now
    town.run(120.0)
    assert least <= asked(town, since) <= most


@pytest.mark.parametrize(("report", "quiet"), [(ONE_FOR_ALL, True), (ONE_EACH, False)])
def test_none_is_sent_while_payload_keeps_the_same_mapping(
    town, monkeypatch: pytest.MonkeyPatch, report: NatReport, quiet: bool
) -> None:
    reporting(monkeypatch, report)
    alice, _ = town.resident("alice"), town.resident("bob")
    town.settle()
    call_id = alice.call("bob")
    town.run(10.0)

    def talk() -> None:
        if alice.over(call_id) is None:
            alice.send(call_id)
            town.world.after(1.0, talk)

    talk()
    town.run(15.0)
    since = town.world.now
    town.run(60.0)
    assert (asked(town, since) == 0) is quiet
    alice.hang_up(call_id)
    since = town.world.now
    town.run(30.0)
    assert asked(town, since) >= 2, "without payload they go on"
