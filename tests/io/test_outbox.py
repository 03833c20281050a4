"""Sending many datagrams of one socket from an arena, in one call and in a call for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from knothole.io import mmsg, outbox
from knothole.io.arena import SLOTS, Arena
from knothole.io.mmsg import HAS_MMSG
from knothole.io.outbox import BatchOutbox, Destination, SingleOutbox, make_outbox
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address, parse_address

PATIENCE = 40.0
TOO_LARGE = 65_535  # with a header in front it fits no datagram


class Place:
    """A socket with its outbox, and others that it sends to."""

    def __init__(self, host: str, batches: bool) -> None:
        self.arena = Arena()
        self.sock = bind_socket(Address(host, 0))
        self.refused: list[tuple[Address, bytes]] = []
        self.outbox = make_outbox(
            self.sock, self.arena, lambda *each: self.refused.append(each), batches
        )
        self.receivers = [bind_socket(Address(host, 0)) for _ in range(3)]
        self.addresses = [parse_address(*each.getsockname()[:2]) for each in self.receivers]
        self.destinations = [Destination(each) for each in self.addresses]
        for each in self.receivers:
            each.settimeout(PATIENCE)

    def post(self, slot: int, payload: bytes, receiver: int = 0) -> None:
        start = self.arena.starts[slot]
        self.arena.bytes[start : start + len(payload)] = payload
        self.outbox.post(start, len(payload), self.destinations[receiver])

    def received(self, receiver: int, count: int) -> list[bytes]:
        return [self.receivers[receiver].recv(65_535) for _ in range(count)]


@pytest.fixture(params=["127.0.0.1", "::1"])
def place(request: pytest.FixtureRequest, batches: bool) -> Iterator[Place]:
    made = Place(request.param, batches)
    yield made
    for each in (made.sock, *made.receivers):
        each.close()


@pytest.mark.skipif(not HAS_MMSG, reason="there is no sendmmsg")
def test_where_there_is_one_call_for_all_it_is_used_unless_it_is_not_wanted(place, batches) -> None:
    assert isinstance(place.outbox, BatchOutbox if batches else SingleOutbox)


def test_each_goes_where_it_should_and_in_order(place) -> None:
    payloads = [bytes([number]) * (number * 97 % 1400) for number in range(30)]
    for _ in range(2):
        for number, payload in enumerate(payloads):
            place.post(number, payload, number % 3)
        place.outbox.leave()
        for receiver in range(3):
            assert place.received(receiver, 10) == payloads[receiver::3]
    assert place.receivers[0].getsockname() != place.sock.getsockname()


def test_they_come_from_the_socket_s_address(place) -> None:
    place.post(0, b"payload")
    place.outbox.leave()
    assert place.receivers[0].recvfrom(100) == (b"payload", place.sock.getsockname())


def test_more_than_there_is_room_for_leave_before(place) -> None:
    for number in range(SLOTS + 3):
        place.post(number % SLOTS, number.to_bytes(2, "big"))
    place.outbox.leave()
    # Those of the first slots were overwritten after they had left.
    assert place.received(0, SLOTS + 3)[-3:] == [
        (SLOTS + number).to_bytes(2, "big") for number in range(3)
    ]


def test_what_the_kernel_does_not_take_comes_back_and_what_is_before_it_has_left(place) -> None:
    place.post(0, b"first", 0)
    place.post(1, bytes(TOO_LARGE), 1)
    place.post(2, b"last", 2)
    place.outbox.leave()
    assert place.received(0, 1) == [b"first"]
    assert place.refused[0] == (place.addresses[1], bytes(TOO_LARGE))
    # Those behind it come back too, or have left: in order either way.
    assert place.refused[1:] in ([], [(place.addresses[2], b"last")])
    if not place.refused[1:]:
        assert place.received(2, 1) == [b"last"]


@pytest.mark.skipif(not HAS_MMSG, reason="there is no sendmmsg")
@pytest.mark.parametrize("batches", [True], indirect=True)
def test_of_what_the_kernel_takes_a_part_of_the_rest_comes_back(place, monkeypatch) -> None:
    taken = lambda sock, headers, count: mmsg.sendmmsg(sock, headers, min(count, 2))  # noqa: E731
    monkeypatch.setattr(outbox, "sendmmsg", taken)
    for number in range(5):
        place.post(number, bytes([number]))
    place.outbox.leave()
    assert place.received(0, 2) == [b"\0", b"\1"]
    assert place.refused == [(place.addresses[0], bytes([number])) for number in (2, 3, 4)]


def test_of_a_socket_that_is_closed_everything_comes_back(place) -> None:
    place.sock.close()
    place.post(0, b"first")
    place.post(1, b"second")
    place.outbox.leave()
    assert place.refused == [(place.addresses[0], b"first"), (place.addresses[0], b"second")]


def test_leaving_twice_sends_once(place) -> None:
    place.post(0, b"once")
    place.outbox.leave()
    place.outbox.leave()
    assert place.received(0, 1) == [b"once"]
    place.receivers[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        place.receivers[0].recv(100)
