"""Relayed addresses are bare sockets until they are used, and then all that a relay needs."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest

from knothole.engine.core import Datagram
from knothole.io.udp_bind import bind_socket
from knothole.server.relay_sockets import RelaySockets
from knothole.wire.address import Address

HOST = "127.0.0.1"
OUTSIDE = "192.0.2.1"


class Ground:
    """Relayed addresses outside of here, and a peer."""

    def __init__(self) -> None:
        self.sockets = RelaySockets({OUTSIDE: HOST}, lambda *_: None, lambda: True)
        self.came: list[tuple[Address, bytes]] = []
        self.errors: list[Address] = []
        self.sockets.join(self._take, lambda relayed, _: self.errors.append(relayed))
        self.peer = bind_socket(Address(HOST, 0))
        self.peer_address = Address(*self.peer.getsockname())

    def open(self) -> tuple[Address, Address]:
        """A relayed address, and what it is here."""
        with bind_socket(Address(HOST, 0)) as free:
            port = free.getsockname()[1]
        self.sockets.open(Address(OUTSIDE, port))
        return Address(OUTSIDE, port), Address(HOST, port)

    def _take(self, relayed: Address, datagrams: Sequence[Datagram]) -> None:
        self.came += ((relayed, each) for one in datagrams for each in one.segments())

    def close(self) -> None:
        self.sockets.routes.close()
        self.sockets.close_all()
        self.peer.close()


@pytest.fixture
async def ground() -> Iterator[Ground]:
    made = Ground()
    yield made
    made.close()


async def test_what_comes_to_one_that_was_never_used_is_delivered(ground, until) -> None:
    first, here = ground.open()
    second, _ = ground.open()
    ground.peer.sendto(b"one", here)
    ground.peer.sendto(b"two", here)
    await until(lambda: len(ground.came) == 2)
    ground.peer.sendto(b"three", here)
    await until(lambda: len(ground.came) == 3)
    assert ground.came == [(first, b"one"), (first, b"two"), (first, b"three")]
    assert len(ground.sockets) == 2
    assert second not in {relayed for relayed, _ in ground.came}


async def test_one_that_was_never_used_can_send(ground, until) -> None:
    relayed, here = ground.open()
    ground.sockets.send(Datagram(relayed, ground.peer_address, b"hello"))
    found = []

    def has_come() -> bool:
        try:
            found.append(ground.peer.recvfrom(100))
        except BlockingIOError:
            return False
        return True

    await until(has_come)
    assert found == [(b"hello", tuple(here))]
    ground.peer.sendto(b"back", here)
    await until(lambda: ground.came == [(relayed, b"back")])


async def test_its_errors_are_told_from_the_first_datagram_on(ground, until) -> None:
    relayed, _ = ground.open()
    gone = ground.peer_address
    ground.peer.close()
    ground.sockets.send_unfragmented(Datagram(relayed, gone, b"x"))
    await until(lambda: ground.errors == [relayed])


async def test_buffers_are_large_once_they_are_needed(ground) -> None:
    relayed, _ = ground.open()
    link = ground.sockets.find(relayed)
    assert link is not None and ground.sockets.find(relayed) is link
    sizes = [
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) for sock in (link._sock, ground.peer)
    ]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("is_used", [False, True])
async def test_an_address_that_is_closed_is_free_again(ground, is_used) -> None:
    relayed, here = ground.open()
    if is_used:
        assert ground.sockets.find(relayed) is not None
    ground.sockets.close(relayed)
    ground.sockets.close(relayed)
    assert len(ground.sockets) == 0 and ground.sockets.find(relayed) is None
    ground.sockets.send(Datagram(relayed, ground.peer_address, b"lost"))
    bind_socket(here).close()


async def test_an_address_that_something_else_has_cannot_be_opened(ground) -> None:
    with pytest.raises(OSError, match="in use"):
        ground.sockets.open(Address(OUTSIDE, ground.peer_address.port))
    assert len(ground.sockets) == 0
