"""Very many sockets that are read from in turn, with one place in the event loop for all of them.

An event loop takes about as long to call one reader as a datagram takes to be relayed. Here one
call of the loop, and one of the kernel, finds all sockets of which something has come.
"""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable
from typing import Final

A_TURN: Final = 16  # ours: sockets read from before others get their turn


class Crowd:
    """An epoll of its own, within a running event loop. Linux."""

    def __init__(self) -> None:
        """Not called directly: :meth:`make` looks whether there is such a thing."""
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._readers: dict[int, Callable[[], object]] = {}
        self._loop.add_reader(self._epoll.fileno(), self._readable)

    @classmethod
    def make(cls) -> Crowd | None:
        """None where the system has no epoll."""
        return cls() if sys.platform == "linux" else None

    def add(self, descriptor: int, reader: Callable[[], object]) -> None:
        """Have ``reader`` called when ``descriptor`` has something, for as long as it has."""
        self._readers[descriptor] = reader
        self._epoll.register(descriptor, select.EPOLLIN)

    def remove(self, descriptor: int) -> None:
        """Before it is closed."""
        if self._readers.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    def close(self) -> None:
        if not self._epoll.closed:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _readable(self) -> None:
        for descriptor, _ in self._epoll.poll(0, A_TURN):
            reader = self._readers.get(descriptor)
            if reader is not None:  # what another one brought may have closed it
                reader()
