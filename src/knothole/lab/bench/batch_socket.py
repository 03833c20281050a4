"""UDP for load generators: many datagrams in one system call, from and to many hosts.

One socket speaks for many addresses of its host (IP_PKTINFO). ip(7), udp(7).
"""

from __future__ import annotations

import ctypes
import errno
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from knothole.io.mmsg import (
    HEADER_SIZE,
    IoVector,
    ManyHeader,
    MessageHeader,
    name_of,
    recvmmsg,
    sendmmsg,
)
from knothole.lab.netns.namespace import Namespace
from knothole.wire.address import Address

BATCH: Final = 64
_BUFFER: Final = 8 << 20
_SO_RCVBUFFORCE: Final = 33
_SO_SNDBUFFORCE: Final = 32
_IP_PKTINFO: Final = 8
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SOL_UDP: Final = 17
_LARGEST: Final = 65_536
_SINGLE: Final = 2048  # more than a packet of Ethernet has

_TRY_LATER: Final = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})


@dataclass(frozen=True, slots=True)
class Shot:
    """A datagram, or with a ``segment_size`` a burst, from one of our hosts to ``destination``."""

    source: str
    destination: Address
    payload: bytes
    segment_size: int = 0


class Round:
    """Datagrams made ready once and sent again and again, in turn."""

    def __init__(self, shots: Sequence[Shot]) -> None:
        """At least one; what is sent in a call are neighbours in this order."""
        self.length, self.position = len(shots), 0
        self._kept: dict[bytes, ctypes.Array[ctypes.c_char]] = {}
        ready = [self._header(shot) for shot in shots]
        # A batch more than one time round, so that no call is cut short at the end.
        order = [number % self.length for number in range(self.length + BATCH)]
        self.headers = (ManyHeader * len(order))(*(ManyHeader(ready[each]) for each in order))

    def _header(self, shot: Shot) -> MessageHeader:
        name = name_of(shot.destination)
        vector = IoVector(self._keep(shot.payload), len(shot.payload))
        control = _control(socket.IPPROTO_IP, _IP_PKTINFO, _packet_info(shot.source))
        if shot.segment_size:
            control += _control(_SOL_UDP, _UDP_SEGMENT, struct.pack("=H", shot.segment_size))
        return MessageHeader(
            self._keep(name),
            len(name),
            ctypes.pointer(vector),
            1,
            self._keep(control),
            len(control),
            0,
        )

    def _keep(self, data: bytes) -> int:
        """Where it lies from now on, once for all that have the same."""
        buffer = self._kept.get(data)
        if buffer is None:
            buffer = self._kept[data] = ctypes.create_string_buffer(data, len(data))
        return ctypes.addressof(buffer)


class BatchSocket:
    """A non-blocking UDP socket on all IPv4 addresses of ``namespace``."""

    def __init__(self, namespace: Namespace, port: int) -> None:
        with namespace.entered():
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        for option in (_SO_RCVBUFFORCE, _SO_SNDBUFFORCE):
            self.socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        self.socket.bind(("0.0.0.0", port))  # noqa: S104 - of a namespace of its own
        self._descriptor = self.socket.fileno()
        self._room = ctypes.create_string_buffer(BATCH * _LARGEST)
        self._vectors = [IoVector() for _ in range(BATCH)]
        memory = bytearray(BATCH * HEADER_SIZE)
        self._headers = (ManyHeader * BATCH).from_buffer(memory)
        for header, vector in zip(self._headers, self._vectors, strict=True):
            header.header = MessageHeader(vectors=ctypes.pointer(vector), vector_count=1)
        words = memoryview(memory).cast("I")
        self._lengths = words[ManyHeader.length.offset // 4 :: HEADER_SIZE // 4]
        self._lay_out(_LARGEST)

    def coalesce(self, wanted: bool) -> None:
        """Whether bursts may come as one (UDP_GRO)."""
        self.socket.setsockopt(_SOL_UDP, _UDP_GRO, wanted)
        self._lay_out(_LARGEST if wanted else _SINGLE)

    def send(self, shots: Round, count: int) -> int:
        """Send the next of them, at most ``count`` and what fits one call; how many were sent."""
        count = min(count, BATCH)
        first = ctypes.byref(shots.headers, shots.position * HEADER_SIZE)
        try:
            sent = sendmmsg(self._descriptor, first, count)
        except OSError as error:
            if error.errno in _TRY_LATER:
                return 0
            raise
        shots.position = (shots.position + sent) % shots.length
        return sent

    def receive(self) -> int:
        """How many bytes have come, in as many datagrams as one call takes; 0: nothing now."""
        try:
            came = recvmmsg(self._descriptor, self._headers, BATCH)
        except OSError:
            return 0
        return sum(self._lengths[:came])

    def payload(self, size: int) -> bytes:
        """The first ``size`` bytes of what the last call received first."""
        return self._room.raw[:size]

    def send_one(self, shot: Shot) -> None:
        control = (socket.IPPROTO_IP, _IP_PKTINFO, _packet_info(shot.source))
        self.socket.sendmsg((shot.payload,), (control,), 0, shot.destination)

    def receive_one(self) -> tuple[bytes, str] | None:
        """A datagram and which of our hosts it was for; after :meth:`tell_hosts`."""
        try:
            payload, control, _, _ = self.socket.recvmsg(2048, socket.CMSG_SPACE(12))
        except BlockingIOError:
            return None
        for level, kind, data in control:
            if (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
                return payload, socket.inet_ntoa(data[8:12])
        raise RuntimeError("the kernel does not say for which address a datagram was")

    def tell_hosts(self, wanted: bool) -> None:
        self.socket.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, wanted)

    def wait(self, seconds: float) -> bool:
        """Whether something comes within that time."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def discard(self) -> None:
        """Forget what has come."""
        while self.receive():
            pass

    def close(self) -> None:
        self.socket.close()

    def _lay_out(self, size: int) -> None:
        """Each datagram of a call has so much room, one beside the other: few cache lines."""
        first = ctypes.addressof(self._room)
        for number, vector in enumerate(self._vectors):
            vector.base, vector.length = first + number * size, size


def _packet_info(source: str) -> bytes:
    """struct in_pktinfo: any interface, this source."""
    return struct.pack("=i4s4x", 0, socket.inet_aton(source))


def _control(level: int, kind: int, data: bytes) -> bytes:
    """One control message with its padding, as CMSG_SPACE counts."""
    head = struct.pack("@Nii", socket.CMSG_LEN(len(data)), level, kind)
    return (head + data).ljust(socket.CMSG_SPACE(len(data)), b"\0")
