"""Hardened, point 4: what a forged source gains of a real server, and what is kept of it.

In virtual time: tests/engine/turn/test_turn_reflection.py. DTLS: tests/server/test_dtls.py.
"""

from __future__ import annotations

import contextlib
import time

import pytest
from OpenSSL import SSL

from knothole.io.dtls import HANDSHAKE_MTU, dtls_context
from knothole.lab.fuzz.attacks import dtls_hello
from knothole.lab.fuzz.witness import read_figures
from knothole.wire.address import Address
from knothole.wire.stun import Method, RequestedTransport, XorPeerAddress

from .attacker import PATIENCE, Attacker

UDP = RequestedTransport()
MOST_HALF_OPEN = 128  # knothole.server.dtls: of one network
HELLO_VERIFY_REQUEST, SERVER_HELLO = 3, 2  # RFC 6347 Section 4.3.2
AT_ONCE, A_SECOND = 1_048_576, 262_144  # Limits.unproven
MOST_CHALLENGE = 92
FLOOD = 60_032  # four times what there are challenges for at once


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
    before = read_figures(patient.metrics_port).relay_descriptors
    with Attacker(patient.port) as attacker:
        hello = dtls_hello(attacker.random)
        deadline = time.monotonic() + 40
        heard: list[bytes] = []
        while not heard and time.monotonic() < deadline:
            attacker.socket.send(hello)
            heard = attacker.heard(1.0)
        assert heard and all(len(each) < len(hello) for each in heard)
        assert {each[13] for each in heard} == {HELLO_VERIFY_REQUEST}, "and nothing else"
    assert read_figures(patient.metrics_port).relay_descriptors == before


def test_nothing_is_kept_of_dtls_clients_before_their_cookie(patient) -> None:
    """Neither of hundreds without one, nor of those who show somebody else's: of one network only
    128 associations without an allocation are kept, and these take no place from who comes next.
    """
    calm = read_figures(patient.metrics_port)
    with contextlib.ExitStack() as stack:
        owner = stack.enter_context(Attacker(patient.port))
        client = DtlsHello()
        shown = client.with_cookie(dtls_answer(owner, client.bare, HELLO_VERIFY_REQUEST))
        for _ in range(MOST_HALF_OPEN + 100):
            forger = stack.enter_context(Attacker(patient.port))
            for hello in (client.bare, shown) * 3:
                forger.socket.send(hello)
        thief = stack.enter_context(Attacker(patient.port))
        said = [dtls_answer(thief, shown, HELLO_VERIFY_REQUEST), *thief.heard(0.5)]
        assert {each[13] for each in said} == {HELLO_VERIFY_REQUEST}, "and nothing else"
        assert read_figures(patient.metrics_port).left_of(calm) == {}
        dtls_answer(owner, shown, SERVER_HELLO)  # its own cookie is good


def dtls_answer(attacker: Attacker, hello: bytes, kind: int) -> bytes:
    """The message of that kind, behind late copies of an answer to what was sent before."""
    heard: list[bytes] = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        attacker.socket.send(hello)
        heard += attacker.heard(1.0)
        for each in heard:
            if each[13] == kind:
                return each
    raise AssertionError(f"no such answer among {[each[13] for each in heard]}")


class DtlsHello:
    """What a DTLS client sends first, and what it sends when it has been given a cookie."""

    def __init__(self) -> None:
        self._connection = SSL.Connection(dtls_context(SSL.DTLS_CLIENT_METHOD))
        self._connection.set_connect_state()
        self._connection.set_ciphertext_mtu(HANDSHAKE_MTU)
        self.bare = self._next()

    def with_cookie(self, answer: bytes) -> bytes:
        self._connection.bio_write(answer)
        return self._next()

    def _next(self) -> bytes:
        with contextlib.suppress(SSL.WantReadError):
            self._connection.do_handshake()
        records = self._connection.bio_read(65_536)
        while len(records) > (first := 13 + int.from_bytes(records[11:13], "big")):
            records = records[first:]  # what it has sent again, as it had no answer for a while
        return records


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
        for _ in range(FLOOD // 64):  # the faster it comes, the less time gives back meanwhile
            for _ in range(64):
                attacker.socket.send(request)
            with contextlib.suppress(BlockingIOError):
                while True:
                    answers.append(len(attacker.socket.recv(65_536)))
        answers += [len(each) for each in attacker.heard(0.5)]
        assert 0 < len(answers) < FLOOD
        gained = sum(answers) - len(answers) * len(request)
        assert gained <= AT_ONCE + A_SECOND * (time.monotonic() - begun)
    stun.stream("127.0.0.1", patient.port)
    stun.stream("127.0.0.1", patient.port, "")
