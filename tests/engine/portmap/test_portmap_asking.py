"""Asking, renewing, giving back: what the RFCs say of time."""

from __future__ import annotations

import struct
from itertools import pairwise

import pytest

from knothole.wire.address import Address

from .conftest import BASE, GATEWAY, PUBLIC, Network

EXTERNAL = Address(PUBLIC, BASE.port)


def test_both_protocols_are_asked_at_once_and_one_mapping_is_seen(network: Network) -> None:
    network.start()
    assert network.requests(2) == [0.0]
    assert network.requests(0) == [0.0, 0.0], "the address, then the mapping"
    assert network.externals() == [EXTERNAL]
    assert network.progress() == {"PCP": "granted", "NAT-PMP": "granted"}
    assert all(mapping.is_public for mapping in network.mapper.mappings)


@pytest.mark.parametrize("other", ["pcp", "nat_pmp"])
def test_one_protocol_is_enough(network: Network, other: str) -> None:
    setattr(network.gateway, other, False)
    network.start()
    assert network.externals() == [EXTERNAL]


def test_the_port_that_the_gateway_gives_is_the_one(network: Network) -> None:
    network.gateway.port = 61000
    network.start()
    assert network.externals() == [Address(PUBLIC, 61000)]


def test_pcp_asks_a_silent_gateway_after_3_seconds_and_doubles(network: Network) -> None:
    network.gateway.pcp = network.gateway.nat_pmp = False
    network.start()
    network.run(4000)
    times = network.requests(2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert 2.7 <= gaps[0] <= 3.3
    assert all(1.6 <= b / a <= 2.5 for a, b in pairwise(gaps[:8]))
    assert max(gaps) <= 1024 * 1.1
    assert network.progress()["PCP"] == "silent"


def test_nat_pmp_asks_nine_times_and_then_says_that_the_gateway_is_silent(
    network: Network,
) -> None:
    network.gateway.pcp = network.gateway.nat_pmp = False
    network.start()
    network.run(1000)
    times = network.requests(0)
    assert times == [0.25 * (2**n - 1) for n in range(9)]
    assert network.progress()["NAT-PMP"] == "silent"


def test_nat_pmp_renews_at_half_the_lifetime_the_port_that_was_given(network: Network) -> None:
    network.gateway.pcp, network.gateway.port = False, 61000
    network.gateway.lifetime = 600
    network.start()
    network.run(301)
    [(at, request)] = [ask for ask in network.gateway.asked if ask[0] > 1 and ask[1][:2] == b"\0\1"]
    assert at == 300.0
    assert struct.unpack("!HH", request[4:8]) == (BASE.port, 61000)
    assert network.changes <= 4, "a renewal is no news"


def test_pcp_renews_between_half_and_five_eighths_with_the_same_nonce(network: Network) -> None:
    network.gateway.nat_pmp, network.gateway.lifetime = False, 600
    network.start()
    network.run(1900)
    times = network.requests(2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert len(gaps) >= 4 and all(300 <= gap <= 375 for gap in gaps)
    assert len({data[24:36] for _, data in network.gateway.asked if data[0] == 2}) == 1


def test_an_unanswered_pcp_renewal_is_repeated_ever_closer_but_never_within_4_seconds(
    network: Network,
) -> None:
    network.gateway.nat_pmp, network.gateway.lifetime = False, 600
    network.start()
    network.gateway.pcp = False
    network.run(599)
    times = network.requests(2)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps[0] >= 300 and min(gaps) >= 4
    assert len(gaps) < 12
    assert network.externals() == [EXTERNAL], "it is not expired yet"
    network.run(2)
    assert network.externals() == []


def test_a_mapping_that_was_not_renewed_ends_and_is_asked_for_anew(network: Network) -> None:
    network.gateway.lifetime = 600
    network.start()
    network.gateway.pcp = network.gateway.nat_pmp = False
    network.run(601)
    assert network.externals() == []
    network.gateway.pcp = network.gateway.nat_pmp = True
    network.run(60)
    assert network.externals() == [EXTERNAL]


def test_at_the_end_both_mappings_are_deleted(network: Network) -> None:
    network.start()
    network.mapper.close(1.0)
    network.settle()
    assert network.gateway.mappings == {"pcp": 0, "nat-pmp": 0}
    assert network.mapper.next_timeout() is None
    assert network.externals() == []


def test_a_socket_that_is_gone_is_given_back_and_a_new_one_mapped(network: Network) -> None:
    network.start()
    network.mapper.set_routes([(Address("192.168.1.10", 6000), GATEWAY)], 1.0)
    network.settle()
    assert network.externals() == [Address(PUBLIC, 6000)]
    assert any(data[0] == 2 and data[4:8] == bytes(4) for _, data in network.gateway.asked)


def test_a_restarted_gateway_is_asked_by_the_other_protocol_too(network: Network) -> None:
    """What one answer tells of the gateway's age is good for all mappings there."""
    network.gateway.lifetime = 600
    network.start()
    network.run(10)
    network.gateway.born = network.now - 1
    asked = len(network.requests(2))
    network.run(300)
    assert network.requests(0)[2] == 300.0
    assert len(network.requests(2)) > asked
    assert network.externals() == [EXTERNAL]


def test_an_announcement_of_a_young_gateway_makes_us_ask(network: Network) -> None:
    network.start()
    network.run(50)
    asked = len(network.gateway.asked)
    old = struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 150)
    network.mapper.announced(GATEWAY, old, network.now)
    network.run(20)
    assert len(network.gateway.asked) == asked, "it is as old as it should be"
    network.gateway.born = network.now - 1
    young = struct.pack("!BBBBII12x", 2, 0x80, 0, 0, 0, 1)
    network.mapper.announced("192.168.1.66", young, network.now)
    network.run(20)
    assert len(network.gateway.asked) == asked, "that is not our gateway"
    network.mapper.announced(GATEWAY, young, network.now)
    network.run(20)
    assert len(network.gateway.asked) > asked
    assert network.externals() == [EXTERNAL]


def test_asked_to_ask_again_it_asks_once_in_four_seconds(network: Network) -> None:
    network.start()
    before = len(network.requests(2))
    for _ in range(50):
        network.now += 0.01
        network.mapper.ask_again(network.now)
        network.settle()
    network.run(5)
    assert len(network.requests(2)) == before + 1


def test_an_ipv6_socket_gets_a_pinhole_by_pcp_alone(network: Network) -> None:
    base = Address("2a00:1::10", 5000)
    network.gateway.host = base.host
    network.start(base, "fe80::1%eth0")
    [mapping] = network.mapper.mappings
    assert mapping.external == base
    assert network.progress() == {"PCP": "granted"}
    assert network.requests(0) == []


def test_a_gateway_that_speaks_nat_pmp_only_says_so_and_is_believed(network: Network) -> None:
    network.gateway.pcp, network.gateway.says_unsupported = False, True
    network.start()
    network.run(1000)
    assert network.requests(2) == [0.0]
    assert network.progress() == {"PCP": "refused", "NAT-PMP": "granted"}
