"""Very many sockets that are read from in turn, with one place in the event loop for all of them.

An event loop takes about as long to call one reader as a datagram takes to be relayed. Here one
call of the loop, and one of the kernel, finds all sockets of which something has come.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

Member = TypeVar("Member")
Member_contra = TypeVar("Member_contra", contravariant=True)
Turn: TypeAlias = Callable[[Sequence[Member]], object]
"""Called with those of which something has come, for as long as it is there to be read."""

A_TURN: Final = 64  # ours: sockets read from before others get their turn


class Crowd(Protocol[Member_contra]):
    """Members that have a descriptor."""

    def add(self, descriptor: int, member: Member_contra) -> None:
        """``member`` gets turns from now on. Raises OSError when the system waits for no more."""

    def remove(self, descriptor: int) -> None:
        """No more after the turn that goes on. Before the descriptor is closed."""

    def close(self) -> None: ...


def make_crowd(turn: Turn[Member]) -> Crowd[Member]:
    """The best that the system has, within a running event loop."""
    return EpollCrowd(turn) if sys.platform == "linux" else LoopCrowd(turn)


class LoopCrowd(Generic[Member]):
    """Each with a place of its own in the event loop, and a turn of its own."""

    def __init__(self, turn: Turn[Member]) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn

    def add(self, descriptor: int, member: Member) -> None:
        self._loop.add_reader(descriptor, self._turn, (member,))

    def remove(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)

    def close(self) -> None:
        """Those that are left are removed one by one."""


class EpollCrowd(Generic[Member]):
    """An epoll of its own. Linux."""

    def __init__(self, turn: Turn[Member]) -> None:
        self._loop = asyncio.get_running_loop()
        self._turn = turn
        self._epoll = select.epoll()
        self._members: dict[int, Member] = {}
        self._loop.add_reader(self._epoll.fileno(), self._readable)

    def add(self, descriptor: int, member: Member) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)
        self._members[descriptor] = member

    def remove(self, descriptor: int) -> None:
        if self._members.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _readable(self) -> None:
        members = self._members
        self._turn([members[descriptor] for descriptor, _ in self._epoll.poll(0, A_TURN)])
