"""A second socket of one address, connected to a peer: who gets what, and who cannot join."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator

import pytest

from knothole.io.connected import CAN_CONNECT_BESIDE, connect_beside
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address, parse_address

pytestmark = pytest.mark.skipif(not CAN_CONNECT_BESIDE, reason="only Linux tells peers apart so")

PATIENCE = 40.0


def address_of(sock: socket.socket) -> Address:
    return parse_address(*sock.getsockname()[:2])


class Place:
    """A socket, and peers of it."""

    def __init__(self, host: str) -> None:
        self.first, *self.peers = [bind_socket(Address(host, 0)) for _ in range(4)]
        self.beside_it: list[socket.socket] = []
        for each in (self.first, *self.peers):
            each.settimeout(PATIENCE)

    def beside(self, number: int) -> socket.socket:
        made = connect_beside([self.first, *self.beside_it], address_of(self.peers[number]))
        made.settimeout(PATIENCE)
        self.beside_it.append(made)
        return made


@pytest.fixture(params=["127.0.0.1", "::1"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(request.param)
    yield made
    for each in (made.first, *made.peers, *made.beside_it):
        each.close()


def test_each_gets_what_its_peer_sends_and_the_first_what_all_others_do(place) -> None:
    by_number = [place.beside(0), place.beside(1), place.first]
    for turn in range(20):
        for number, peer in enumerate(place.peers):
            peer.sendto(b"%d %d" % (turn, number), place.first.getsockname())
    for turn in range(20):
        for number, sock in enumerate(by_number):
            payload, source = sock.recvfrom(100)
            assert payload == b"%d %d" % (turn, number)
            assert source == place.peers[number].getsockname()


def test_all_of_them_send_from_one_address(place) -> None:
    made = place.beside(0)
    made.send(b"by the second")
    place.first.sendto(b"by the first", place.peers[0].getsockname())
    here = place.first.getsockname()
    assert place.peers[0].recvfrom(100) == (b"by the second", here)
    assert place.peers[0].recvfrom(100) == (b"by the first", here)


def test_when_it_is_closed_the_first_gets_everything_again(place) -> None:
    place.beside(0).close()
    place.peers[0].sendto(b"payload", place.first.getsockname())
    assert place.first.recv(100) == b"payload"


def test_nobody_else_can_share_the_address_before_or_after(place) -> None:
    for number in range(4):
        with pytest.raises(OSError) as refused:
            bind_socket(address_of(place.first), shared=True)
        assert refused.value.errno == errno.EADDRINUSE
        if number < len(place.peers):
            place.beside(number)


def test_a_peer_that_cannot_be_leaves_nothing_behind(place) -> None:
    with pytest.raises(OSError):
        connect_beside([place.first], Address("255.255.255.255", 9))
    place.peers[0].sendto(b"payload", place.first.getsockname())
    assert place.first.recv(100) == b"payload"
