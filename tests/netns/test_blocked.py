"""UDP blocked, all but TCP 443 blocked, all but a proxy blocked: the real programs connect by
themselves."""

from __future__ import annotations

import pytest

from knothole.lab.netns.line import LineSettings
from knothole.lab.programs import KnotholeCommands
from knothole.lab.trial import Setting, Trial, Verdict

LINE = LineSettings(one_way_seconds=0.010)


def both_ways(one: str, other: str, verdict: Verdict) -> None:
    settle_seconds = 40.0 if verdict is Verdict.DIRECT else 1.5
    setting = Setting(line=LINE, settle_seconds=settle_seconds, timeout_seconds=60.0)
    with Trial((one, other), KnotholeCommands(), setting) as trial:
        for reverse in (False, True):
            run = trial.run(reverse=reverse)
            assert run.verdict is verdict, run


@pytest.mark.netns
@pytest.mark.parametrize("other", ["linux", "linux+tcp443"])
def test_all_but_tcp_443_blocked_is_relayed_over_tls_on_443(other: str) -> None:
    both_ways("linux+tcp443", other, Verdict.RELAYED)


@pytest.mark.netns
@pytest.mark.parametrize("other", ["linux", "linux+proxy"])
def test_all_but_a_proxy_blocked_is_relayed_through_the_proxy(other: str) -> None:
    both_ways("linux+proxy", other, Verdict.RELAYED)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("linux+no-udp", "linux"),
        ("linux+no-udp", "linux+no-udp"),
        ("firewall+no-udp", "range"),
        ("sequential+no-udp", "linux"),
        ("sequential", "sequential+no-udp"),
        ("eim-apdf+no-udp", "sequential-down"),
    ],
)
def test_udp_blocked_becomes_a_direct_tcp_connection(one: str, other: str) -> None:
    both_ways(one, other, Verdict.DIRECT)


@pytest.mark.netns
def test_tcp_ports_by_chance_stay_on_the_relay() -> None:
    both_ways("random+no-udp", "linux", Verdict.RELAYED)
