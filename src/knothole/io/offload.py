"""Segmentation offload of UDP sockets: many datagrams in one system call.

On Linux a burst of equal datagrams goes to the kernel as one buffer with its segment size
(UDP_SEGMENT, since 4.18), and comes back the same way (UDP_GRO, since 5.0). Elsewhere, and where a
network device refuses, each datagram is a call of its own. udp(7) has the control messages.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final, Protocol

# <linux/udp.h>; the socket module does not name them.
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SOL_UDP: Final = 17
_SEGMENT_SIZE: Final = struct.Struct("=H")
_GRO_SIZE: Final = struct.Struct("=i")
CONTROL_SPACE: Final = 64  # one control message of an int, with room
SEGMENT_CONTROL: Final = (_SOL_UDP, _UDP_SEGMENT)
"""Level and type of the control message that goes with a burst; its data is :func:`packed_size`."""
_LARGEST_DATAGRAM: Final = 65_535  # bytes; the length field of a UDP header


class Offload(Protocol):
    """How bursts pass through one socket."""

    can_segment: bool
    """Whether :meth:`send_burst` may be called; falls to False when the kernel refuses once."""

    def send_burst(
        self, sock: socket.socket, payload: bytes, segment_size: int, destination: tuple[str, int]
    ) -> None:
        """Send ``payload`` as datagrams of ``segment_size`` bytes. Raises OSError like sendmsg."""

    def receive(self, sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
        """The next payload, its segment size (0: a single datagram) and its source address.

        Raises OSError like recvmsg.
        """


def make_offload(sock: socket.socket, enabled: bool = True) -> Offload:
    """The best that ``sock`` can do; plain system calls when not ``enabled``."""
    if enabled and sys.platform == "linux":
        return LinuxOffload(sock)
    return NoOffload()


class NoOffload:
    """One datagram a call, everywhere."""

    can_segment = False

    def __init__(self) -> None:
        self._buffer: memoryview | None = None  # a server has tens of thousands of idle sockets

    def send_burst(
        self, sock: socket.socket, payload: bytes, segment_size: int, destination: tuple[str, int]
    ) -> None:
        raise NotImplementedError("this socket sends one datagram a call")

    def receive(self, sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
        # Into a buffer that stays: allocating the largest size each time takes as long as the call.
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = memoryview(bytearray(_LARGEST_DATAGRAM))
        length, source = sock.recvfrom_into(buffer)
        return bytes(buffer[:length]), 0, source


class LinuxOffload(NoOffload):
    """UDP_SEGMENT and UDP_GRO, each used only where the kernel has it."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self.can_segment = _has_option(sock, _UDP_SEGMENT)
        try:
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
            self._coalesces = True
        except OSError:
            self._coalesces = False

    def send_burst(
        self, sock: socket.socket, payload: bytes, segment_size: int, destination: tuple[str, int]
    ) -> None:
        control = (*SEGMENT_CONTROL, packed_size(segment_size))
        sock.sendmsg((payload,), (control,), 0, destination)

    def receive(self, sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
        if not self._coalesces:
            return super().receive(sock)
        payload, control, _, source = sock.recvmsg(_LARGEST_DATAGRAM, CONTROL_SPACE)
        return payload, segment_size_in(control, len(payload)), source


def packed_size(segment_size: int) -> bytes:
    """The data of the control message that goes with a burst."""
    return _SEGMENT_SIZE.pack(segment_size)


def segment_size_in(control: Sequence[tuple[int, int, bytes]], length: int) -> int:
    """The segment size of a payload of so many bytes that came with ``control``; 0: it is one."""
    for level, kind, data in control:
        if level == _SOL_UDP and kind == _UDP_GRO:
            segment_size = int(_GRO_SIZE.unpack(data)[0])
            return segment_size if segment_size < length else 0
    return 0


def _has_option(sock: socket.socket, option: int) -> bool:
    try:
        sock.getsockopt(_SOL_UDP, option)
    except OSError:
        return False
    return True
