"""Shortcuts: what a TURN server lets io relay without it, in virtual time."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from knothole.engine.turn.budget import Budget
from knothole.engine.turn.policy import PeerPolicy
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import (
    AllocationEnded,
    InstallShortcut,
    RemoveShortcut,
    Shortcut,
    ShortcutKey,
)
from knothole.engine.turn.tally import Drop
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AddressFamily,
    ChannelNumber,
    Lifetime,
    Method,
    RequestedAddressFamily,
    XorPeerAddress,
)
from knothole.wire.turn import encode_channel_data

from .conftest import RELAY_HOST, SERVER, RawClient, World

PEER, OTHER = Address("8.8.8.8", 7000), Address("8.8.4.4", 7000)
RELAY_HOST_6, PEER_6 = "2a00::9", Address("2a00::8", 7000)
NUMBER = 0x4001


class Kernel:
    """What io has been told, and it holds what it was told as the kernel would."""

    def __init__(self, world: World) -> None:
        self._world, self._heard = world, 0
        self._entries: dict[ShortcutKey, Shortcut] = {}
        self.budgets: dict[ShortcutKey, tuple[Budget, ...]] = {}
        self.installs = 0

    @property
    def held(self) -> dict[ShortcutKey, Shortcut]:
        self._world._drain()
        for _, event in self._world.server_events[self._heard :]:
            match event:
                case InstallShortcut(key, shortcut, budgets):
                    self._entries[key] = shortcut
                    self.budgets[key] = budgets
                    self.installs += 1
                case RemoveShortcut(key):
                    del self._entries[key]
        self._heard = len(self._world.server_events)
        return self._entries

    def relays(self, source: Address, destination: Address, channel: int = 0) -> object:
        """What would become of such a packet now."""
        shortcut = self.held.get(ShortcutKey(source, destination, channel))
        if shortcut is None or shortcut.expires_at <= self._world.now:
            return None
        return shortcut.source, shortcut.destination, shortcut.channel


def make(**options: object) -> tuple[World, Kernel]:
    world = World(shortcuts=True, **options)
    return world, Kernel(world)


def bound(
    world: World,
    peer: Address = PEER,
    number: int = NUMBER,
    **options: object,
) -> tuple[RawClient, Address]:
    raw = RawClient(world, **options)
    relayed = raw.allocate()
    bind(raw, peer, number)
    return raw, relayed


def bind(raw: RawClient, peer: Address, number: int = NUMBER) -> None:
    raw.challenge_if_stale()
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(number), XorPeerAddress(peer)) == 0


def permit(raw: RawClient, peer: Address) -> None:
    raw.challenge_if_stale()
    assert raw.code(Method.CREATE_PERMISSION, XorPeerAddress(peer)) == 0


def test_a_channel_is_a_shortcut_in_both_directions() -> None:
    world, kernel = make()
    raw, relayed = bound(world)
    client = raw.five_tuple.client
    assert kernel.relays(client, SERVER, NUMBER) == (relayed, PEER, 0)
    assert kernel.relays(PEER, relayed) == (SERVER, client, NUMBER)
    assert len(kernel.held) == 2


def test_nothing_is_said_of_shortcuts_unless_it_was_asked_for() -> None:
    world = World()
    bound(world)
    assert not world.server_said(InstallShortcut)


def test_a_permission_alone_is_no_shortcut() -> None:
    world, kernel = make()
    raw = RawClient(world)
    raw.allocate()
    permit(raw, PEER)
    assert kernel.held == {}


def test_it_ends_with_the_permission_and_comes_again_with_the_next() -> None:
    world, kernel = make()
    raw, relayed = bound(world)
    client = raw.five_tuple.client
    world.run(299.9)
    assert kernel.relays(PEER, relayed) is not None
    world.run(300.0)
    assert kernel.relays(PEER, relayed) is None
    assert kernel.relays(client, SERVER, NUMBER) is None
    world.run(400.0)
    assert kernel.held == {}, "what has expired is taken out"
    permit(raw, Address(PEER.host, 1))
    assert kernel.relays(client, SERVER, NUMBER) == (relayed, PEER, 0)
    assert {each.expires_at for each in kernel.held.values()} == {600.0}, "the channel's end"


def test_it_ends_with_the_channel() -> None:
    world, kernel = make()
    raw, relayed = bound(world)
    world.run(500.0)
    permit(raw, PEER)
    world.run(599.9)
    assert kernel.relays(PEER, relayed) is not None
    world.run(600.0)
    assert kernel.relays(PEER, relayed) is None


def test_it_ends_with_the_allocation_and_a_refresh_prolongs_it() -> None:
    world, kernel = make()
    raw, relayed = bound(world)
    world.run(580.0)
    bind(raw, PEER)
    assert {each.expires_at for each in kernel.held.values()} == {600.0}, "the allocation's end"
    assert raw.code(Method.REFRESH, Lifetime(600)) == 0
    assert {each.expires_at for each in kernel.held.values()} == {880.0}, "the permission's end"
    world.run(700.0)
    assert kernel.relays(PEER, relayed) is not None


@pytest.mark.parametrize("how", ["deleted", "removed", "expired", "revoked"])
def test_with_the_allocation_it_is_taken_out_at_once(how: str) -> None:
    world, kernel = make()
    raw, _ = bound(world)
    assert kernel.held
    if how == "deleted":
        assert raw.code(Method.REFRESH, Lifetime(0)) == 0
    elif how == "expired":
        world.run(600.0)
    else:
        world.server.end_allocations("alice" if how == "revoked" else None, world.now)
    assert kernel.held == {}


def test_a_client_that_comes_by_a_stream_has_none() -> None:
    world, kernel = make()
    bound(world, transport=Transport.TCP)
    assert kernel.held == {}


def test_a_refused_peer_has_none() -> None:
    policy = PeerPolicy(denied=(ip_network("8.8.8.0/24"),))
    world, kernel = make(policy=policy)
    raw = RawClient(world)
    raw.allocate()
    for peer in (PEER, Address("10.0.0.1", 1), Address("127.0.0.1", 1), SERVER):
        refused = raw.code(Method.CHANNEL_BIND, ChannelNumber(NUMBER), XorPeerAddress(peer))
        assert refused == 403
    assert kernel.held == {}


def test_a_new_policy_takes_out_at_once_what_it_forbids() -> None:
    world, kernel = make()
    raw, _ = bound(world)
    bind(raw, OTHER, NUMBER + 1)
    assert len(kernel.held) == 4
    world.server.set_policy(PeerPolicy(denied=(ip_network("8.8.8.8/32"),)), world.now)
    client = raw.five_tuple.client
    assert kernel.relays(client, SERVER, NUMBER) is None
    assert kernel.relays(client, SERVER, NUMBER + 1) is not None
    assert len(kernel.held) == 2
    world.server.set_policy(PeerPolicy(), world.now)
    bind(raw, PEER)
    assert len(kernel.held) == 4


def test_a_relay_host_has_none_though_the_policy_opens_it() -> None:
    """Whatever is to be sent there is decided here: it may be a relayed address next minute."""
    world, kernel = make(policy=PeerPolicy(allowed=(ip_network(f"{RELAY_HOST}/32"),)))
    bound(world, peer=Address(RELAY_HOST, 1))
    assert kernel.held == {}


def test_two_clients_with_channels_to_each_other_have_one_shortcut_for_both_steps() -> None:
    world, kernel = make()
    alice, bob = RawClient(world), RawClient(world, "bob", client=Address("2.2.2.2", 1))
    relayed_alice, relayed_bob = alice.allocate(), bob.allocate()
    bind(alice, relayed_bob, 0x4001)
    assert kernel.held == {}, "bob has no channel yet: he is told by Data indications"
    bind(bob, relayed_alice, 0x4002)
    here, there = alice.five_tuple.client, bob.five_tuple.client
    assert kernel.relays(here, SERVER, 0x4001) == (SERVER, there, 0x4002)
    assert kernel.relays(there, SERVER, 0x4002) == (SERVER, here, 0x4001)
    assert len(kernel.held) == 2


def test_between_two_clients_it_ends_with_whatever_ends_first() -> None:
    world, kernel = make()
    alice, bob = RawClient(world), RawClient(world, "bob", client=Address("2.2.2.2", 1))
    relayed_alice, relayed_bob = alice.allocate(), bob.allocate()
    bind(alice, relayed_bob)
    world.run(100.0)
    bind(bob, relayed_alice)
    assert {each.expires_at for each in kernel.held.values()} == {300.0}
    world.run(200.0)
    permit(alice, relayed_bob)
    assert {each.expires_at for each in kernel.held.values()} == {400.0}
    assert bob.code(Method.REFRESH, Lifetime(0)) == 0
    assert kernel.held == {}


def test_a_client_that_relays_to_itself_has_one_and_can_end() -> None:
    world, kernel = make()
    raw = RawClient(world)
    bind(raw, raw.allocate())
    client = raw.five_tuple.client
    assert kernel.relays(client, SERVER, NUMBER) == (SERVER, client, NUMBER)
    assert raw.code(Method.REFRESH, Lifetime(0)) == 0
    assert kernel.held == {}
    assert world.server_said(AllocationEnded)


def test_between_a_client_by_udp_and_one_by_tcp_there_is_none() -> None:
    world, kernel = make()
    alice = RawClient(world)
    bob = RawClient(world, "bob", client=Address("2.2.2.2", 1), transport=Transport.TCP)
    relayed_alice, relayed_bob = alice.allocate(), bob.allocate()
    bind(alice, relayed_bob)
    bind(bob, relayed_alice)
    assert kernel.held == {}


def test_between_ipv4_and_ipv6_it_is_the_same() -> None:
    world, kernel = make(relay_hosts=[RELAY_HOST_6])
    raw = RawClient(world)
    raw.challenge()
    relayed = raw.allocate(RequestedAddressFamily(AddressFamily.IPV6))
    bind(raw, PEER_6)
    client = raw.five_tuple.client
    assert kernel.relays(client, SERVER, NUMBER) == (relayed, PEER_6, 0)
    assert kernel.relays(PEER_6, relayed) == (SERVER, client, NUMBER)


def test_two_clients_of_different_ip_versions_have_one_for_both_steps_too() -> None:
    world, kernel = make(relay_hosts=[RELAY_HOST_6])
    server = Address("2a00::1", SERVER.port)
    alice = RawClient(world)
    bob = RawClient(world, "bob", client=Address("2a00::2", 1), server=server)
    for each in (alice, bob):
        each.challenge()
    wanted = RequestedAddressFamily(AddressFamily.IPV6)
    relayed_alice, relayed_bob = alice.allocate(wanted), bob.allocate(wanted)
    bind(alice, relayed_bob, 0x4001)
    bind(bob, relayed_alice, 0x4002)
    here, there = alice.five_tuple.client, bob.five_tuple.client
    assert kernel.relays(here, SERVER, 0x4001) == (server, there, 0x4002)
    assert kernel.relays(there, server, 0x4002) == (SERVER, here, 0x4001)
    assert len(kernel.held) == 2


def test_a_refresh_that_changes_nothing_says_nothing() -> None:
    world, kernel = make()
    raw, _ = bound(world)
    assert kernel.held
    before = kernel.installs
    permit(raw, PEER)
    bind(raw, PEER)
    assert kernel.held
    assert kernel.installs == before


def test_what_has_passed_is_counted_for_the_allocation() -> None:
    world, kernel = make()
    raw, relayed = bound(world)
    client = raw.five_tuple.client
    world.server.shortcut_passed(ShortcutKey(client, SERVER, NUMBER), 10, 1000)
    world.server.shortcut_passed(ShortcutKey(PEER, relayed, 0), 2, 200)
    world.server.shortcut_passed(ShortcutKey(OTHER, relayed, 0), 1, 7)
    world.server.end_allocations(None, world.now)
    world._drain()
    [ended] = world.server_said(AllocationEnded)
    assert (ended.to_peers, ended.to_client) == (1000, 200)
    assert kernel.held == {}


def test_what_passes_just_before_the_end_is_counted_when_it_is_reported_after_it() -> None:
    world, kernel = make()
    raw, relayed = bound(world)
    world.run(301.0)
    world.server.shortcut_passed(ShortcutKey(PEER, relayed, 0), 2, 200)
    world.run(320.0)
    assert kernel.held == {}
    assert raw.code(Method.REFRESH, Lifetime(0)) == 0
    world._drain()
    [ended] = world.server_said(AllocationEnded)
    assert ended.to_client == 200


def limited(datagrams: int, octets: int, channels: int = 1) -> tuple[World, Kernel, RawClient]:
    """alice's allocation with these limits a second, and some channels."""
    limits = Limits(datagrams_per_second=datagrams, octets_per_second=octets)
    world, kernel = make(limits=limits)
    raw = RawClient(world)
    raw.relayed = raw.allocate()
    for number in range(channels):
        bind(raw, Address("8.8.8.8", 7000 + number), NUMBER + number)
    assert len(kernel.held) == 2 * channels
    return world, kernel, raw


def test_all_shortcuts_of_an_allocation_take_from_one_budget() -> None:
    _, kernel, _ = limited(1000, 1_000_000, channels=128)
    assert len(kernel.held) == 256
    [(budget,)] = set(kernel.budgets.values())
    assert (budget.datagrams, budget.octets) == (1000, 1_000_000)


def test_what_io_has_let_pass_the_engine_does_not_relay_again() -> None:
    """And the other way round: it is one sum, with all channels, peers and Send indications."""
    world, kernel, raw = limited(1000, 1_000_000, channels=3)
    [(budget,)] = set(kernel.budgets.values())
    assert budget.take(990, 10_000, world.now), "by any of the shortcuts"
    for _ in range(4):
        raw.send(encode_channel_data(NUMBER + 1, b"x", padded=False))
        raw.indicate(PEER, b"x")
    for _ in range(4):
        world.server.receive_from_peer(raw.relayed, PEER, b"x", world.now)
    raw.send(b"")
    assert len(world.to_peers) + len(raw.replies) == 10
    assert not budget.take(1, 1, world.now)
    assert world.server.tally.dropped[Drop.OVER_LIMIT] == 2
    assert budget.take(500, 5000, world.now + 0.5)


def test_what_is_reported_is_not_taken_again() -> None:
    world, kernel, _ = limited(1000, 1_000_000)
    [(budget,)] = set(kernel.budgets.values())
    assert budget.take(600, 6000, world.now)
    for key in kernel.held:
        world.server.shortcut_passed(key, 300, 3000)
    assert (budget.datagrams, budget.octets) == (400, 994_000)


def test_between_two_clients_both_budgets_are_named() -> None:
    world, kernel = make(limits=Limits(datagrams_per_second=1000, octets_per_second=0))
    alice, bob = RawClient(world), RawClient(world, "bob", client=Address("2.2.2.2", 1))
    relayed_alice, relayed_bob = alice.allocate(), bob.allocate()
    bind(alice, relayed_bob)
    bind(bob, relayed_alice)
    assert len(kernel.held) == 2
    there = kernel.budgets[ShortcutKey(alice.five_tuple.client, SERVER, NUMBER)]
    back = kernel.budgets[ShortcutKey(bob.five_tuple.client, SERVER, NUMBER)]
    assert len(set(there)) == 2 and there == back[::-1]


def test_a_client_that_relays_to_itself_pays_for_both_ways_as_without() -> None:
    world, kernel = make()
    raw = RawClient(world)
    bind(raw, raw.allocate())
    assert kernel.held
    [(there, back)] = kernel.budgets.values()
    assert there is back


def test_other_limits_count_in_the_budgets_that_are_named_already() -> None:
    world, kernel, _ = limited(0, 0)
    [(budget,)] = set(kernel.budgets.values())
    before = kernel.installs
    limits = Limits(datagrams_per_second=1000, octets_per_second=1_000_000)
    world.server.set_limits(limits, world.now)
    assert kernel.held and kernel.installs == before
    assert (budget.datagrams, budget.octets) == (1000, 1_000_000)
    world.server.set_limits(Limits(datagrams_per_second=0, octets_per_second=0), world.now)
    assert budget.take(1 << 40, 1 << 50, world.now)
