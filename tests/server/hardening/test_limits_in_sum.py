"""Hardened, point 3: the limits of an allocation hold for all its channels together.

By the kernel's interfaces: tests/netns/test_accelerator.py. In virtual time: tests/engine/turn.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest

from knothole.lab.fuzz.patient import Patient
from knothole.wire.address import Address
from knothole.wire.stun import ChannelNumber, Method, XorPeerAddress
from knothole.wire.turn import encode_channel_data

from .conftest import running

CHANNELS = 128
DATAGRAMS, MEGABITS = 400, 1
ATTACK_SECONDS = 2.5
CONFIG = f"""[relay]
max-datagrams = {DATAGRAMS}
max-megabits = {MEGABITS}
allow-peers = ["127.0.0.2"]
"""
ALSO_ACCELERATED = True


@pytest.fixture(scope="module")
def patient(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patient]:
    """Limits that are met within a second, and peers beside the server."""
    with running(tmp_path_factory.mktemp("patient"), request.param, CONFIG) as started:
        yield started


class Peers:
    """A hundred and twenty-eight of them, on a host of their own; they count what comes."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(CHANNELS):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("127.0.0.2", 0))
            sock.setblocking(False)
            self._sockets[sock.fileno()] = sock
            self._epoll.register(sock, select.EPOLLIN)
        self.addresses = [Address(*each.getsockname()) for each in self._sockets.values()]
        self.datagrams = self.octets = 0
        self.reached: set[int] = set()

    def look(self, seconds: float = 0.0) -> bool:
        """Count what has come; whether anything had."""
        found = self._epoll.poll(seconds)
        for descriptor, _ in found:
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.octets += len(self._sockets[descriptor].recv(65_536))
                    self.datagrams += 1
                    self.reached.add(descriptor)
        return bool(found)

    def close(self) -> None:
        self._epoll.close()
        for sock in self._sockets.values():
            sock.close()


@pytest.fixture
def peers() -> Iterator[Peers]:
    made = Peers()
    yield made
    made.close()


def bind_all(attacker, addresses: list[Address]) -> None:
    for number, peer in enumerate(addresses):
        channel = ChannelNumber(0x4000 + number), XorPeerAddress(peer)
        assert attacker.code(Method.CHANNEL_BIND, *channel) == 0


def flood(attacker, peers: Peers, seconds: float, size: int, channels: int = CHANNELS) -> None:
    """By so many channels in turn, as fast as it goes; and twice what a second lets pass, if that
    takes a slow machine longer."""
    messages = [
        encode_channel_data(0x4000 + number, bytes(size), False) for number in range(channels)
    ]
    sent, ends_at = 0, time.monotonic() + seconds
    while time.monotonic() < ends_at or sent < 2 * DATAGRAMS:
        for message in messages:
            attacker.socket.send(message)
        sent += channels
        peers.look()


@pytest.mark.parametrize("size", [10, 1000])
def test_a_hundred_channels_carry_no_more_than_one_would(user, peers, size: int) -> None:
    """Small datagrams meet the limit of datagrams, large ones that of octets."""
    with user("alice") as attacker:
        attacker.allocate()
        bind_all(attacker, peers.addresses)
        begun = time.monotonic()
        flood(attacker, peers, ATTACK_SECONDS, size)
        while peers.look(1.0):
            pass
        seconds = time.monotonic() - begun
    assert len(peers.reached) == CHANNELS
    # A second's worth at once, and then what time brings.
    assert peers.datagrams <= DATAGRAMS * (1 + seconds)
    burst = max(131_072, MEGABITS * 125_000)
    assert peers.octets <= burst + MEGABITS * 125_000 * seconds
    assert peers.datagrams >= DATAGRAMS if size == 10 else peers.octets >= burst - size


def test_an_allocation_that_is_made_anew_again_and_again_carries_no_more(user, peers) -> None:
    """With the same name, and then with others from the same host."""
    begun = time.monotonic()
    for name in ("alice", "alice", "bob", "carol") * 2:
        with user(name) as attacker:
            attacker.allocate()
            bind_all(attacker, peers.addresses[:8])
            flood(attacker, peers, 0.2, 10, channels=8)
    while peers.look(1.0):
        pass
    assert DATAGRAMS <= peers.datagrams <= DATAGRAMS * (1 + time.monotonic() - begun)
