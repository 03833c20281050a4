"""Hardened, point 3: loops, and how much one allocation, one user and one network may take.

With exact figures in virtual time: tests/engine/turn/test_turn_budget.py, test_turn_quota.py and,
for what the kernel relays, test_turn_shortcut.py. Mobility tickets and connections with peers:
test_mobility_tickets.py, test_peer_connections.py.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    Data,
    EvenPort,
    Lifetime,
    Method,
    RequestedTransport,
    ReservationToken,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
)

ALSO_ACCELERATED = True
UDP = RequestedTransport()
BURST = 128  # datagrams that may come at once, however low the limit


def test_an_allocation_that_sends_to_itself_hears_each_datagram_once(user) -> None:
    with user("alice") as attacker:
        own = attacker.allocate()
        assert attacker.code(Method.CREATE_PERMISSION, XorPeerAddress(own)) == 0
        attacker.indicate(own, b"round and round")
        heard = [decode(each).get(Data) for each in attacker.comes(1.0)]
        assert heard == [Data(b"round and round")]


def test_two_relayed_addresses_make_no_loop(user) -> None:
    """Each is the other's peer; what the one sends, the other's client hears, and nobody else."""
    with user("alice") as alice, user("bob", seed=2) as bob:
        to_bob, to_alice = XorPeerAddress(bob.allocate()), XorPeerAddress(alice.allocate())
        for one, peer in ((alice, to_bob), (bob, to_alice)):
            assert one.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer) == 0
        alice.socket.send(b"\x40\x00\x00\x04ping")
        assert bob.comes(0.5) == [b"\x40\x00\x00\x04ping"]
        assert alice.heard(0.5) == []


def test_a_flood_through_one_allocation_ends_at_its_limit(user) -> None:
    """One datagram a second, after a burst of 128: what comes back of 2000 sent to oneself."""
    begun = time.monotonic()
    with user("sender", source="127.0.0.2") as attacker:
        own = attacker.allocate()
        assert attacker.code(Method.CREATE_PERMISSION, XorPeerAddress(own)) == 0
        for number in range(2000):
            attacker.indicate(own, b"%d" % number)
        heard = attacker.comes(1.0)
        # Out and in are both counted.
        assert 0 < len(heard) <= (BURST + time.monotonic() - begun) / 2 + 1


@pytest.mark.parametrize(
    ("loop", "host"), [(False, "127.0.0.3"), (True, "127.0.0.4")], ids=["to another", "to itself"]
)
def test_a_flood_on_a_channel_ends_at_the_limit_too(user, loop, host) -> None:
    """What comes of 2000, by the kernel as far as it is lent anything, and by user space."""
    begun = time.monotonic()
    # Who has flooded before, by name or by host, has nothing left.
    with (
        user(f"alice@{host}", source=host) as alice,
        user(f"bob@{host}", seed=2, source=host) as bob,
    ):
        heard_by = alice if loop else bob
        to_alice, to_bob = XorPeerAddress(alice.allocate()), XorPeerAddress(bob.allocate())
        pairs = [(alice, to_alice)] if loop else [(alice, to_bob), (bob, to_alice)]
        for one, peer in pairs:
            assert one.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer) == 0
        for number in range(2000):
            alice.send_channel(0x4000, b"%d" % number)
        heard = heard_by.comes(1.0)
        # Out and in are both counted when it is one's own.
        part = 2 if loop else 1
        assert 0 < len(heard) <= (BURST + time.monotonic() - begun) / part + 1


def test_a_scan_of_a_network_ends_at_the_limit_whatever_the_allocation(user) -> None:
    codes = []
    with user("scanner") as attacker:
        attacker.allocate()
        for number in range(256):
            if number == 100:  # a new allocation is no new budget
                assert attacker.code(Method.REFRESH, Lifetime(0)) == 0
                attacker.allocate()
            peer = XorPeerAddress(Address(f"8.8.8.{number}", 53))
            codes.append(attacker.code(Method.CREATE_PERMISSION, peer))
    granted = codes.count(0)
    assert set(codes) == {0, 508}
    assert 128 <= granted < 256  # one a minute comes anew
    assert codes[:128] == [0] * 128


def test_one_user_has_a_quota(user) -> None:
    with contextlib.ExitStack() as everybody:
        attackers = [everybody.enter_context(user("alice", seed=each)) for each in range(10)]
        codes = [each.code(Method.ALLOCATE, UDP) for each in attackers]
        assert codes == [0] * 8 + [486] * 2


def test_new_names_from_one_network_do_not_give_a_new_quota(patient, user) -> None:
    before = read_figures(patient.metrics_port).relay_descriptors
    with contextlib.ExitStack() as everybody:
        attackers = [everybody.enter_context(user(f"name{each}", seed=each)) for each in range(30)]
        codes = [each.code(Method.ALLOCATE, UDP) for each in attackers]
        assert codes == [0] * 20 + [486] * 10
        assert read_figures(patient.metrics_port).relay_descriptors == before + 20


def test_reservations_count_and_are_given_back(patient, user) -> None:
    """EVEN-PORT with the next port kept: half as many, and after 30 s nothing is left."""
    with contextlib.ExitStack() as everybody:
        attackers = [everybody.enter_context(user("alice", seed=each)) for each in range(5)]
        codes = [each.code(Method.ALLOCATE, UDP, EvenPort(True)) for each in attackers]
        assert codes == [0] * 4 + [486]


def test_a_reserved_port_is_given_to_who_has_its_token(user) -> None:
    """Not to guesses, and not twice."""
    with user("alice") as owner, user("alice", seed=2) as second, user("alice", seed=3) as third:
        answer = owner.ask(Method.ALLOCATE, UDP, EvenPort(True))
        token, relayed = answer.get(ReservationToken), answer.get(XorRelayedAddress).address
        with user("mallory", seed=4) as guesser:
            for at in range(8):
                changed = bytearray(token.value)
                changed[at] ^= 1
                guess = ReservationToken(bytes(changed))
                assert guesser.code(Method.ALLOCATE, UDP, guess) == 508
            guesser.nonce = b""
        assert second.allocate(token) == Address(relayed.host, relayed.port + 1)
        assert third.code(Method.ALLOCATE, UDP, token) == 508
        third.nonce = b""


def test_permissions_and_channels_of_one_allocation_are_limited(user) -> None:
    with user("crowd") as attacker:
        own = attacker.allocate()
        codes = [
            attacker.code(
                Method.CHANNEL_BIND,
                ChannelNumber(0x4000 + number),
                XorPeerAddress(Address(own.host, 10_000 + number)),
            )
            for number in range(130)
        ]
        assert codes == [0] * 128 + [508] * 2
