"""What one allocation may carry in a second, and how many strangers its user may name."""

from __future__ import annotations

import pytest

from knothole.engine.rate import Rate
from knothole.engine.turn.budget import LEAST_BURST_BYTES, LEAST_BURST_DATAGRAMS, Budget
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.tally import Drop
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    EvenPort,
    Icmp,
    Lifetime,
    Method,
    RequestedTransport,
    ReservationToken,
    XorPeerAddress,
)
from knothole.wire.turn import encode_channel_data

PEER = Address("2.2.2.2", 2000)
UDP = RequestedTransport()
ROOM = 10_000_000  # bytes of payload: for whom the other limit is to be met


class TestBudget:
    def test_a_seconds_worth_may_come_at_once(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        assert budget.take(1000, 1_000_000, 0.0)
        assert not budget.take(1, 0, 0.0)
        assert not budget.take(0, 1, 0.0)

    def test_time_brings_it_back_and_never_more_than_a_seconds_worth(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        assert budget.take(1000, 1_000_000, 0.0)
        assert budget.take(500, 500_000, 0.5)
        assert not budget.take(1, 1, 0.5)
        assert budget.take(1000, 1_000_000, 100.0)
        assert not budget.take(1, 1, 100.0)

    def test_over_a_long_time_the_rate_is_kept(self) -> None:
        budget = Budget(1000, 10_000_000, 0.0)
        passed = sum(budget.take(1, 100, step / 10_000) for step in range(100_000))
        assert 10_000 <= passed <= 11_001
        assert budget.refused == 100_000 - passed

    def test_one_burst_always_has_room(self) -> None:
        budget = Budget(1, 1, 0.0)
        assert budget.take(LEAST_BURST_DATAGRAMS, LEAST_BURST_BYTES, 0.0)

    def test_no_limit_is_no_limit(self) -> None:
        budget = Budget(0, 0, 0.0)
        assert all(budget.take(10**9, 10**12, 0.0) for _ in range(100))

    def test_other_rates_count_at_once_in_both_directions(self) -> None:
        budget = Budget(0, 0, 0.0)
        budget.set_rates(1000, 1_000_000, 0.0)
        assert budget.take(1000, 1_000_000, 0.0)
        assert not budget.take(1, 1, 0.0)
        budget.set_rates(500, 2_000_000, 0.5)
        assert not budget.take(501, 1, 0.5)
        assert budget.take(500, 500_000, 0.5)
        budget.set_rates(0, 0, 0.5)
        assert budget.take(10**9, 10**12, 0.5)

    def test_what_the_kernel_relayed_is_counted_late_and_may_leave_a_debt(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        budget.spend(3000, 10, 0.0)
        assert not budget.take(1, 1, 1.9)
        assert budget.take(1, 1, 2.1)


@pytest.fixture
def world(new_world):
    return new_world(limits=Limits(datagrams_per_second=200, octets_per_second=ROOM))


def bound(raw):
    raw.relayed = raw.allocate()
    assert raw.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), XorPeerAddress(PEER)) == 0
    return raw


def client_at(host: str, port: int = 4000) -> Address:
    return Address(host, port)


class TestAllocations:
    """The budget where it is spent."""

    def test_a_flood_towards_a_peer_ends_at_the_limit(self, world, raw) -> None:
        bound(raw)
        for _ in range(1000):
            raw.send(encode_channel_data(0x4000, b"x" * 100, padded=False))
        assert len(world.to_peers) == 200
        world.now = 1.0
        for _ in range(1000):
            raw.indicate(PEER, b"x" * 100)
        assert len(world.to_peers) == 400

    def test_a_flood_from_a_peer_ends_there_too(self, world, raw) -> None:
        bound(raw)
        for _ in range(1000):
            world.server.receive_from_peer(raw.relayed, PEER, b"x" * 100, world.now)
        raw.send(b"")
        assert len(raw.replies) == 200

    def test_icmp_errors_that_a_peer_makes_up_end_there_as_well(self, world, raw) -> None:
        bound(raw)
        for _ in range(1000):
            world.server.receive_icmp(raw.relayed, PEER, Icmp(3, 3), world.now)
        raw.send(b"")
        assert len(raw.replies) == 200
        assert world.server.tally.dropped[Drop.OVER_LIMIT] == 800

    def test_both_directions_are_one_budget(self, world, raw) -> None:
        bound(raw)
        for _ in range(150):
            raw.send(encode_channel_data(0x4000, b"x", padded=False))
            world.server.receive_from_peer(raw.relayed, PEER, b"x", world.now)
        raw.send(b"")
        assert len(world.to_peers) == 100

    def test_a_burst_counts_as_its_datagrams(self, world, raw) -> None:
        bound(raw)
        burst = encode_channel_data(0x4000, b"x" * 100, padded=False) * 64
        for _ in range(4):
            world.server.receive(raw.five_tuple, burst, world.now, 104)
        world.server.receive_from_peer(raw.relayed, PEER, b"x" * 6400, world.now, 100)
        raw.send(b"")
        assert [len(datagram.payload) for _, datagram in world.to_peers] == [6400, 6400, 6400]
        assert raw.replies == []

    def test_large_datagrams_are_limited_by_their_bytes(self, new_world, raw) -> None:
        world = new_world(limits=Limits(datagrams_per_second=0, octets_per_second=200_000))
        client = bound(type(raw)(world))
        for _ in range(1000):
            client.send(encode_channel_data(0x4000, b"x" * 1000, padded=False))
        assert len(world.to_peers) == 200

    def test_others_go_on(self, world, raw, new_raw) -> None:
        bound(raw)
        other = bound(new_raw("bob", client=client_at("1.1.1.2")))
        for _ in range(1000):
            raw.send(encode_channel_data(0x4000, b"x", padded=False))
        world.to_peers.clear()
        other.send(encode_channel_data(0x4000, b"hello", padded=False))
        assert [each.payload for _, each in world.to_peers] == [b"hello"]

    def test_the_defaults_are_no_limit_for_a_file_at_a_gigabit(self, new_world, raw) -> None:
        world = new_world()
        client = bound(type(raw)(world))
        datagram = encode_channel_data(0x4000, b"x" * 1200, padded=False)
        for number in range(100_000):  # 0.96 Gbit/s of payload
            world.now = number / 100_000
            world.server.receive(client.five_tuple, datagram, world.now)
        assert sum(1 for _ in world.server.outputs()) == 100_000


class TestNewPeers:
    @pytest.fixture
    def world(self, new_world):
        limits = Limits(new_peers=Rate(10, 1 / 6), permissions_per_allocation=1000)
        return new_world(limits=limits)

    def permit(self, raw, number: int, count: int = 1) -> int:
        hosts = [f"2.2.{(number + each) >> 8}.{(number + each) & 255}" for each in range(count)]
        peers = [XorPeerAddress(Address(host, 1)) for host in hosts]
        return raw.code(Method.CREATE_PERMISSION, *peers)

    def test_a_scan_of_hosts_ends(self, raw) -> None:
        raw.allocate()
        codes = [self.permit(raw, number) for number in range(100)]
        assert codes == [0] * 10 + [508] * 90

    def test_a_channel_counts_like_a_permission(self, raw) -> None:
        raw.allocate()
        codes = [
            raw.code(
                Method.CHANNEL_BIND,
                ChannelNumber(0x4000 + number),
                XorPeerAddress(Address(f"2.2.2.{number}", 1)),
            )
            for number in range(12)
        ]
        assert codes == [0] * 10 + [508] * 2

    def test_those_that_are_there_are_refreshed_for_nothing(self, raw) -> None:
        raw.allocate()
        assert self.permit(raw, 0, 10) == 0
        assert [self.permit(raw, 0, 10) for _ in range(20)] == [0] * 20

    def test_a_new_allocation_is_no_new_budget(self, raw) -> None:
        raw.allocate()
        assert self.permit(raw, 0, 10) == 0
        assert raw.code(Method.REFRESH, Lifetime(0)) == 0
        raw.allocate()
        assert self.permit(raw, 20) == 508

    def test_time_brings_new_ones(self, world, raw) -> None:
        raw.allocate()
        assert self.permit(raw, 0, 10) == 0
        world.now = 60.0
        assert [self.permit(raw, 20 + number) for number in range(11)] == [0] * 10 + [508]

    def test_all_of_a_request_is_granted_or_nothing(self, raw) -> None:
        raw.allocate()
        assert self.permit(raw, 0, 11) == 508
        assert self.permit(raw, 0, 10) == 0


class TestNetworks:
    """Quotas that a new name does not give anew."""

    @pytest.fixture
    def world(self, new_world):
        return new_world(limits=Limits(allocations_per_user=2, allocations_per_network=3))

    def test_many_names_from_one_network_share_a_quota(self, new_raw) -> None:
        names = ["alice", "alice", "bob", "bob", "carol"]
        codes = [
            new_raw(name, client=client_at(f"1.1.1.{number}")).code(Method.ALLOCATE, UDP)
            for number, name in enumerate(names)
        ]
        assert codes == [0, 0, 0, 486, 486]
        assert new_raw("carol", client=client_at("1.1.2.1")).code(Method.ALLOCATE, UDP) == 0

    def test_a_home_with_ipv6_is_one_network(self, new_raw) -> None:
        hosts = ["2a00:1::1", "2a00:1::2", "2a00:1:0:0:ffff::", "2a00:1::9", "2a00:1:0:1::1"]
        codes = [
            new_raw(name, client=client_at(host)).code(Method.ALLOCATE, UDP)
            for host, name in zip(hosts, ["alice", "alice", "bob", "carol", "carol"], strict=True)
        ]
        assert codes == [0, 0, 0, 486, 0]

    def test_it_comes_back_with_every_end(self, world, new_raw) -> None:
        for turn in range(3):
            for number, name in enumerate(["alice", "alice", "bob"]):
                new_raw(name, client=client_at("1.1.1.1", 4000 + 10 * turn + number)).allocate()
            world.run(world.now + 601.0)
        assert world.server.allocations == 0 and world.sockets == set()

    def test_reservations_move_with_who_redeems_them(self, new_raw) -> None:
        first = new_raw("alice", client=client_at("1.1.1.1"))
        answer = first.ask(Method.ALLOCATE, UDP, EvenPort(True))
        token = answer.get(ReservationToken)
        assert new_raw("bob", client=client_at("1.1.1.2")).code(Method.ALLOCATE, UDP) == 0
        assert new_raw("carol", client=client_at("1.1.1.3")).code(Method.ALLOCATE, UDP) == 486
        elsewhere = new_raw("carol", client=client_at("1.1.2.1"))
        assert elsewhere.code(Method.ALLOCATE, UDP, token) == 0
        assert new_raw("bob", client=client_at("1.1.1.4")).code(Method.ALLOCATE, UDP) == 0
