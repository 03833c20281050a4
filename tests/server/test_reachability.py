from __future__ import annotations

import pytest

from knothole.engine.core import Datagram
from knothole.server.reachability import Evidence, Origin, Ports, Report, Way, origin_of
from knothole.wire.address import Address

MACHINE = ("10.0.0.5", "8.8.8.8", "2a00::1")
SERVER = Address("8.8.8.8", 3478)


def from_(*hosts: str) -> list[Datagram]:
    return [Datagram(Address(host, 1234), SERVER, b"x") for host in hosts]


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1", Origin.MACHINE),
        ("::1", Origin.MACHINE),
        ("8.8.8.8", Origin.MACHINE),
        ("10.0.0.5", Origin.MACHINE),
        ("2a00::1", Origin.MACHINE),
        ("10.0.0.6", Origin.NETWORK),
        ("192.168.1.1", Origin.NETWORK),
        ("172.31.255.255", Origin.NETWORK),
        ("100.64.0.1", Origin.NETWORK),
        ("fd00::5", Origin.NETWORK),
        ("fe80::1%eth0", Origin.NETWORK),
        ("172.32.0.1", Origin.OUTSIDE),
        ("1.1.1.1", Origin.OUTSIDE),
        ("2a00::2", Origin.OUTSIDE),
    ],
)
def test_where_a_datagram_comes_from_says_what_it_proves(host, origin) -> None:
    assert origin_of(host, MACHINE) is origin


def test_only_news_are_told() -> None:
    told: list[tuple[Way, Origin]] = []
    evidence = Evidence(MACHINE, lambda way, origin: told.append((way, origin)))
    evidence.came(Way.MAIN, from_("127.0.0.1", "8.8.8.8"))
    assert told == []
    evidence.came(Way.MAIN, from_("10.0.0.6"))
    evidence.came(Way.MAIN, from_("10.0.0.7", "10.0.0.6"))
    evidence.came(Way.MAIN, from_("1.1.1.1"))
    evidence.came(Way.MAIN, from_("2.2.2.2", "10.0.0.8"))
    evidence.came(Way.RELAY_RANGE, from_("8.8.8.8", "1.1.1.1"))
    assert told == [
        (Way.MAIN, Origin.NETWORK),
        (Way.MAIN, Origin.OUTSIDE),
        (Way.RELAY_RANGE, Origin.OUTSIDE),
    ]


def test_many_hosts_of_the_own_network_take_little_memory_and_hide_nothing() -> None:
    told: list[Origin] = []
    evidence = Evidence(MACHINE, lambda way, origin: told.append(origin))
    for number in range(5000):
        evidence.came(Way.MAIN, from_(f"10.1.{number >> 8}.{number & 255}"))
    evidence.came(Way.MAIN, from_("1.1.1.1"))
    assert told == [Origin.NETWORK, Origin.OUTSIDE]


@pytest.fixture
def said() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def report(said) -> Report:
    ports = Ports(3478, (443,), 3479, (49152, 65535))
    return Report(ports, lambda event, text: said.append((event, text)))


def test_the_operator_is_told_what_to_open() -> None:
    assert Ports(3478, (443, 80), 3479, (50000, 50099)).to_open() == [
        "udp 3478: needed (STUN, relay)",
        "tcp 3478, 443, 80: needed (switchboard; relay where UDP is blocked)",
        "udp 3479: optional: what clients' NATs do; more lines are direct",
        "udp 50000-50099: optional: relaying to other people's programs",
    ]
    assert Ports(3478, (), 0, None).to_open() == [
        "udp 3478: needed (STUN, relay)",
        "tcp 3478: needed (switchboard; relay where UDP is blocked)",
    ]


def test_the_operator_is_told_what_is_reached_and_from_where(report, said) -> None:
    report.came(Way.MAIN, Origin.NETWORK)
    report.came(Way.MAIN, Origin.OUTSIDE)
    report.came(Way.MAIN, Origin.NETWORK)
    report.came(Way.RELAY_RANGE, Origin.OUTSIDE)
    assert said == [
        ("reached", "udp 3478: reached from a private network, not from outside yet"),
        ("reached", "udp 3478: reached from outside"),
        ("reached", "udp 49152-65535: reached from outside"),
    ]


def test_clients_without_any_udp_are_a_reason_to_warn_once(report, said) -> None:
    report.look(3)
    report.look(4)
    [(event, text)] = said[:1]
    assert event == "warning"
    assert text == (
        "no UDP has reached port 3478 so far although 3 clients are registered: "
        "is udp 3478 open in the firewall?"
    )
    report.came(Way.MAIN, Origin.OUTSIDE)
    assert said[-1] == ("reached", "udp 3478: reached from outside")


def test_without_clients_nothing_is_suspected(report, said) -> None:
    report.look(0)
    assert said == []


def test_of_what_is_optional_it_is_said_that_it_is(report, said) -> None:
    report.came(Way.MAIN, Origin.OUTSIDE)
    report.came(Way.DISCOVERY, Origin.OUTSIDE)
    report.look(1)
    assert said[2:] == [
        (
            "warning",
            "udp 49152-65535: nothing has come in so far; optional, but is it open in the "
            "firewall?",
        )
    ]
