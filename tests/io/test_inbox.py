"""Reading many datagrams of one socket into an arena, in one call and in a call for each."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from knothole.io.arena import LARGEST_DATAGRAM, SLOTS, Arena
from knothole.io.inbox import BatchInbox, Inbox, SingleInbox, make_inbox
from knothole.io.mmsg import HAS_MMSG
from knothole.io.offload import make_offload
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address, parse_address

PATIENCE = 40.0


class Place:
    """A socket with its inbox, and others that send to it."""

    def __init__(self, host: str, batches: bool) -> None:
        self.arena = Arena()
        self.sock = bind_socket(Address(host, 0))
        self.senders = [bind_socket(Address(host, 0)) for _ in range(3)]
        self.offload = make_offload(self.senders[0])
        self.inbox: Inbox = make_inbox(self.sock, self.arena, batches)

    def send(self, payload: bytes, sender: int = 0) -> None:
        self.senders[sender].sendto(payload, self.sock.getsockname())

    def received(self) -> list[tuple[bytes, int, Address]]:
        """What one call brings."""
        assert select.select([self.sock], [], [], PATIENCE)[0]
        return [
            (bytes(self.arena.view[start : start + size]), segment_size, self.inbox.address(source))
            for start, size, segment_size, source in zip(
                self.arena.starts, *self.inbox.receive(), strict=False
            )
        ]


def address_of(sock: socket.socket) -> Address:
    return parse_address(*sock.getsockname()[:2])


@pytest.fixture(params=["127.0.0.1", "::1"])
def place(request: pytest.FixtureRequest, batches: bool) -> Iterator[Place]:
    made = Place(request.param, batches)
    yield made
    for each in (made.sock, *made.senders):
        each.close()


@pytest.mark.skipif(not HAS_MMSG, reason="there is no recvmmsg")
def test_where_there_is_one_call_for_all_it_is_used_unless_it_is_not_wanted(place, batches) -> None:
    assert isinstance(place.inbox, BatchInbox if batches else SingleInbox)


def test_all_that_has_come_is_there_with_its_source_in_order(place) -> None:
    payloads = [bytes([number]) * (number * 97 % 1400) for number in range(20)]
    for number, payload in enumerate(payloads):
        place.send(payload, number % 3)
    sources = [address_of(each) for each in place.senders]
    assert place.received() == [
        (payload, 0, sources[number % 3]) for number, payload in enumerate(payloads)
    ]


def test_nothing_is_an_error_that_says_so(place) -> None:
    with pytest.raises(BlockingIOError):
        place.inbox.receive()


def test_what_has_no_slot_comes_with_the_next_call(place) -> None:
    for number in range(SLOTS + 5):
        place.send(number.to_bytes(2, "big"))
    came = [payload for payload, _, _ in place.received()]
    assert came == [number.to_bytes(2, "big") for number in range(SLOTS)]
    place.send(b"one more")
    came = [payload for payload, _, _ in place.received()]
    assert came == [(SLOTS + number).to_bytes(2, "big") for number in range(5)] + [b"one more"]


def test_the_largest_have_room_side_by_side(place) -> None:
    largest = LARGEST_DATAGRAM - 28  # less the headers of IPv4 and UDP
    for number in range(3):
        place.send(bytes([number]) * largest)
        place.send(b"small")
    came = [payload for payload, _, _ in place.received()]
    assert came == [each for number in range(3) for each in (bytes([number]) * largest, b"small")]


def test_a_source_is_the_same_whenever_it_comes_and_can_be_known_before(place) -> None:
    expected = place.inbox.source(address_of(place.senders[1]))
    for _ in range(2):
        place.send(b"payload", 1)
        place.send(b"payload", 2)
        assert select.select([place.sock], [], [], PATIENCE)[0]
        _, _, sources = place.inbox.receive()
        assert sources[0] == expected
        assert hash(sources[0]) == hash(expected)
        assert sources[1] != expected


@pytest.mark.skipif(not HAS_MMSG, reason="only Linux has bursts")
def test_a_burst_comes_as_one_with_its_segment_size(place) -> None:
    assert make_offload(place.sock, coalesce=False).coalesce(place.sock)
    burst = b"".join(bytes([number]) * 1000 for number in range(5)) + b"the last is shorter"
    place.send(b"before")
    place.offload.send_burst(place.senders[0], burst, 1000, place.sock.getsockname())
    place.send(b"behind")
    assert [each[:2] for each in place.received()] == [
        (b"before", 0),
        (burst, 1000),
        (b"behind", 0),
    ]
    place.send(b"no burst")
    assert [each[:2] for each in place.received()] == [(b"no burst", 0)]
