"""Each knob of RFC 4787, on a NAT alone: packets in, packets or reasons out."""

from __future__ import annotations

import itertools
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from knothole.lab.sim import (
    BEHAVIOURS,
    Collision,
    Dependence,
    Drop,
    FilterScope,
    Hairpinning,
    Modular,
    Nat,
    NatBehaviour,
    Neighbours,
    Offset,
    Packet,
    Pooling,
    Preservation,
    RandomPorts,
    Sequential,
    Sharing,
)
from knothole.wire.address import Address, Transport

EI, AD, APD = Dependence
OUTSIDE = "203.0.113.1"
ALICE, NEIGHBOUR = Address("10.0.0.2", 5000), Address("10.0.0.3", 5000)
SERVER, SERVER_PORT_2 = Address("192.0.2.1", 3478), Address("192.0.2.1", 3479)
STRANGER = Address("192.0.2.9", 3478)


def make(*external: str, seed: int = 1, neighbours: Neighbours | None = None, **knobs: Any) -> Nat:
    return Nat(
        NatBehaviour(**knobs), external or (OUTSIDE,), rng=Random(seed), neighbours=neighbours
    )


def out(nat: Nat, source: Address, destination: Address, now: float = 0.0) -> Address:
    """The external address that the destination sees."""
    packet = nat.outbound(Packet(source, destination), now)
    assert isinstance(packet, Packet), packet
    assert packet.destination == destination
    return packet.source


def back(nat: Nat, source: Address, external: Address, now: float = 0.0) -> Address | Drop:
    """The internal address that a packet reaches, or why it does not."""
    packet = nat.inbound(Packet(source, external), now)
    return packet if isinstance(packet, Drop) else packet.destination


@pytest.mark.parametrize(
    ("mapping", "distinct"),
    [(EI, 1), (AD, 2), (APD, 3)],
    ids=["endpoint-independent", "address-dependent", "address-and-port-dependent"],
)
def test_mapping_looks_at_as_much_of_the_peer_as_it_says(
    mapping: Dependence, distinct: int
) -> None:
    nat = make(mapping=mapping, ports=RandomPorts())
    peers = (SERVER, SERVER_PORT_2, STRANGER)
    assert len({out(nat, ALICE, peer) for peer in peers}) == distinct
    assert len(nat.mappings(0.0)) == distinct


@pytest.mark.parametrize(
    ("filtering", "admitted"),
    [(EI, [True, True, True]), (AD, [True, True, False]), (APD, [True, False, False])],
    ids=["endpoint-independent", "address-dependent", "address-and-port-dependent"],
)
def test_filtering_looks_at_as_much_of_the_peer_as_it_says(
    filtering: Dependence, admitted: list[bool]
) -> None:
    nat = make(filtering=filtering)
    external = out(nat, ALICE, SERVER)
    results = [back(nat, peer, external) for peer in (SERVER, SERVER_PORT_2, STRANGER)]
    assert results == [ALICE if lets_in else Drop.FILTERED for lets_in in admitted]


@pytest.mark.parametrize(
    ("scope", "result"),
    [(FilterScope.INTERNAL_ENDPOINT, ALICE), (FilterScope.MAPPING, Drop.FILTERED)],
    ids=["per internal endpoint", "per mapping"],
)
def test_filter_scope_decides_whether_a_permission_counts_for_the_other_mapping(
    scope: FilterScope, result: Address | Drop
) -> None:
    nat = make(mapping=APD, filtering=AD, filter_scope=scope)
    first = out(nat, ALICE, SERVER)
    out(nat, ALICE, STRANGER)
    assert back(nat, STRANGER, first) == result


def test_packet_for_an_unmapped_port_is_dropped() -> None:
    assert back(make(filtering=EI), SERVER, Address(OUTSIDE, 5000)) is Drop.NO_MAPPING


def test_udp_and_tcp_ports_are_mapped_apart() -> None:
    nat = make(filtering=EI)
    out(nat, ALICE, SERVER)
    reply = Packet(SERVER, Address(OUTSIDE, 5000), transport=Transport.TCP)
    assert nat.inbound(reply, 0.0) is Drop.NO_MAPPING


def test_tcp_mapping_has_the_lifetime_of_rfc_5382() -> None:
    nat = make(lifetime_seconds=30)
    nat.outbound(Packet(ALICE, SERVER, transport=Transport.TLS), 0.0)
    reply = Packet(SERVER, Address(OUTSIDE, 5000), transport=Transport.TLS)
    assert isinstance(nat.inbound(reply, 7439.0), Packet)
    assert nat.inbound(reply, 7440.0) is Drop.NO_MAPPING


# Port assignment, Section 4.2


def test_port_is_preserved_and_the_second_host_gets_another_one() -> None:
    nat = make()
    assert out(nat, ALICE, SERVER) == Address(OUTSIDE, 5000)
    other = out(nat, NEIGHBOUR, SERVER)
    assert other.port != 5000
    assert back(nat, SERVER, other) == NEIGHBOUR


def test_colliding_port_overrides_the_older_mapping() -> None:
    nat = make(collision=Collision.OVERRIDE)
    out(nat, ALICE, SERVER)
    assert out(nat, NEIGHBOUR, SERVER) == Address(OUTSIDE, 5000)
    assert back(nat, SERVER, Address(OUTSIDE, 5000)) == NEIGHBOUR
    assert len(nat.mappings(0.0)) == 1


def test_colliding_port_is_preserved_on_another_external_address() -> None:
    nat = make("203.0.113.1", "203.0.113.2", collision=Collision.OTHER_ADDRESS)
    hosts = [Address(f"10.0.0.{n}", 5000) for n in range(2, 5)]
    first, second, third = (out(nat, host, SERVER) for host in hosts)
    assert (first.port, second.port) == (5000, 5000)
    assert first.host != second.host
    assert third.port != 5000  # both are taken


def test_overloading_shares_the_port_and_answers_go_to_whoever_asked() -> None:
    nat = make(sharing=Sharing.OVERLOADING)
    assert out(nat, ALICE, SERVER) == out(nat, NEIGHBOUR, STRANGER) == Address(OUTSIDE, 5000)
    assert back(nat, SERVER, Address(OUTSIDE, 5000)) == ALICE
    assert back(nat, STRANGER, Address(OUTSIDE, 5000)) == NEIGHBOUR


def test_overloading_gives_the_answer_of_a_common_peer_to_the_newest_mapping() -> None:
    nat = make(sharing=Sharing.OVERLOADING)
    out(nat, ALICE, SERVER)
    out(nat, NEIGHBOUR, SERVER)
    assert back(nat, SERVER, Address(OUTSIDE, 5000)) == NEIGHBOUR


def test_offset_turns_1414_into_31414() -> None:
    nat = make(ports=Offset(30000))
    assert out(nat, Address("10.0.0.2", 1414), SERVER).port == 31414
    assert out(nat, Address("10.0.0.3", 1414), SERVER).port != 31414


def test_offset_past_the_last_port_falls_back() -> None:
    nat = make(ports=Offset(30000, otherwise=Sequential(40000)))
    assert out(nat, Address("10.0.0.2", 50000), SERVER).port == 40000


@pytest.mark.parametrize("stride", [1, 2, 7, -1])
def test_sequential_ports_follow_each_other_by_the_stride(stride: int) -> None:
    nat = make(mapping=APD, ports=Sequential(30001, 60000, stride))
    ports = [out(nat, ALICE, Address(SERVER.host, port)).port for port in range(1, 6)]
    steps = [(after - before) % 30000 for before, after in itertools.pairwise(ports)]
    assert ports[0] == (30001 if stride > 0 else 60000)
    assert steps == [stride % 30000] * 4


def test_sequential_ports_begin_again_after_the_last_and_step_over_taken_ones() -> None:
    nat = make(mapping=APD, ports=Sequential(30001, 30003), lifetime_seconds=10)
    peers = [Address(SERVER.host, port) for port in range(1, 6)]
    assert [out(nat, ALICE, peer, now=0.0).port for peer in peers[:2]] == [30001, 30002]
    out(nat, ALICE, peers[0], now=5.0)
    assert out(nat, ALICE, peers[2], now=5.0).port == 30003
    assert out(nat, ALICE, peers[3], now=12.0).port == 30002  # 30001 lives until 15


def test_exhausted_pool_drops_the_packet() -> None:
    nat = make(mapping=APD, ports=RandomPorts(2000, 2003), lifetime_seconds=10)
    peers = [Address(SERVER.host, port) for port in range(1, 6)]
    ports = {out(nat, ALICE, peer).port for peer in peers[:4]}
    assert ports == {2000, 2001, 2002, 2003}
    assert nat.outbound(Packet(ALICE, peers[4]), 0.0) is Drop.NO_PORT
    assert isinstance(nat.outbound(Packet(ALICE, peers[4]), 10.0), Packet)


def test_quota_of_a_host_does_not_take_from_the_others() -> None:
    nat = make(mapping=APD, mappings_per_host=2)
    out(nat, ALICE, SERVER)
    out(nat, ALICE, SERVER_PORT_2)
    assert nat.outbound(Packet(ALICE, STRANGER), 0.0) is Drop.NO_PORT
    assert back(nat, STRANGER, out(nat, NEIGHBOUR, STRANGER)) == NEIGHBOUR


@pytest.mark.parametrize("ports", [RandomPorts(), Sequential(30001)], ids=["random", "sequential"])
def test_parity_is_kept(ports: RandomPorts | Sequential) -> None:
    nat = make(ports=ports, keep_parity=True)
    for port in range(5000, 5020):
        assert out(nat, Address("10.0.0.2", port), SERVER).port % 2 == port % 2


def test_range_is_kept() -> None:
    nat = make(ports=RandomPorts(1, 65535), keep_range=True)
    for port in (80, 500, 1023):
        assert out(nat, Address("10.0.0.2", port), SERVER).port < 1024
    for port in (1024, 5000, 65535):
        assert out(nat, Address("10.0.0.2", port), SERVER).port >= 1024


def test_contiguity_gives_the_next_internal_port_the_next_external_port() -> None:
    nat = make(ports=RandomPorts(), keep_contiguity=True)
    rtp = out(nat, Address("10.0.0.2", 5000), SERVER)
    assert out(nat, Address("10.0.0.2", 5001), SERVER).port == rtp.port + 1
    assert out(nat, Address("10.0.0.2", 4999), SERVER).port == rtp.port - 1


def test_endpoint_that_lost_its_port_is_mapped_otherwise_from_then_on() -> None:
    nat = make(mapping_after_collision=APD)
    out(nat, ALICE, SERVER)
    out(nat, ALICE, STRANGER)
    seen = {out(nat, NEIGHBOUR, peer) for peer in (SERVER, SERVER_PORT_2, STRANGER)}
    assert len({out(nat, ALICE, peer) for peer in (SERVER, STRANGER)}) == 1
    assert len(seen) == 3


# Address pooling, Section 4.1


def test_paired_pooling_keeps_a_host_on_one_address_and_uses_all() -> None:
    pool = ("203.0.113.1", "203.0.113.2")
    nat = make(*pool, pooling=Pooling.PAIRED)
    hosts = {
        n: {out(nat, Address(f"10.0.0.{n}", p), SERVER).host for p in (1, 2, 3)} for n in (2, 3)
    }
    assert all(len(addresses) == 1 for addresses in hosts.values())
    assert hosts[2] | hosts[3] == set(pool)


def test_arbitrary_pooling_spreads_one_host_over_the_addresses() -> None:
    pool = ("203.0.113.1", "203.0.113.2")
    nat = make(*pool, pooling=Pooling.ARBITRARY)
    assert {out(nat, Address("10.0.0.2", port), SERVER).host for port in range(20)} == set(pool)


def test_packet_gets_an_external_address_of_its_family() -> None:
    nat = make("203.0.113.1", "2001:db8::1")
    assert out(nat, Address("fd00::2", 5000), Address("2001:db8:9::1", 1)).host == "2001:db8::1"
    assert out(nat, ALICE, SERVER).host == "203.0.113.1"
    only_ipv4 = make("203.0.113.1")
    packet = Packet(Address("fd00::2", 5000), Address("2001:db8:9::1", 1))
    assert only_ipv4.outbound(packet, 0.0) is Drop.NO_PORT


# Mapping lifetime, Section 4.3


def test_mapping_ends_exactly_with_its_lifetime() -> None:
    nat = make(lifetime_seconds=120.0)
    external = out(nat, ALICE, SERVER, now=7.0)
    assert back(nat, SERVER, external, now=126.999) == ALICE
    assert back(nat, SERVER, external, now=127.0) is Drop.NO_MAPPING


def test_outbound_packet_refreshes_the_mapping() -> None:
    nat = make(lifetime_seconds=30.0)
    external = out(nat, ALICE, SERVER, now=0.0)
    assert out(nat, ALICE, SERVER, now=29.0) == external
    assert back(nat, SERVER, external, now=58.9) == ALICE


def test_mapping_without_outbound_refresh_ends_whatever_is_sent() -> None:
    nat = make(lifetime_seconds=30.0, outbound_refresh=False, ports=RandomPorts())
    external = out(nat, ALICE, SERVER, now=0.0)
    assert out(nat, ALICE, SERVER, now=29.0) == external
    assert out(nat, ALICE, SERVER, now=30.0) != external


@pytest.mark.parametrize(("refresh", "alive"), [(True, True), (False, False)])
def test_inbound_packet_refreshes_the_mapping_only_if_so_set(refresh: bool, alive: bool) -> None:
    nat = make(lifetime_seconds=30.0, inbound_refresh=refresh)
    external = out(nat, ALICE, SERVER, now=0.0)
    assert back(nat, SERVER, external, now=20.0) == ALICE
    assert back(nat, SERVER, external, now=40.0) == (ALICE if alive else Drop.NO_MAPPING)


def test_filtered_packet_refreshes_nothing() -> None:
    nat = make(lifetime_seconds=30.0, inbound_refresh=True)
    external = out(nat, ALICE, SERVER, now=0.0)
    assert back(nat, STRANGER, external, now=20.0) is Drop.FILTERED
    assert back(nat, SERVER, external, now=30.0) is Drop.NO_MAPPING


def test_permission_may_end_before_the_mapping() -> None:
    nat = make(lifetime_seconds=100.0, filter_lifetime_seconds=20.0)
    external = out(nat, ALICE, SERVER, now=0.0)
    out(nat, ALICE, STRANGER, now=10.0)
    assert back(nat, SERVER, external, now=20.0) is Drop.FILTERED
    assert back(nat, STRANGER, external, now=29.9) == ALICE
    assert back(nat, STRANGER, external, now=30.0) is Drop.FILTERED


@pytest.mark.parametrize(("refresh", "result"), [(True, ALICE), (False, Drop.FILTERED)])
def test_inbound_packet_prolongs_its_permission_only_if_so_set(
    refresh: bool, result: Address | Drop
) -> None:
    nat = make(inbound_refresh=refresh, filter_lifetime_seconds=20.0)
    external = out(nat, ALICE, SERVER, now=0.0)
    assert back(nat, SERVER, external, now=15.0) == ALICE
    assert back(nat, SERVER, external, now=30.0) == result


def test_permissions_of_an_endpoint_end_with_its_last_mapping() -> None:
    nat = make(lifetime_seconds=30.0)
    out(nat, ALICE, STRANGER, now=0.0)
    external = out(nat, ALICE, SERVER, now=31.0)
    assert back(nat, STRANGER, external, now=31.0) is Drop.FILTERED


def test_mapping_towards_a_well_known_port_may_be_shorter() -> None:
    nat = make(mapping=APD, lifetime_seconds=300.0, well_known_lifetime_seconds=17.0)
    name_server = Address("192.0.2.1", 53)
    dns, stun = out(nat, ALICE, name_server), out(nat, ALICE, SERVER)
    assert back(nat, name_server, dns, now=17.0) is Drop.NO_MAPPING
    assert back(nat, SERVER, stun, now=299.0) == ALICE


# Hairpinning, Section 6


@pytest.mark.parametrize(
    ("hairpinning", "seen"),
    [
        (Hairpinning.EXTERNAL_SOURCE, Address(OUTSIDE, 5001)),
        (Hairpinning.INTERNAL_SOURCE, Address("10.0.0.3", 5001)),
        (Hairpinning.OFF, None),
    ],
    ids=["external source", "internal source", "off"],
)
def test_hairpinning_shows_the_source_it_says(
    hairpinning: Hairpinning, seen: Address | None
) -> None:
    nat = make(hairpinning=hairpinning, filtering=EI)
    external = out(nat, ALICE, SERVER)
    turned = nat.hairpin(Packet(Address("10.0.0.3", 5001), external), 0.0)
    if seen is None:
        assert turned is Drop.NO_HAIRPINNING
    else:
        assert turned == Packet(seen, ALICE)


def test_hairpinned_packet_is_filtered_by_its_external_source() -> None:
    nat = make(filtering=APD)
    neighbour = Address("10.0.0.3", 5001)
    one, two = out(nat, ALICE, SERVER), out(nat, neighbour, SERVER)
    assert nat.hairpin(Packet(neighbour, one), 0.0) is Drop.FILTERED
    assert nat.hairpin(Packet(ALICE, two), 0.0) == Packet(one, neighbour)  # it has been asked
    assert nat.hairpin(Packet(neighbour, one), 0.0) == Packet(two, ALICE)


# Power, neighbours, and Linux


def test_reboot_forgets_mappings_and_counters_and_may_change_the_address() -> None:
    nat = make(ports=Sequential(30001), filtering=EI)
    external = out(nat, ALICE, SERVER)
    nat.reboot(1.0)
    assert back(nat, SERVER, external, now=1.0) is Drop.NO_MAPPING
    assert out(nat, NEIGHBOUR, SERVER, now=1.0) == external
    nat.reboot(2.0, ["203.0.113.7"])
    assert out(nat, ALICE, SERVER, now=2.0) == Address("203.0.113.7", 30001)


def test_neighbours_consume_ports_at_their_rate() -> None:
    nat = make(mapping=APD, ports=Sequential(30001), neighbours=Neighbours(5.0))
    before = out(nat, ALICE, SERVER, now=0.0).port
    after = out(nat, ALICE, SERVER_PORT_2, now=100.0).port
    assert 400 < after - before < 600
    held = len(nat.mappings(100.0)) - 2
    assert 200 < held < 400  # those of the last minute


def test_neighbours_are_the_same_however_often_one_looks() -> None:
    nats = [make(ports=Sequential(30001), neighbours=Neighbours(3.0), seed=5) for _ in range(2)]
    for tick in range(1, 100):
        nats[0].mappings(tick / 10)
    assert out(nats[0], ALICE, SERVER, now=10.0) == out(nats[1], ALICE, SERVER, now=10.0)


def linux(**knobs: Any) -> Nat:
    return Nat(replace(BEHAVIOURS["linux"], **knobs), (OUTSIDE,), rng=Random(1))


def test_linux_keeps_the_port_towards_every_peer() -> None:
    nat = linux()
    seen = {out(nat, ALICE, peer) for peer in (SERVER, SERVER_PORT_2, STRANGER)}
    assert seen == {Address(OUTSIDE, 5000)}


def test_linux_gives_both_hosts_the_port_while_their_peers_differ() -> None:
    nat = linux()
    assert out(nat, ALICE, SERVER) == out(nat, NEIGHBOUR, STRANGER) == Address(OUTSIDE, 5000)
    assert back(nat, SERVER, Address(OUTSIDE, 5000)) == ALICE
    assert back(nat, STRANGER, Address(OUTSIDE, 5000)) == NEIGHBOUR


def test_linux_reuses_the_random_port_of_a_collision_for_every_new_peer() -> None:
    nat = linux()
    out(nat, NEIGHBOUR, SERVER)
    moved = out(nat, ALICE, SERVER)
    assert moved.port != 5000
    assert out(nat, ALICE, STRANGER) == moved


def test_linux_collision_that_comes_later_gives_one_socket_two_ports_and_the_newest_counts() -> (
    None
):
    nat = linux()
    assert out(nat, ALICE, SERVER).port == 5000
    out(nat, NEIGHBOUR, STRANGER)
    second = out(nat, ALICE, STRANGER)
    assert second.port != 5000
    assert out(nat, ALICE, SERVER).port == 5000  # the entry there is still alive
    assert out(nat, ALICE, SERVER_PORT_2) == second


def test_linux_keeps_an_entry_30_seconds_and_120_after_two_way_traffic() -> None:
    nat = linux()
    external = out(nat, ALICE, SERVER, now=0.0)
    assert back(nat, SERVER, external, now=0.1) == ALICE
    assert back(nat, SERVER, external, now=30.0) == ALICE  # either way refreshes
    out(nat, ALICE, SERVER, now=31.0)
    assert back(nat, SERVER, external, now=150.9) == ALICE
    other = out(nat, ALICE, STRANGER, now=0.0 + 151.0)
    assert back(nat, STRANGER, other, now=181.0) is Drop.FILTERED


def test_stranger_that_came_first_takes_the_port_where_nothing_filters() -> None:
    careless, careful = linux(keeps_strangers=True), linux()
    for nat in (careless, careful):
        out(nat, ALICE, SERVER)
        assert back(nat, STRANGER, Address(OUTSIDE, 5000), now=1.0) is Drop.FILTERED
    assert out(careful, ALICE, STRANGER, now=2.0).port == 5000
    assert out(careless, ALICE, STRANGER, now=2.0).port != 5000
    assert out(careless, ALICE, SERVER, now=2.0).port == 5000


def test_contradicting_knobs_are_refused() -> None:
    with pytest.raises(ValueError, match="sharing per peer"):
        NatBehaviour(sharing=Sharing.PER_PEER)
    with pytest.raises(ValueError, match="reusing the newest"):
        NatBehaviour(reuse_newest=True)


def test_named_behaviours_map_ports_as_their_names_say() -> None:
    ports = {}
    for name, behaviour in BEHAVIOURS.items():
        nat = Nat(behaviour, (OUTSIDE,), rng=Random(3))
        source = Address("10.0.0.2", 1414)
        ports[name] = [out(nat, source, peer).port for peer in (SERVER, STRANGER)]
    assert ports["linux"] == ports["rfc4787"] == [1414, 1414]
    assert ports["range"] == [31414, 31414]
    assert ports["sequential"] == [30001, 30002]
    assert ports["random"][0] != ports["random"][1]


def test_preservation_is_a_value_that_several_nats_share() -> None:
    ports = Preservation(Sequential(30001))
    first, second = make(ports=ports), make(ports=ports)
    for nat in (first, second):
        out(nat, NEIGHBOUR, SERVER)
        assert out(nat, ALICE, SERVER).port == 30001


@pytest.mark.parametrize(("own", "port"), [(1414, 31414), (45678, 35678), (50000, 30000)])
def test_modular_ports_are_made_of_the_internal_port(own: int, port: int) -> None:
    nat = make(ports=Modular(30000, 10000))
    assert out(nat, Address("10.0.0.2", own), SERVER).port == port


def test_a_port_that_a_neighbour_has_towards_a_peer_is_given_for_others_only() -> None:
    nat = Nat(BEHAVIOURS["linux"], (OUTSIDE,), rng=Random(1))
    other = Address("198.51.100.7", 3478)
    nat.occupy([ALICE.port], other, 0.0, seconds=5.0)
    assert out(nat, ALICE, SERVER).port == ALICE.port
    collided = out(nat, ALICE, other)
    assert collided.port != ALICE.port
    assert out(nat, ALICE, Address("198.51.100.8", 3478)).port == collided.port, "the newest"


def test_a_neighbour_that_comes_too_late_does_not_get_the_port() -> None:
    nat = Nat(BEHAVIOURS["linux"], (OUTSIDE,), rng=Random(1))
    before = out(nat, ALICE, SERVER)
    nat.occupy([ALICE.port], SERVER, 1.0)
    assert out(nat, ALICE, SERVER, 2.0) == before
