"""What one allocation may carry in a second, and how many strangers its user may name."""

from __future__ import annotations

import pytest

from knothole.engine.rate import Rate
from knothole.engine.turn.budget import LEAST_BURST_BYTES, LEAST_BURST_DATAGRAMS, Budget, Loan
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

    def test_after_a_quiet_time_a_seconds_worth_comes_at_once_and_not_two(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        passed = sum(budget.take(1, 1, 5.0 + step / 100_000) for step in range(10_000))
        assert 1000 <= passed <= 1100

    @pytest.mark.parametrize("rate", [100, 500, 1000])
    def test_whoever_keeps_to_the_limit_loses_nothing(self, rate: int) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        assert all(budget.take(1, 1000, step / rate) for step in range(60 * rate))

    @pytest.mark.parametrize("quiet", [0.01, 0.3, 1.0, 2.0])
    def test_bursts_after_pauses_of_any_length_keep_to_the_limit(self, quiet: float) -> None:
        budget, passed = Budget(1000, 1_000_000, 0.0), 0
        for step in range(int(60 / quiet)):
            now = (step + 1) * quiet
            passed += sum(budget.take(1, 1, now) for _ in range(3000))
            assert passed <= 1000 + 1000 * now

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

    def test_what_is_counted_late_may_leave_a_debt(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        budget.spend(3000, 10, 0.0)
        assert not budget.take(1, 1, 1.9)
        assert budget.take(1, 1, 2.1)

    def test_half_is_lent_and_what_was_not_used_of_it_comes_back(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        assert budget.lend(0.0) == Loan(500, 500_000)
        assert not budget.take(501, 0, 0.0)
        assert budget.take(500, 100_000, 0.0)
        budget.give_back(200, 400_000, 0.0)
        assert (budget.datagrams, budget.octets) == (300, 500_000)
        assert budget.lend(0.0) == Loan(150, 250_000)

    def test_what_is_lent_is_not_brought_back_by_time(self) -> None:
        """Else half a second's worth would come on top of a second's."""
        budget = Budget(1000, 1_000_000, 0.0)
        loan = budget.lend(0.0)
        assert not budget.take(501, 1, 100.0)
        assert budget.take(500, 1, 100.0)
        budget.give_back(*loan, 100.0)
        assert not budget.take(1, 1, 100.0)

    def test_of_little_nothing_is_lent(self) -> None:
        budget = Budget(1000, 1_000_000, 0.0)
        assert budget.take(940, 1000, 0.0)
        assert budget.lend(0.0) == Loan(0, 0)
        assert budget.take(60, 1000, 0.0)
        assert budget.lend(0.1) == Loan(50, 500_000)
        budget.spend(0, 2_000_000, 0.1)
        budget.give_back(0, 0, 0.1)
        assert budget.lend(0.1) == Loan(0, 0), "a debt is not lent"

    def test_a_loan_without_a_limit_has_none(self) -> None:
        budget = Budget(0, 1_000_000, 0.0)
        assert budget.lend(0.0) == Loan(1 << 62, 500_000)
        budget.give_back(1 << 40, 500_000, 0.0)
        assert budget.take(1 << 40, 500_000, 0.0)

    @pytest.mark.parametrize(("before", "after"), [(0, 1000), (100_000, 1000), (1000, 0)])
    def test_a_loan_under_other_limits_leaves_no_more_than_they_allow(self, before, after) -> None:
        budget = Budget(before, 0, 0.0)
        budget.lend(0.0)
        budget.set_rates(after, 0, 0.0)
        budget.give_back(10, 10, 0.0)
        assert budget.take(after or 1 << 40, 1, 0.0)
        assert budget.take(1, 1, 0.0) is (after == 0)

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0])
    def test_with_loans_that_are_renewed_the_limit_is_reached_and_never_passed(self, share) -> None:
        """Ten times as much is offered: ``share`` of it where the loan is, the rest here."""
        budget, passed = Budget(1000, 0, 0.0), 0
        for quarter in range(400):
            now = quarter / 4
            left = budget.lend(now).datagrams
            used = min(left, int(2500 * share))
            here = sum(budget.take(1, 1, now) for _ in range(2500 - used))
            budget.give_back(used, used, now)
            passed += used + here
            assert passed <= 1000 + 1000 * now
        assert passed >= 99_000

    @pytest.mark.parametrize("rate", [100, 500, 1000])
    def test_whoever_keeps_to_the_limit_never_needs_more_than_the_loan(self, rate) -> None:
        """All of it goes where the loan is, which is renewed four times a second."""
        budget = Budget(1000, 0, 0.0)
        for quarter in range(400):
            assert budget.lend(quarter / 4).datagrams >= rate / 4
            budget.give_back(rate // 4, 0, (quarter + 1) / 4)


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
