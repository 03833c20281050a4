"""Hardened, point 3: tickets of mobility (RFC 8016) that are forged, stolen, used, over, or many.

In virtual time: tests/engine/turn/test_turn_mobility.py.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import (
    ChannelNumber,
    Lifetime,
    Method,
    MobilityTicket,
    XorPeerAddress,
    XorRelayedAddress,
)

from .attacker import PATIENCE, Attacker

ALSO_ACCELERATED = True
RELAY = "mobility = true\n"

NUMBER = 0x4000
SHORT = 8.0  # seconds for which credentials are good
MANY = 400


class Home:
    """A client with a ticket, and somebody who sends to it: its own other allocation."""

    def __init__(self, user, stack: contextlib.ExitStack) -> None:
        self.client: Attacker = stack.enter_context(user("alice"))
        answer = self.client.ask(Method.ALLOCATE, self.client.transport, MobilityTicket(b""))
        self.relayed: Address = answer.get(XorRelayedAddress).address
        self.ticket: MobilityTicket = answer.get(MobilityTicket)
        self.other: Attacker = stack.enter_context(user("alice", seed=2))
        there = self.other.allocate()
        self.channel = (ChannelNumber(NUMBER), XorPeerAddress(there))
        assert self.client.code(Method.CHANNEL_BIND, *self.channel) == 0
        back = (ChannelNumber(NUMBER), XorPeerAddress(self.relayed))
        assert self.other.code(Method.CHANNEL_BIND, *back) == 0

    def is_served_at(self, client: Attacker, *others: Attacker) -> None:
        """What is sent to it comes there, and to nobody else."""
        self.other.send_channel(NUMBER, b"for the owner")
        assert client.comes(0.2) == [b"\x40\x00\x00\x0dfor the owner"]
        for each in others:
            assert each.heard(0.2) == []


@pytest.fixture
def home(patient, user):
    with contextlib.ExitStack() as stack:
        yield Home(user, stack)


def refused(thief: Attacker, ticket: MobilityTicket) -> int:
    """The code that the ticket gets; the thief then tries to use what it has not."""
    code = thief.code(Method.REFRESH, ticket)
    thief.send_channel(NUMBER, b"I am the owner")
    thief.nonce = b""
    return code


def forgeries(ticket: bytes) -> list[bytes]:
    """Every byte changed, cut at every place, and noise."""
    changed = [
        ticket[:at] + bytes([ticket[at] ^ 1]) + ticket[at + 1 :] for at in range(len(ticket))
    ]
    cut = [ticket[:at] for at in range(len(ticket))]
    return [*changed, *cut, ticket + b"=", ticket * 2, bytes(32), b"A" * 32, b"\xff" * 600]


def test_forged_ones_are_bad(home, user) -> None:
    with user("alice", seed=3) as thief:
        codes = {
            thief.code(Method.REFRESH, MobilityTicket(f)) for f in forgeries(home.ticket.value)
        }
        assert codes == {400}
        thief.send_channel(NUMBER, b"I am the owner")
        thief.nonce = b""
        home.is_served_at(home.client, thief)


def test_another_user_gets_nothing_for_a_stolen_one(home, user) -> None:
    """Nor does who has heard it on the wire and cannot sign."""
    with user("mallory", seed=3) as thief, user("alice", seed=4) as guesser:
        assert refused(thief, home.ticket) == 441
        guesser.password = "guessed"
        assert refused(guesser, home.ticket) == 401
        home.is_served_at(home.client, thief, guesser)
        assert home.client.code(Method.REFRESH, Lifetime(600)) == 0


def test_a_used_one_is_void(home, user) -> None:
    with user("alice", seed=3) as moved, user("alice", seed=4) as replayer:
        assert moved.code(Method.REFRESH, home.ticket) == 0
        assert moved.code(Method.CHANNEL_BIND, *home.channel) == 0  # it has arrived
        home.is_served_at(moved)
        assert refused(replayer, home.ticket) == 437
        home.is_served_at(moved, replayer)
        home.client.nonce = b""  # the old address is nobody's


@pytest.mark.parametrize("how", ["deleted", "expired"])
def test_one_of_an_allocation_that_is_over_is_void(patient, user, how) -> None:
    with user("alice", SHORT) as owner, user("alice", seed=3) as late:
        answer = owner.ask(Method.ALLOCATE, owner.transport, MobilityTicket(b""))
        ticket = answer.get(MobilityTicket)
        if how == "deleted":
            assert owner.code(Method.REFRESH, Lifetime(0)) == 0
        deadline = time.monotonic() + 2 * PATIENCE
        while read_figures(patient.metrics_port).allocations:  # until its credentials are over
            assert time.monotonic() < deadline
            time.sleep(0.05)
        owner.nonce = b""
        assert refused(late, ticket) == 437


def test_many_moves_hold_one_address_and_the_owner_comes_home(patient, home, user) -> None:
    """From hundreds of ports, of which each might be kept."""
    calm = read_figures(patient.metrics_port)
    with user("alice", seed=MANY) as first:
        assert first.code(Method.REFRESH, home.ticket) == 0
        wander(user, home)
        assert first.code(Method.REFRESH) == 437, "it is forgotten"
        first.nonce = b""
    assert read_figures(patient.metrics_port).left_of(calm) == {}
    home.is_served_at(home.client)
    assert home.client.code(Method.REFRESH) == 0


def wander(user, home: Home) -> None:
    """To many ports, none of which is used."""
    for number in range(MANY):
        with user("alice", seed=number) as wanderer:
            wanderer.nonce = home.client.nonce  # of another address: stale, and renewed
            code = wanderer.code(Method.REFRESH, home.ticket)
            if code == 438:
                wanderer.challenge()
                code = wanderer.code(Method.REFRESH, home.ticket)
            assert code == 0
            wanderer.nonce = b""


def test_without_an_allocation_no_ticket_is_given(patient, user) -> None:
    """Unsigned, or beyond the quota: nothing to take along."""
    with user("alice") as attacker:
        assert attacker.challenge().get(MobilityTicket) is None
        answer = attacker.ask(Method.REFRESH, MobilityTicket(b""))
        assert answer.get(MobilityTicket) is None
        attacker.nonce = b""
