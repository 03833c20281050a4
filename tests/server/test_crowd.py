"""Many sockets that are read from in turn: each gets its turn when something has come."""

from __future__ import annotations

import socket
import sys
import weakref
from collections.abc import Iterator, Sequence

import pytest

from knothole.server.crowd import A_TURN, Crowd, EpollCrowd, LoopCrowd, make_crowd

from .conftest import until

MANY = 5 * A_TURN
ON_LINUX = sys.platform == "linux"


class Pair:
    """Two sockets: what is sent to the one makes the other readable, until it is read."""

    def __init__(self, crowd: Crowd[Pair]) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.near.setblocking(False)
        self.crowd = crowd
        self.received: list[bytes] = []
        crowd.add(self.near.fileno(), self)

    def read(self) -> None:
        self.received.append(self.near.recv(100))

    def remove(self) -> None:
        self.crowd.remove(self.near.fileno())

    def close(self) -> None:
        self.remove()
        self.near.close()
        self.far.close()


def read_once(ready: Sequence[Pair]) -> None:
    assert 0 < len(ready) <= A_TURN
    for pair in ready:
        pair.read()


KINDS = [
    LoopCrowd,
    pytest.param(EpollCrowd, marks=pytest.mark.skipif(not ON_LINUX, reason="epoll")),
]


@pytest.fixture(params=KINDS)
async def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd[Pair]]:
    made: Crowd[Pair] = request.param(read_once)
    yield made
    made.close()


async def test_on_linux_there_is_one_place_in_the_loop_for_all() -> None:
    made: Crowd[Pair] = make_crowd(read_once)
    assert isinstance(made, EpollCrowd if ON_LINUX else LoopCrowd)
    made.close()


async def test_each_is_read_from_until_it_is_empty_however_many_there_are(
    crowd: Crowd[Pair],
) -> None:
    pairs = [Pair(crowd) for _ in range(MANY)]
    for number, pair in enumerate(pairs):
        pair.far.send(b"%d" % number)
        pair.far.send(b"more")
    await until(lambda: all(len(pair.received) == 2 for pair in pairs))
    assert [pair.received for pair in pairs] == [[b"%d" % n, b"more"] for n in range(MANY)]
    for pair in pairs:
        pair.close()


@pytest.mark.skipif(not ON_LINUX, reason="epoll is of Linux")
async def test_one_that_the_system_does_not_wait_for_is_not_kept(tmp_path) -> None:
    class Member:
        """Somebody who can be watched."""

    crowd, member = EpollCrowd(lambda ready: None), Member()
    kept = weakref.ref(member)
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        crowd.add(file.fileno(), member)
    del member
    assert kept() is None
    crowd.close()


async def test_one_that_was_removed_gets_no_turn(crowd: Crowd[Pair]) -> None:
    removed, other = Pair(crowd), Pair(crowd)
    removed.far.send(b"something")
    removed.remove()
    other.far.send(b"something else")
    await until(lambda: bool(other.received))
    assert removed.received == []
    for pair in (removed, other):
        pair.close()


async def test_after_its_end_nothing_is_read_and_nothing_breaks(crowd: Crowd[Pair]) -> None:
    pair = Pair(crowd)
    pair.close()
    crowd.close()
    crowd.close()
