"""Routers restart, servers are killed, networks block: there is a line all the same.

The figures promised are measured by `./dev bench recovery`; here nothing is timed closely, because
a loaded machine must not fail a test.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from knothole.lab.programs import Program
from knothole.lab.recovery import PATIENCE_SECONDS, Town
from knothole.lab.stage import START_SECONDS

pytestmark = pytest.mark.netns

BLOCK = """
add table inet block
add chain inet block out { type filter hook forward priority -10; }
"""


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_line_goes_on_when_a_router_restarts(stage: Callable[..., Town], name: str) -> None:
    gap = stage().restart_router(name)
    assert (gap.before, gap.after) == ("direct", "direct")


def test_a_line_goes_on_when_the_provider_gives_another_address(
    stage: Callable[..., Town],
) -> None:
    gap = stage().restart_router("alice", new_address=True)
    assert (gap.before, gap.after) == ("direct", "direct")


def test_a_killed_server_comes_back_and_a_direct_line_never_noticed(
    stage: Callable[..., Town],
) -> None:
    gap, _ = stage().kill_server()
    assert (gap.before, gap.after) == ("direct", "direct")


@pytest.mark.parametrize(
    "blocked",
    [
        ["meta l4proto udp", "ip daddr 2.2.2.2"],  # by TCP it becomes direct
        ['iifname "lan" meta l4proto { udp, tcp } th dport != 443'],
    ],
    ids=["udp", "all but tcp 443"],
)
def test_a_network_that_lets_little_out_is_relayed(
    stage: Callable[..., Town], blocked: list[str]
) -> None:
    built = stage(serve=["--also-listen", "443"])
    rules = [f"add rule inet block out {each} drop\n" for each in blocked]
    built.lab.router("alice").namespace.nft(BLOCK, *rules)
    assert set(paths_of_pings(built, 3)) == {"relayed"}


@pytest.mark.parametrize("nats", [("random", "random"), ("sequential", "random")])
def test_where_no_hole_can_be_opened_the_relay_carries(
    stage: Callable[..., Town], nats: tuple[str, str]
) -> None:
    assert set(paths_of_pings(stage(nats=nats), 5)) == {"relayed"}


@pytest.mark.parametrize("nats", [("random", "linux"), ("sequential", "range")])
def test_a_hole_that_nobody_could_foresee_is_found_while_the_relay_carries(
    stage: Callable[..., Town], nats: tuple[str, str]
) -> None:
    pings = stage(nats=nats).start("alice", "ping", "bob", "-i", "0.1")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while path_of_next_ping(pings) == "relayed":
        assert time.monotonic() < deadline
    assert {path_of_next_ping(pings) for _ in range(10)} == {"direct"}  # never back to the relay


def paths_of_pings(built: Town, count: int) -> list[str]:
    """By which path each of so many answered pings went."""
    pings = built.start("alice", "ping", "bob", "-i", "0.3")
    paths = [path_of_next_ping(pings) for _ in range(count)]
    pings.process.send_signal(signal.SIGINT)
    assert pings.wait(START_SECONDS) == 0
    return paths


def path_of_next_ping(pings: Program) -> str:
    return str(pings.expect("pong", timeout=START_SECONDS)["path"])


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_a_line_goes_on_when_a_computer_gets_another_address(
    stage: Callable[..., Town], name: str
) -> None:
    gap = stage().change_interface(name)
    assert (gap.before, gap.after) == ("direct", "direct")


def test_a_line_goes_on_after_a_sleep(stage: Callable[..., Town]) -> None:
    gap = stage().suspend()
    assert (gap.before, gap.after) == ("direct", "direct")


def test_a_line_that_outlived_the_server_outlives_a_router_too(
    stage: Callable[..., Town],
) -> None:
    gap = stage().restart_router_after_server("alice")
    assert (gap.before, gap.after) == ("direct", "direct")
