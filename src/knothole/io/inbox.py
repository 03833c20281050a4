"""Reading what has come of one socket into an arena: all of it in one call, where there is one."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias

from knothole.io.arena import LARGEST_DATAGRAM, SLOTS, Arena
from knothole.io.gather import Source
from knothole.io.mmsg import (
    HAS_MMSG,
    HEADER_SIZE,
    NAME_SIZE,
    IoVector,
    ManyHeader,
    MessageHeader,
    address_of,
    name_of,
    pointer_to,
    recvmmsg,
)
from knothole.io.offload import CONTROL_SPACE, segment_size_in, segment_size_of
from knothole.wire.address import Address, parse_address

Arrivals: TypeAlias = tuple[Sequence[int], Sequence[int], Sequence[Source]]
"""Of each datagram: its bytes, its segment size (0: it is a single one), its source, in the way of
the inbox. A tuple for each would have the garbage collector look at all of them."""


class Inbox(Protocol):
    """What comes of a socket goes into the slots of an arena, from the first one on."""

    def receive(self) -> Arrivals:
        """What is there, in order of the slots, and at most as many. Raises OSError like recvmsg,
        BlockingIOError where there is nothing."""

    def source(self, address: Address) -> Source:
        """What a datagram from ``address`` has as its source; it can be hashed and compared."""

    def address(self, source: Source) -> Address:
        """The address again."""


def make_inbox(sock: socket.socket, arena: Arena, enabled: bool = True) -> Inbox:
    """The best there is for ``sock``; a call for each datagram when not ``enabled``."""
    if enabled and HAS_MMSG:
        return BatchInbox(sock, arena)
    return SingleInbox(sock, arena)


class SingleInbox:
    """A call for each datagram, wherever there is recvmsg_into."""

    def __init__(self, sock: socket.socket, arena: Arena) -> None:
        self._sock, self._arena = sock, arena

    def receive(self) -> Arrivals:
        arrivals: tuple[list[int], list[int], list[Source]] = ([], [], [])
        sizes, segment_sizes, sources = arrivals
        for slot in self._arena.slots:
            try:
                size, segment_size, source = self._receive(slot)
            except OSError:
                if sizes:
                    break
                raise
            sizes.append(size)
            segment_sizes.append(segment_size)
            sources.append(source)
        return arrivals

    def _receive(self, slot: memoryview) -> tuple[int, int, Source]:
        if not hasattr(self._sock, "recvmsg_into"):  # Windows has neither it nor bursts
            size, source = self._sock.recvfrom_into(slot)
            return size, 0, source
        size, control, _, source = self._sock.recvmsg_into((slot,), CONTROL_SPACE)
        return size, segment_size_in(control, size), source

    def source(self, address: Address) -> Source:
        return (*address, 0, 0) if address.is_ipv6 else tuple(address)

    def address(self, source: Source) -> Address:
        assert isinstance(source, tuple)
        return parse_address(*source[:2])


_NAME_SPACE: Final = 32
_WORDS: Final = HEADER_SIZE // 8  # of a header, as a native machine word
_HALVES: Final = HEADER_SIZE // 4
# Where in a header the kernel writes, counted in words or halves of them.
_CONTROL_LENGTH: Final = ManyHeader.header.offset + MessageHeader.control_length.offset
_LENGTH: Final = ManyHeader.length.offset


class BatchInbox:
    """recvmmsg: one call for all."""

    def __init__(self, sock: socket.socket, arena: Arena) -> None:
        self._sock = sock
        self._names = bytearray(SLOTS * _NAME_SPACE)
        self._controls = bytearray(SLOTS * CONTROL_SPACE)
        names, controls = (pointer_to(each) for each in (self._names, self._controls))
        start = pointer_to(arena.bytes)
        self._vectors = (IoVector * SLOTS)(
            *(IoVector(start + at, LARGEST_DATAGRAM) for at in arena.starts)
        )
        self._headers = (ManyHeader * SLOTS)(
            *(
                ManyHeader(
                    MessageHeader(
                        names + number * _NAME_SPACE,
                        NAME_SIZE,
                        ctypes.pointer(self._vectors[number]),
                        1,
                        controls + number * CONTROL_SPACE,
                        CONTROL_SPACE,
                    )
                )
                for number in range(SLOTS)
            )
        )
        self._written = memoryview(self._headers).cast("B")
        self._lengths = self._written.cast("I")[_LENGTH // 4 :: _HALVES]
        self._control_lengths = self._written.cast("Q")[_CONTROL_LENGTH // 8 :: _WORDS]
        self._as_made = bytes(self._written)
        name_size = NAME_SIZE if sock.family == socket.AF_INET6 else 16
        self._name = f"{name_size}s{_NAME_SPACE - name_size}x"
        self._splitters: dict[int, struct.Struct] = {}

    def receive(self) -> Arrivals:
        count = recvmmsg(self._sock.fileno(), self._headers, SLOTS)
        sizes = self._lengths[:count].tolist()
        controls = self._control_lengths[:count].tolist()
        used = count * HEADER_SIZE
        self._written[:used] = self._as_made[:used]
        splitter = self._splitters.get(count)
        if splitter is None:
            splitter = self._splitters[count] = struct.Struct(self._name * count)
        if any(controls):
            controls = [
                self._segment_size(*each)
                for each in zip(range(count), sizes, controls, strict=True)
            ]
        return sizes, controls, splitter.unpack_from(self._names)

    def source(self, address: Address) -> Source:
        return name_of(address)

    def address(self, source: Source) -> Address:
        assert isinstance(source, bytes)
        return address_of(source)

    def _segment_size(self, number: int, size: int, length: int) -> int:
        at = number * CONTROL_SPACE
        return segment_size_of(self._controls[at : at + length], size)
