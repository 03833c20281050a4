"""Sending many datagrams of one socket to many addresses: in one call, where there is one."""

from __future__ import annotations

import ctypes
import socket
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
        self._start = pointer_to(arena.bytes)
        size = 28 if sock.family == socket.AF_INET6 else 16
        vectors = (IoVector * SLOTS)()
        self._headers = (ManyHeader * SLOTS)(
            *(ManyHeader(MessageHeader(None, size, ctypes.pointer(each), 1)) for each in vectors)
        )
        # Per datagram no more than three numbers are written into the kernel's structures.
        self._header_words = memoryview(self._headers).cast("B").cast("Q")
        self._vector_words = memoryview(vectors).cast("B").cast("Q")
        self._posted: list[Destination] = []

    def post(self, start: int, size: int, destination: Destination) -> None:
        number = len(self._posted)
        if number == SLOTS:
            self.leave()
            number = 0
        self._posted.append(destination)
        self._header_words[number * _WORDS + _NAME] = destination.pointer
        self._vector_words[number * 2] = self._start + start
        self._vector_words[number * 2 + 1] = size

    def leave(self) -> None:
        posted = self._posted
        if not posted:
            return
        try:
            went = sendmmsg(self._sock.fileno(), self._headers, len(posted))
        except OSError:
            went = 0
        if went < len(posted):
            for number in range(went, len(posted)):
                start, size = self._vector_words[number * 2 : number * 2 + 2]
                start -= self._start
                self._refused(posted[number].address, bytes(self._view[start : start + size]))
        posted.clear()
