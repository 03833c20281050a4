"""A UDP socket that is told of ICMP errors of what it sent, and its DF bit."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

import pytest

from knothole.engine.core import Datagram
from knothole.io.error_queue import PeerError
from knothole.io.udp import UdpSocket
from knothole.io.udp_bind import bind_socket
from knothole.wire.address import Address

from ..ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="IP_RECVERR is Linux")
LOOPBACK = ["127.0.0.1", "::1"]
IP_MTU_DISCOVER = 10
OMIT = 5  # IP_PMTUDISC_OMIT: no DF bit, and routers are heard
PATIENCE = 30.0


async def until(condition: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE
    while not condition():
        assert loop.time() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture
def opened():
    """Opens a socket on a host: it, what it heard, and what it said of errors."""
    made: list[UdpSocket] = []

    def make(host: str) -> tuple[UdpSocket, socket.socket, list, list]:
        heard: list[Datagram] = []
        errors: list[PeerError] = []
        sock = bind_socket(Address(host, 0))
        made.append(UdpSocket(sock, heard.extend, on_error=errors.append))
        return made[-1], sock, heard, errors

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("host", LOOPBACK)
async def test_a_peer_that_is_not_there_is_told_of_and_others_are_still_heard(opened, host) -> None:
    link, _, heard, errors = opened(host)
    peer, _, _, _ = opened(host)
    gone = Address(host, free_port(host))
    for _ in range(3):
        link.send(Datagram(link.address, gone, b"data"))
    await until(lambda: bool(errors))
    assert errors[0] == PeerError(gone, *((1, 4) if ":" in host else (3, 3)), 0)
    peer.send(Datagram(peer.address, link.address, b"hello"))
    await until(lambda: bool(heard))
    assert heard[0].payload == b"hello"


async def test_the_df_bit_is_set_for_one_datagram_and_off_for_others(opened) -> None:
    link, sock, _, errors = opened("127.0.0.1")
    peer, _, heard, _ = opened("127.0.0.1")
    assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == 0
    link.send_unfragmented(Datagram(link.address, peer.address, b"whole"))
    assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == OMIT
    await until(lambda: bool(heard))
    assert heard[0].payload == b"whole" and errors == []


async def test_a_closed_socket_sends_nothing(opened) -> None:
    link, _, _, errors = opened("127.0.0.1")
    link.close()
    link.send_unfragmented(Datagram(link.address, Address("127.0.0.1", 9), b"data"))
    assert errors == []
