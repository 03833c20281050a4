"""Which local addresses are used, and that changes are noticed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import ip_address

from knothole.io.interfaces import (
    Closable,
    InterfaceWatch,
    choose_hosts,
    local_hosts,
)


def chosen(*addresses: str, loopback: bool = False) -> list[str]:
    return choose_hosts([ip_address(address) for address in addresses], loopback=loopback)


def test_ipv4_comes_first_and_the_order_of_the_system_is_kept() -> None:
    assert chosen("2001:db8::2", "10.0.0.2", "fd00::2", "192.168.1.2") == [
        "10.0.0.2",
        "192.168.1.2",
        "2001:db8::2",
        "fd00::2",
    ]


def test_addresses_that_no_candidate_can_carry_are_left_out() -> None:
    assert chosen(
        "169.254.1.1", "fe80::1%2", "fe80::1", "224.0.0.1", "0.0.0.0", "::", "10.0.0.2"
    ) == ["10.0.0.2"]
    assert chosen("::ffff:10.0.0.2", "fec0::1", "10.0.0.2", "10.0.0.2") == ["10.0.0.2"]


def test_loopback_only_when_there_is_nothing_else_or_it_is_asked_for() -> None:
    assert chosen("127.0.0.1", "10.0.0.2", "::1") == ["10.0.0.2"]
    assert chosen("127.0.0.1", "::1", "fe80::1") == ["127.0.0.1", "::1"]
    assert chosen("127.0.0.1", "10.0.0.2", loopback=True) == ["10.0.0.2", "127.0.0.1"]


def test_this_machine_has_at_least_one_address() -> None:
    assert local_hosts()
    assert "127.0.0.1" in local_hosts(loopback=True)


def no_events(changed: Callable[[], None]) -> Closable:
    """A system that says nothing."""
    raise OSError("nothing is said here")


async def test_a_change_is_told_once_and_a_new_order_is_none() -> None:
    lists = [["10.0.0.2", "fd00::2"], ["fd00::2", "10.0.0.2"], ["10.0.0.9"], ["10.0.0.9"]]
    told: list[list[str]] = []
    everything_read = asyncio.Event()

    def list_hosts(*, loopback: bool) -> list[str]:
        if len(lists) == 1:
            everything_read.set()
            return lists[0]
        return lists.pop(0)

    watch = InterfaceWatch(
        told.append, interval_seconds=0.001, events=no_events, list_hosts=list_hosts
    )
    assert watch.hosts == ["10.0.0.2", "fd00::2"]
    async with asyncio.timeout(40):
        await everything_read.wait()
    watch.check()
    watch.close()
    assert told == [["10.0.0.9"]]
    assert watch.hosts == ["10.0.0.9"]


async def test_where_the_system_tells_it_is_looked_at_once() -> None:
    class Events:
        def __init__(self, changed: Callable[[], None]) -> None:
            self.changed, self.closed = changed, False

        def close(self) -> None:
            self.closed = True

    lists = [["10.0.0.2"], ["10.0.0.9"]]
    told: list[list[str]] = []
    systems: list[Events] = []

    def events(changed: Callable[[], None]) -> Events:
        systems.append(Events(changed))
        return systems[0]

    watch = InterfaceWatch(told.append, events=events, list_hosts=lambda *, loopback: lists.pop(0))
    systems[0].changed()
    watch.close()
    assert told == [["10.0.0.9"]]
    assert systems[0].closed
