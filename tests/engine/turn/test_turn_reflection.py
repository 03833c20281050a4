"""What a forged source gains: answers that are hardly longer than questions, and few of them."""

from __future__ import annotations

import pytest

from knothole.engine.rate import Rate
from knothole.engine.turn.quota import Limits
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    ErrorCode,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Software,
    Username,
    XorPeerAddress,
    decode,
    encode,
)

UDP = RequestedTransport()
SMALL = Rate(1000, 100)


@pytest.fixture
def world(new_world):
    return new_world(limits=Limits(unproven=SMALL))


def unsigned(method: int, *attributes) -> bytes:
    return encode(Message(MessageClass.REQUEST, method, bytes(12), attributes))


def flood(raw, payload: bytes, count: int) -> tuple[int, int]:
    """How many answers ``count`` requests get, and how many bytes those have."""
    answers = []
    for _ in range(count):
        raw.send(payload)
        answers += raw.replies
    return len(answers), sum(map(len, answers))


def test_a_challenge_is_as_short_as_it_can_be(new_world, raw) -> None:
    client = type(raw)(new_world(realm="knothole"))
    client.send(unsigned(Method.ALLOCATE, UDP))
    assert len(client.replies[0]) == 92  # header 20, code 8, realm 12, nonce 40, algorithms 12
    answer = decode(client.replies[0])
    assert answer.get(Software) is None
    assert answer.get(ErrorCode) == ErrorCode(401, "")
    assert not answer.has_integrity and not answer.has_fingerprint


BAD = (Username("alice"), Realm("knothole.test"), Nonce(b"obMatJos2AAAAwrong"))
REQUESTS = {
    "bare": unsigned(Method.ALLOCATE),
    "allocate": unsigned(Method.ALLOCATE, UDP),
    "refresh": unsigned(Method.REFRESH),
    "permission": unsigned(Method.CREATE_PERMISSION, XorPeerAddress(Address("2.2.2.2", 1))),
    "without a nonce": encode(
        Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), BAD[:1]), key=b"k" * 16
    ),
    "badly signed": encode(
        Message(MessageClass.REQUEST, Method.ALLOCATE, bytes(12), BAD), key=b"k" * 16
    ),
}


@pytest.mark.parametrize("request_name", REQUESTS)
def test_one_network_is_sent_no_more_than_its_share_beyond_what_came(raw, request_name) -> None:
    request = REQUESTS[request_name]
    answers, size = flood(raw, request, 1000)
    assert size - answers * len(request) <= SMALL.burst
    assert answers < 1000 or size <= answers * len(request)


def test_other_addresses_of_the_network_are_the_same_source(new_raw) -> None:
    request = REQUESTS["bare"]
    total = gained = 0
    for number in range(256):
        answers, size = flood(new_raw(client=Address(f"1.1.1.{number}", 53)), request, 10)
        total, gained = total + answers, gained + size - answers * len(request)
    assert 0 < total < 20 and gained <= SMALL.burst


def test_a_home_with_ipv6_is_one_source(new_raw) -> None:
    hosts = [f"2a00:0:0:{number:x}::{number:x}" for number in range(200)]
    answers = [flood(new_raw(client=Address(host, 53)), REQUESTS["bare"], 1)[0] for host in hosts]
    assert 0 < sum(answers) < 20


def test_another_network_is_answered(raw, new_raw) -> None:
    flood(raw, REQUESTS["bare"], 1000)
    assert flood(new_raw(client=Address("1.1.2.1", 4000)), REQUESTS["bare"], 1)[0] == 1


def test_it_is_answered_again_after_a_while(world, raw) -> None:
    flood(raw, REQUESTS["bare"], 1000)
    world.now = 5.0
    assert flood(raw, REQUESTS["bare"], 1000)[0] > 0


def test_a_connection_proves_its_source(new_raw) -> None:
    for transport in (Transport.TCP, Transport.TLS):
        client = new_raw(transport=transport)
        assert flood(client, REQUESTS["bare"], 100)[0] == 100


def test_who_has_an_allocation_is_answered_whatever_others_forge(raw, new_raw) -> None:
    raw.allocate()
    flood(new_raw(client=Address("1.1.1.99", 53)), REQUESTS["bare"], 1000)
    raw.nonce = b"stale"
    assert raw.code(Method.REFRESH) == 438


def test_who_has_a_nonce_can_begin_whatever_others_forge(raw, new_raw) -> None:
    raw.challenge()
    flood(new_raw(client=Address("1.1.1.99", 53)), REQUESTS["bare"], 1000)
    raw.allocate()


def test_a_nonce_is_good_at_its_own_address_only(raw, new_raw) -> None:
    """Nor at another port, by another transport, or at another address of the server's."""
    raw.challenge()
    for other in (
        new_raw(client=Address("1.1.1.1", 4001)),
        new_raw(client=Address("1.1.1.2", 4000)),
        new_raw(transport=Transport.TCP),
    ):
        other.nonce = raw.nonce
        assert other.code(Method.ALLOCATE, UDP) == 438
    assert raw.code(Method.ALLOCATE, UDP) == 0


def test_nothing_is_kept_of_who_has_proven_nothing(world, new_raw) -> None:
    """All that grows is the table of networks, and it has an end."""
    for number in range(30_000):
        client = Address(f"{20 + number // 65536}.{number // 256 % 256}.{number % 256}.1", 4000)
        flood(new_raw(client=client), REQUESTS["bare"], 1)
    assert len(world.server.unproven) <= 10_000
    assert world.server.allocations == 0
    assert world.server.next_timeout() is None
