"""Hardened, point 4: what a forged source gains of a real server, and what is kept of it.

In virtual time: tests/engine/turn/test_turn_reflection.py. DTLS: tests/server/test_dtls.py.
"""

from __future__ import annotations

import contextlib
import time

import pytest

from knothole.lab.fuzz.attacks import dtls_hello
from knothole.lab.fuzz.patient import vitals
from knothole.wire.address import Address
from knothole.wire.stun import Method, RequestedTransport, XorPeerAddress

from .attacker import Attacker

UDP = RequestedTransport()
AT_ONCE, A_SECOND = 1_048_576, 262_144  # Limits.unproven
MOST_CHALLENGE = 92
FLOOD = 60_000  # four times what there are challenges for at once


@pytest.mark.parametrize(
    ("method", "attributes"),
    [
        (Method.ALLOCATE, ()),
        (Method.ALLOCATE, (UDP,)),
        (Method.REFRESH, ()),
        (Method.CREATE_PERMISSION, (XorPeerAddress(Address("8.8.8.8", 1)),)),
        (Method.CHANNEL_BIND, ()),
    ],
)
def test_a_challenge_is_short(patient, method, attributes) -> None:
    with Attacker(patient.port) as attacker:
        assert len(attacker.exchange(attacker.unsigned(method, *attributes))) <= MOST_CHALLENGE


def test_a_mapped_address_is_short(patient) -> None:
    with Attacker(patient.port) as attacker:
        assert len(attacker.exchange(attacker.unsigned(Method.BINDING))) <= 44


def test_a_dtls_client_without_a_cookie_is_answered_with_less_than_it_sent(patient) -> None:
    before = vitals(patient.processes).descriptors
    with Attacker(patient.port) as attacker:
        hello = dtls_hello(attacker.random)
        deadline = time.monotonic() + 40
        heard: list[bytes] = []
        while not heard and time.monotonic() < deadline:
            attacker.socket.send(hello)
            heard = attacker.heard(1.0)
        assert heard and all(len(each) < len(hello) for each in heard)
        assert {each[13] for each in heard} == {3}  # hello_verify_request, and nothing else
    assert vitals(patient.processes).descriptors == before


def test_a_nonce_is_good_for_nobody_else(patient, user) -> None:
    with user("alice") as owner, user("alice", seed=2) as thief:
        owner.challenge()
        thief.nonce = owner.nonce
        assert thief.code(Method.ALLOCATE, UDP) == 438
        thief.nonce = b""
        owner.allocate()


def test_a_flood_gets_its_share_and_no_more_and_connections_go_on(patient, stun) -> None:
    """The last test of this file: the network of loopback has used up its share by then."""
    with Attacker(patient.port) as attacker:
        request = attacker.unsigned(Method.ALLOCATE)
        begun = time.monotonic()
        attacker.socket.setblocking(False)
        answers: list[int] = []
        for _ in range(FLOOD):
            attacker.socket.send(request)
            with contextlib.suppress(BlockingIOError):
                answers.append(len(attacker.socket.recv(65_536)))
        answers += [len(each) for each in attacker.heard(0.5)]
        assert 0 < len(answers) < FLOOD
        gained = sum(answers) - len(answers) * len(request)
        assert gained <= AT_ONCE + A_SECOND * (time.monotonic() - begun)
    stun.stream("127.0.0.1", patient.port)
    stun.stream("127.0.0.1", patient.port, "")
