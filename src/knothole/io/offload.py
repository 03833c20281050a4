"""Segmentation offload of UDP sockets: many datagrams in one system call.

On Linux a burst of equal datagrams goes to the kernel as one buffer with its segment size
(UDP_SEGMENT, since 4.18), and comes back the same way (UDP_GRO, since 5.0). Elsewhere, and where a
network device refuses, each datagram is a call of its own. udp(7) has the control messages.
"""

from __future__ import annotations

import contextlib
import functools
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
_GRO_MESSAGE: Final = struct.Struct("@Niii")  # struct cmsghdr, and an int
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

    def coalesce(self, sock: socket.socket) -> bool:
        """Have bursts come as one from now on; whether they may. There is no way back: those that
        are on their way would come with nothing that says so."""

    def receive(self, sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
        """The next payload, its segment size (0: a single datagram) and its source address.

        Raises OSError like recvmsg.
        """


def make_offload(sock: socket.socket, enabled: bool = True, *, coalesce: bool = True) -> Offload:
    """The best that ``sock`` can do; plain system calls when not ``enabled``.

    Without ``coalesce``, not before :meth:`Offload.coalesce` may bursts come as one.
    """
    if enabled and sys.platform == "linux":
        return LinuxOffload(sock, coalesce)
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

    def coalesce(self, sock: socket.socket) -> bool:
        return False

    def receive(self, sock: socket.socket) -> tuple[bytes, int, tuple[str, int]]:
        # Into a buffer that stays: allocating the largest size each time takes as long as the call.
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = memoryview(bytearray(_LARGEST_DATAGRAM))
        length, source = sock.recvfrom_into(buffer)
        return bytes(buffer[:length]), 0, source


class LinuxOffload(NoOffload):
    """UDP_SEGMENT and UDP_GRO, each used only where the kernel has it."""

    def __init__(self, sock: socket.socket, coalesce: bool) -> None:
        super().__init__()
        self.can_segment = _kernel_has(_UDP_SEGMENT)
        self._coalesces = False
        if coalesce:
            self.coalesce(sock)

    def coalesce(self, sock: socket.socket) -> bool:
        if not self._coalesces:
            with contextlib.suppress(OSError):
                sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
                self._coalesces = True
        return self._coalesces

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
            return _segment_size(_GRO_SIZE.unpack(data)[0], length)
    return 0


def segment_size_of(control: bytes | bytearray, length: int) -> int:
    """The same with ``control`` as the kernel writes it: one message, or none."""
    if len(control) >= _GRO_MESSAGE.size:
        _, level, kind, size = _GRO_MESSAGE.unpack_from(control)
        if level == _SOL_UDP and kind == _UDP_GRO:
            return _segment_size(size, length)
    return 0


def _segment_size(told: int, length: int) -> int:
    return told if told < length else 0


@functools.cache
def _kernel_has(option: int) -> bool:
    """Whether a UDP socket knows ``option``; a server opens tens of thousands, and asks once."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.getsockopt(_SOL_UDP, option)
        except OSError:
            return False
        return True
