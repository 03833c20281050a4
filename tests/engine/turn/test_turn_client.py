"""The client engine against the server engine, in virtual time."""

from __future__ import annotations

import pytest

from knothole.engine.turn.client import (
    Allocated,
    AllocationClosed,
    AllocationFailed,
    AllocationLost,
    Credentials,
)
from knothole.engine.turn.credentials import RestUsers, rest_credentials
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_events import AllocationEnded, EndReason
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    AddressFamily,
    ErrorCode,
    MessageClass,
    Method,
    PasswordAlgorithm,
    Userhash,
    Username,
    userhash,
)

REALM = "knothole.test"
PEER = Address("2.2.2.2", 2000)
SAME_HOST = Address("2.2.2.2", 2001)
OTHER = Address("3.3.3.3", 3000)
FORBIDDEN = Address("127.0.0.1", 22)


def payloads(world) -> list[bytes]:
    return [datagram.payload for _, datagram in world.to_peers]


class TestAllocating:
    def test_it_takes_two_round_trips(self, world) -> None:
        client = world.client()
        world.run(60.0)
        (event,) = client.events
        assert event == (0.04, Allocated(client.relayed, Address("1.1.1.1", 5000), 600, "knothole"))
        assert client.allocation.mapped_address == Address("1.1.1.1", 5000)
        assert world.sent(Method.ALLOCATE) == [0.0, 0.02]

    def test_the_first_request_says_nothing_about_the_user(self, world) -> None:
        world.client()
        world.run(1.0)
        first, second = [
            message
            for _, message in world.messages(MessageClass.REQUEST)
            if message.method == Method.ALLOCATE
        ]
        assert first.get(Userhash) is None and not first.has_integrity_sha256
        assert second.get(Userhash) == Userhash(userhash("alice", REALM))
        assert second.get(Username) is None
        assert second.get(PasswordAlgorithm) is not None
        assert second.has_integrity_sha256 and not second.has_integrity

    def test_a_server_that_is_not_there_is_given_up_after_39_seconds(self, world) -> None:
        world.lost = lambda datagram: True
        client = world.client()
        world.run(60.0)
        ((at, event),) = client.events
        assert at == 39.5
        assert isinstance(event, AllocationFailed) and event.code is None
        assert world.sent(Method.ALLOCATE) == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
        assert client.allocation.next_timeout() is None

    @pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
    def test_nothing_is_retransmitted_on_a_stream(self, world, transport) -> None:
        client = world.client(transport=transport)
        world.run(1.0)
        assert client.of(Allocated)
        assert len(world.sent(Method.ALLOCATE)) == 2
        silent = world.client(port=9999, transport=transport)
        silent.allocation.local = Address("1.1.1.1", 1)
        world.run(60.0)
        assert len(world.sent(Method.ALLOCATE)) == 3
        assert silent.of(AllocationFailed)

    def test_a_wrong_password_is_said_once_and_not_tried_again(self, world) -> None:
        client = world.client(password="guess")
        world.run(60.0)
        (failed,) = client.of(AllocationFailed)
        assert failed.code == 401
        assert len(world.sent(Method.ALLOCATE)) == 2

    def test_the_family_and_lifetime_asked_for_are_given(self, new_world) -> None:
        world = new_world(relay_hosts=["9.9.9.10", "2606:4700::10"])
        client = world.allocated(family=AddressFamily.IPV6, lifetime_seconds=1800)
        assert client.relayed.is_ipv6
        assert client.of(Allocated)[0].lifetime_seconds == 1800

    @pytest.mark.parametrize(
        ("limits", "code"),
        [(Limits(allocations_per_user=0), 486), (Limits(allocations=0), 508)],
    )
    def test_a_full_server_is_reported(self, new_world, limits, code) -> None:
        world = new_world(limits=limits)
        client = world.client()
        world.run(60.0)
        assert [event.code for event in client.of(AllocationFailed)] == [code]

    def test_a_missing_family_is_reported(self, world) -> None:
        client = world.client(family=AddressFamily.IPV6)
        world.run(60.0)
        assert [event.code for event in client.of(AllocationFailed)] == [440]

    def test_another_server_is_named(self, world) -> None:
        elsewhere = Address("8.8.8.8", 3478)
        world.server.redirect_to = [elsewhere]
        client = world.client()
        back = world.client(redirected_by=[elsewhere])
        world.run(1.0)
        assert [(e.code, e.alternate_server) for e in client.of(AllocationFailed)] == [
            (300, elsewhere)
        ]
        assert [(e.code, e.alternate_server) for e in back.of(AllocationFailed)] == [(300, None)]

    def test_what_an_earlier_run_left_on_our_port_is_cleared(self, world) -> None:
        first = world.allocated()
        world.clients.remove(first)
        again = world.allocated(port=5000)
        assert again.relayed != first.relayed
        assert world.server.allocations == 1
        assert world.server_said(AllocationEnded)[0].reason is EndReason.DELETED

    def test_what_another_user_has_on_our_port_is_not(self, world) -> None:
        first = world.allocated("bob")
        world.clients.remove(first)
        client = world.client(port=5000)
        world.run(60.0)
        assert [event.code for event in client.of(AllocationFailed)] == [437]
        assert world.server.allocations == 1


class TestStaying:
    def test_it_is_refreshed_two_minutes_before_it_expires(self, world) -> None:
        client = world.allocated()
        world.run(1700.0)
        assert [round(at, 2) for at in world.sent(Method.REFRESH)] == [480.02, 960.02, 1440.02]
        assert client.allocation.relayed_address and len(client.events) == 1

    def test_it_stays_for_days(self, world) -> None:
        client = world.allocated()
        client.allocation.bind_channel(PEER, world.now)
        world.run(3 * 86400.0)
        assert world.server.allocations == 1
        assert len(client.events) == 1
        world.peer_sends(PEER, client.relayed, b"still there?")
        world.settle()
        assert client.received == [(PEER, b"still there?")]

    def test_a_lost_server_is_noticed_when_the_lifetime_is_over(self, world) -> None:
        client = world.allocated()
        world.lost = lambda datagram: True
        world.run(1000.0)
        at, event = client.events[-1]
        assert isinstance(event, AllocationLost) and event.code is None
        assert at == pytest.approx(600.02)

    def test_a_refresh_that_fails_once_is_tried_again(self, world) -> None:
        client = world.allocated()
        world.lost = lambda datagram: 480 <= world.now < 520
        world.run(5000.0)
        assert world.server.allocations == 1 and len(client.events) == 1

    def test_a_restarted_server_has_lost_us(self, world) -> None:
        client = world.allocated()
        world.restart_server()
        world.run(600.0)
        (lost,) = client.of(AllocationLost)
        assert lost.code == 437
        assert client.allocation.next_timeout() is None
        assert world.allocated().of(Allocated)

    def test_a_restarted_server_is_noticed_when_we_ask(self, world) -> None:
        client = world.allocated()
        client.allocation.refresh(world.now)
        client.allocation.refresh(world.now)
        world.settle()
        assert len(world.sent(Method.REFRESH)) == 1 and len(client.events) == 1
        world.restart_server()
        asked = world.now
        client.allocation.refresh(world.now)
        world.run(asked + 60)
        ((at, lost),) = [each for each in client.events if isinstance(each[1], AllocationLost)]
        assert lost.code == 437 and at == pytest.approx(asked + 0.04)

    def test_asking_in_vain_changes_nothing(self, world) -> None:
        client = world.allocated()
        world.lost = lambda datagram: True
        client.allocation.refresh(world.now)
        world.run(100.0)
        world.lost = lambda datagram: False
        world.run(2000.0)
        assert len(client.events) == 1 and world.server.allocations == 1

    def test_a_restarted_server_is_noticed_by_the_next_request(self, world) -> None:
        client = world.allocated()
        world.restart_server()
        client.allocation.permit(PEER, world.now)
        world.settle()
        world.settle()
        assert [event.code for event in client.of(AllocationLost)] == [437]

    def test_a_closed_connection_is_the_end(self, world) -> None:
        client = world.allocated(transport=Transport.TCP)
        client.allocation.disconnected(world.now)
        world.run(1000.0)
        assert len(client.of(AllocationLost)) == 1
        pending = world.client(transport=Transport.TCP)
        pending.allocation.disconnected(world.now)
        world.settle()
        assert len(pending.of(AllocationFailed)) == 1

    def test_close_gives_the_address_back(self, world) -> None:
        client = world.allocated()
        client.allocation.bind_channel(PEER, world.now)
        client.allocation.close(world.now)
        client.allocation.close(world.now)
        world.run(1000.0)
        assert world.server.allocations == 0 and not world.sockets
        assert client.events[-1][1] == AllocationClosed()
        assert len(client.of(AllocationClosed)) == 1

    def test_close_is_believed_even_if_the_answer_is_lost(self, world) -> None:
        client = world.allocated()
        world.lost = lambda datagram: datagram.source.port == 3478 and world.now < 1.4
        client.allocation.close(world.now)
        world.run(1000.0)
        assert client.of(AllocationClosed) and world.server.allocations == 0

    @pytest.mark.parametrize("at", [0.0, 0.005, 0.015, 0.02, 0.025, 0.035])
    def test_close_in_the_middle_of_allocating_leaves_nothing(self, world, at) -> None:
        client = world.client()
        world.run(at)
        client.allocation.close(world.now)
        world.run(60.0)
        assert client.of(AllocationClosed) and not client.of(Allocated)
        assert world.server.allocations == 0 and not world.sockets


class TestStaleNonces:
    """What the client does when the server wants a fresh nonce (438)."""

    @pytest.fixture
    def world(self, new_world):
        return new_world(limits=Limits(nonce_lifetime=60))

    def test_every_kind_of_request_is_signed_anew(self, world) -> None:
        client = world.allocated()
        for at in range(100, 2000, 100):
            world.run(float(at))
            client.allocation.bind_channel(Address("4.4.4.4", at), world.now)
            client.allocation.permit(Address(f"5.5.5.{at // 100}", 1), world.now)
        client.allocation.close(world.now)
        world.run(2100.0)
        assert [type(event) for _, event in client.events] == [Allocated, AllocationClosed]
        assert world.server.allocations == 0

    def test_first_data_survives_a_stale_nonce(self, world) -> None:
        client = world.allocated()
        world.run(100.0)
        for data in (b"first", b"second"):
            client.allocation.send(PEER, data, 0, world.now)
        world.run(100.0 + 0.031)
        assert payloads(world) == [b"first", b"second"]
        world.run(500.0)
        assert payloads(world) == [b"first", b"second"]

    def test_what_is_kept_for_that_is_bounded(self, world) -> None:
        client = world.allocated()
        world.run(100.0)
        for n in range(1000):
            client.allocation.send(PEER, b"%d" % n * 400, 0, world.now)
        world.run(101.0)
        assert len(payloads(world)) <= 32
        assert payloads(world)[-1] == b"999" * 400


class TestRenewedCredentials:
    UNIX = 1_700_000_000

    def credentials(self, seconds: int) -> Credentials:
        return rest_credentials("secret", "alice", seconds, self.UNIX)

    @pytest.fixture
    def world(self, new_world):
        return new_world(authenticator=RestUsers(REALM, ["secret"], self.UNIX))

    def test_an_allocation_outlives_those_that_made_it_when_they_are_renewed(self, world) -> None:
        """As the switchboard does it: new ones at half the life of the old."""
        made = self.credentials(1000)
        client = world.allocated(made.username, password=made.password)
        for at in range(500, 9500, 500):
            world.run(float(at))
            client.allocation.set_credentials(self.credentials(at + 1000), world.now)
        world.run(9900.0)
        assert len(client.events) == 1 and world.server.allocations == 1
        errors = [each.get(ErrorCode).code for _, each in world.messages(MessageClass.ERROR)]
        assert errors[0] == 401 and set(errors[1:]) <= {438}

    def test_an_allocation_ends_with_those_that_nobody_renewed(self, world) -> None:
        made = self.credentials(1000)
        client = world.allocated(made.username, password=made.password)
        world.run(1100.0)
        assert client.of(AllocationLost) and world.server.allocations == 0
        assert len(world.sent(Method.REFRESH)) < 20

    def test_one_refresh_tries_them_and_nothing_else_does(self, world) -> None:
        made, new = self.credentials(5000), self.credentials(9000)
        client = world.allocated(made.username, password=made.password)
        client.allocation.set_credentials(new, world.now)
        client.allocation.permit(PEER, world.now)
        world.run(1000.0)
        names = [
            (message.method, message.get(Username).value)
            for _, message in world.messages(MessageClass.REQUEST)
            if message.get(Username)
        ]
        first_new = names.index((Method.REFRESH, new.username))
        assert {name for _, name in names[:first_new]} == {made.username}
        assert {name for _, name in names[first_new:]} == {new.username}
        assert (Method.CREATE_PERMISSION, new.username) in names

    def test_new_ones_are_used_when_the_server_refuses_the_old(self, world) -> None:
        made = self.credentials(100)
        client = world.client(made.username, password="mistyped")
        client.allocation.set_credentials(self.credentials(200), world.now)
        world.run(1.0)
        assert client.of(Allocated)
        assert len(world.sent(Method.ALLOCATE)) == 3


@pytest.mark.parametrize("seed", range(20))
def test_it_works_through_loss_and_reordering(new_world, seed) -> None:
    """A fifth of all datagrams is lost, and the others overtake each other."""
    world = new_world(latency=0.02, jitter=0.2, seed=seed)
    world.lost = lambda datagram: world.random.random() < 0.2
    alice, bob = world.client("alice"), world.client("bob")
    world.run(40.0)
    assert alice.of(Allocated) and bob.of(Allocated)
    alice.allocation.bind_channel(bob.relayed, world.now)
    bob.allocation.bind_channel(alice.relayed, world.now)
    world.run(80.0)
    for n in range(400):
        alice.allocation.send(bob.relayed, b"%d" % n, 0, world.now)
        bob.allocation.send(alice.relayed, b"%d" % n, 0, world.now)
        world.run(world.now + 5)
    world.lost = lambda datagram: False
    world.run(world.now + 100)
    assert len(alice.received) > 120 and len(bob.received) > 120
    assert not alice.of(AllocationLost) and not bob.of(AllocationLost)
    assert world.server.allocations == 2
    alice.allocation.close(world.now)
    bob.allocation.close(world.now)
    world.run(world.now + 100)
    assert world.server.allocations == 0
