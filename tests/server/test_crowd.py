"""Many sockets with one place in the event loop: each is read from when something has come."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest

from knothole.server.crowd import A_TURN, Crowd

from .conftest import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no epoll")

MANY = 5 * A_TURN


class Pair:
    """Two sockets: what is sent to the one makes the other readable, until it is read."""

    def __init__(self, crowd: Crowd) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.crowd = crowd
        self.received: list[bytes] = []
        crowd.add(self.near.fileno(), self.read)

    def read(self) -> None:
        self.received.append(self.near.recv(100))

    def remove(self) -> None:
        self.crowd.remove(self.near.fileno())

    def close(self) -> None:
        self.remove()
        self.near.close()
        self.far.close()


@pytest.fixture
async def crowd() -> Iterator[Crowd]:
    made = Crowd.make()
    assert made is not None
    yield made
    made.close()


async def test_each_is_read_from_until_it_is_empty_however_many_there_are(crowd: Crowd) -> None:
    pairs = [Pair(crowd) for _ in range(MANY)]
    for number, pair in enumerate(pairs):
        pair.far.send(b"%d" % number)
        pair.far.send(b"more")
    await until(lambda: all(len(pair.received) == 2 for pair in pairs))
    assert [pair.received for pair in pairs] == [[b"%d" % n, b"more"] for n in range(MANY)]
    for pair in pairs:
        pair.close()


async def test_one_that_another_has_removed_meanwhile_is_not_read_from(crowd: Crowd) -> None:
    pairs = [Pair(crowd) for _ in range(4)]
    calls = []

    def alone() -> None:
        calls.append(1)
        for pair in pairs:
            pair.remove()

    for pair in pairs:
        pair.remove()
        crowd.add(pair.near.fileno(), alone)
        pair.far.send(b"something")
    last = Pair(crowd)
    await until(lambda: bool(calls))
    last.far.send(b"after all of them")
    await until(lambda: bool(last.received))
    assert calls == [1]
    for pair in (*pairs, last):
        pair.close()


async def test_after_its_end_nothing_is_read_and_nothing_breaks(crowd: Crowd) -> None:
    pair = Pair(crowd)
    crowd.close()
    pair.close()
    crowd.close()
