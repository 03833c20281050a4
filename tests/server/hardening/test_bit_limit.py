"""Hardened, point 3: how many bits one allocation may carry in a second, by datagrams and by TCP.

What comes is compared with what may have come by then: a slow machine only makes it less.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from knothole.lab.fuzz.patient import Patient
from knothole.wire.address import Address
from knothole.wire.stun import ChannelNumber, ConnectionId, Method, XorPeerAddress

from .attacker import PATIENCE
from .conftest import running

ALSO_ACCELERATED = True
PEER = "127.0.0.2"
CONFIG = f"[relay]\nmax-megabits = 1\nmax-datagrams = 0\nallow-peers = ['{PEER}/32']\n"
A_SECOND = 125_000  # octets
AT_ONCE = 131_072  # what may come at once
WAITS = 262_144  # what a connection may hold in the server, or have read in one piece
FLOOD = 1_000_000


@pytest.fixture(scope="module")
def patient(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Patient]:
    with running(tmp_path_factory.mktemp("bits"), request.param, CONFIG) as started:
        yield started


@pytest.mark.parametrize(("by", "host"), [("channel", "127.0.0.3"), ("indication", "127.0.0.4")])
def test_a_flood_of_datagrams_ends_at_the_limit(user, by, host) -> None:
    # Who has sent much before, by name or by host, has nothing left or a debt.
    with (
        user(f"alice@{host}", source=host) as alice,
        user(f"bob@{host}", seed=2, source=host) as bob,
    ):
        to_alice, to_bob = XorPeerAddress(alice.allocate()), XorPeerAddress(bob.allocate())
        begun = time.monotonic()
        for one, peer in ((alice, to_bob), (bob, to_alice)):
            assert one.code(Method.CHANNEL_BIND, ChannelNumber(0x4000), peer) == 0
        heard: list[bytes] = []
        for _ in range(FLOOD // 10_000):
            for _ in range(10):
                if by == "channel":
                    alice.send_channel(0x4000, bytes(1000))
                else:
                    alice.indicate(to_bob.address, bytes(1000))
            heard += bob.heard(0.001)
        heard += bob.heard(0.5)
        octets = sum(len(each) - 4 for each in heard)
        assert 0 < octets <= AT_ONCE + A_SECOND * (time.monotonic() - begun)


def test_what_goes_by_tcp_is_slowed_down_and_all_of_it_comes(stream_user) -> None:
    with (
        socket.create_server((PEER, 0)) as listening,
        stream_user("alice") as control,
        stream_user("alice", seed=2) as data,
    ):
        control.allocate()
        begun = time.monotonic()
        wanted = XorPeerAddress(Address(*listening.getsockname()))
        number = control.ask(Method.CONNECT, wanted).get(ConnectionId)
        assert number is not None
        far_end = listening.accept()[0]
        with far_end:
            assert data.code(Method.CONNECTION_BIND, number) == 0
            far_end.settimeout(PATIENCE)
            data.socket.settimeout(PATIENCE)
            flood = threading.Thread(target=data.socket.sendall, args=(bytes(FLOOD),))
            flood.start()
            octets = 0
            while octets < FLOOD:
                came = far_end.recv(65_536)
                assert came, "it was cut off"
                octets += len(came)
                may = AT_ONCE + WAITS + A_SECOND * (time.monotonic() - begun)
                assert octets <= may
            flood.join()
