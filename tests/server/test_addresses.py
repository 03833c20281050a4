from __future__ import annotations

import pytest

from knothole.server import addresses
from knothole.server.addresses import (
    advertised_host,
    discovery_partners,
    listening_addresses,
    machine_addresses,
    relay_addresses,
)

MACHINE = ("127.0.0.1", "10.0.0.5", "8.8.8.8", "::1", "fe80::1", "fd00::1", "2a00::1")


@pytest.fixture
def all_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "is_usable", lambda host: True)


def test_no_host_is_every_address_but_link_local_ones(all_usable) -> None:
    assert listening_addresses((), MACHINE) == tuple(a for a in MACHINE if a != "fe80::1")


def test_a_wildcard_is_every_address_of_its_family(all_usable) -> None:
    assert listening_addresses(("0.0.0.0",), MACHINE) == ("127.0.0.1", "10.0.0.5", "8.8.8.8")
    assert listening_addresses(("::",), MACHINE) == ("::1", "fd00::1", "2a00::1")
    assert listening_addresses(("10.0.0.5", "::"), MACHINE)[0] == "10.0.0.5"


def test_chosen_hosts_are_taken_as_they_are() -> None:
    assert listening_addresses(("8.8.8.8", "8.8.4.4"), MACHINE) == ("8.8.8.8", "8.8.4.4")


def test_an_address_that_cannot_be_bound_yet_is_left_out_of_all() -> None:
    assert listening_addresses((), ("127.0.0.1", "203.0.113.99")) == ("127.0.0.1",)


def test_the_machine_has_loopback_and_every_address_once() -> None:
    found = machine_addresses()
    assert "127.0.0.1" in found
    assert len(set(found)) == len(found)
    assert not any("%" in host for host in found)


def test_first_come_the_addresses_that_lead_to_the_internet(monkeypatch) -> None:
    every = machine_addresses()
    monkeypatch.setattr(addresses, "source_towards", lambda host: every[-1])
    assert machine_addresses()[0] == every[-1]
    assert sorted(machine_addresses()) == sorted(every)
    monkeypatch.undo()
    assert addresses.source_towards("127.0.0.2") == "127.0.0.1"
    assert addresses.source_towards("255.255.255.255") is None


def test_relayed_addresses_are_public_ones_where_there_are() -> None:
    assert relay_addresses(MACHINE) == {"8.8.8.8": "8.8.8.8", "2a00::1": "2a00::1"}
    assert relay_addresses(("127.0.0.1", "10.0.0.5")) == {"10.0.0.5": "10.0.0.5"}


def test_behind_a_one_to_one_nat_relayed_addresses_are_the_outside_ones() -> None:
    assert relay_addresses(("127.0.0.1", "10.0.0.5", "2a00::1"), ("8.8.4.4",)) == {
        "8.8.4.4": "10.0.0.5",
        "2a00::1": "2a00::1",
    }


def test_relayed_addresses_are_where_the_operator_wants_them() -> None:
    chosen = ("10.0.0.5", "10.0.0.6")
    assert relay_addresses(MACHINE, (), chosen) == {host: host for host in chosen}
    assert relay_addresses(MACHINE, ("8.8.4.4",), ("10.0.0.5",)) == {"8.8.4.4": "10.0.0.5"}


def test_the_printed_address_is_the_name_or_the_outside_address_or_the_widest_one() -> None:
    assert advertised_host("example.org", MACHINE, ("8.8.4.4",)) == "example.org"
    assert advertised_host("", MACHINE, ("8.8.4.4",)) == "8.8.4.4"
    assert advertised_host("", MACHINE, ()) == "8.8.8.8"
    assert advertised_host("", ("127.0.0.1", "10.0.0.5"), ()) == "10.0.0.5"


def test_a_second_address_for_discovery_is_one_that_clients_reach_like_the_first() -> None:
    both = ("8.8.8.8", "8.8.4.4", "2a00::1")
    assert discovery_partners(both, (), ()) == {"8.8.8.8": "8.8.4.4", "8.8.4.4": "8.8.8.8"}
    assert discovery_partners(MACHINE, (), ()) == {}, "not loopback, nor a container's bridge"
    chosen = ("10.0.0.5", "10.0.0.6")
    assert discovery_partners(chosen, chosen, ()) == {
        "10.0.0.5": "10.0.0.6",
        "10.0.0.6": "10.0.0.5",
    }


def test_behind_a_one_to_one_nat_there_is_no_second_address_for_discovery() -> None:
    chosen = ("10.0.0.5", "10.0.0.6", "2a00::1", "2a00::2")
    assert discovery_partners(chosen, chosen, ("8.8.4.4",)) == {
        "2a00::1": "2a00::2",
        "2a00::2": "2a00::1",
    }
