"""Sending many datagrams of one socket to many addresses: in one call, where there is one."""

from __future__ import annotations

import ctypes
import socket
from array import array
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from knothole.io.arena import SLOTS, Arena
from knothole.io.mmsg import (
    HAS_MMSG,
    HEADER_SIZE,
    IoVector,
    ManyHeader,
    MessageHeader,
    name_of,
    pointer_to,
    sendmmsg,
)
from knothole.wire.address import Address

Refused: TypeAlias = Callable[[Address, bytes], object]
"""Gets what the kernel did not take when it was to leave, in its order."""


class Destination:
    """An address as an outbox wants it, made once and used often."""

    __slots__ = ("address", "name", "pointer")

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = bytearray(name_of(address))
        self.pointer = pointer_to(self.name)


class Outbox(Protocol):
    """Takes datagrams that lie in an arena, which must stay there until they leave."""

    def post(self, start: int, size: int, destination: Destination) -> None:
        """So many bytes of the arena from ``start`` are to be sent."""

    def leave(self) -> None:
        """Send all that was posted, in its order."""


def make_outbox(
    sock: socket.socket, arena: Arena, refused: Refused, enabled: bool = True
) -> Outbox:
    """The best there is for ``sock``; a call for each datagram when not ``enabled``."""
    if enabled and HAS_MMSG:
        return BatchOutbox(sock, arena, refused)
    return SingleOutbox(sock, arena, refused)


class SingleOutbox:
    """A call for each datagram, as soon as it is posted."""

    def __init__(self, sock: socket.socket, arena: Arena, refused: Refused) -> None:
        self._sock, self._view, self._refused = sock, arena.view, refused

    def post(self, start: int, size: int, destination: Destination) -> None:
        payload = self._view[start : start + size]
        try:
            self._sock.sendto(payload, destination.address)
        except OSError:
            self._refused(destination.address, bytes(payload))

    def leave(self) -> None:
        """All have left."""


_NAME: Final = (ManyHeader.header.offset + MessageHeader.name.offset) // 8
_WORDS: Final = HEADER_SIZE // 8


class BatchOutbox:
    """sendmmsg: one call for all."""

    def __init__(self, sock: socket.socket, arena: Arena, refused: Refused) -> None:
        self._sock = sock
        self._view, self._refused = arena.view, refused
        self._arena = pointer_to(arena.bytes)
        size = 28 if sock.family == socket.AF_INET6 else 16
        vectors = (IoVector * SLOTS)()
        self._headers = (ManyHeader * SLOTS)(
            *(ManyHeader(MessageHeader(None, size, ctypes.pointer(each), 1)) for each in vectors)
        )
        # Three columns of the kernel's structures, each written at once.
        self._names = memoryview(self._headers).cast("B").cast("Q")[_NAME::_WORDS]
        self._bases = memoryview(vectors).cast("B").cast("Q")[::2]
        self._lengths = memoryview(vectors).cast("B").cast("Q")[1::2]
        self._posted: list[Destination] = []
        self._starts: list[int] = []
        self._sizes: list[int] = []

    def post(self, start: int, size: int, destination: Destination) -> None:
        if len(self._posted) == SLOTS:
            self.leave()
        self._posted.append(destination)
        self._starts.append(start)
        self._sizes.append(size)

    def leave(self) -> None:
        posted, starts, sizes = self._posted, self._starts, self._sizes
        count = len(posted)
        if not count:
            return
        self._names[:count] = array("Q", [each.pointer for each in posted])
        self._bases[:count] = array("Q", [self._arena + start for start in starts])
        self._lengths[:count] = array("Q", sizes)
        try:
            went = sendmmsg(self._sock.fileno(), self._headers, count)
        except OSError:
            went = 0
        for number in range(went, count):
            start = starts[number]
            payload = bytes(self._view[start : start + sizes[number]])
            self._refused(posted[number].address, payload)
        posted.clear()
        starts.clear()
        sizes.clear()
