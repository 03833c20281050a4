"""UDP sockets as they are bound: non-blocking, and with large buffers."""

from __future__ import annotations

import socket
import sys
from typing import Final

from knothole.wire.address import Address

# Ours: one QUIC flow control window comes in one burst. As the kernel counts, with its overhead.
KERNEL_BUFFER_BYTES: Final = 8 * 1024 * 1024

_SMALLEST_BUFFER_ASKED: Final = 256 * 1024
# <asm-generic/socket.h>: as SO_SNDBUF and SO_RCVBUF, beyond the system's limit, for the superuser.
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33


def bind_socket(address: Address, *, shared: bool = False, large: bool = True) -> socket.socket:
    """A non-blocking UDP socket, bound; an IPv6 one takes no IPv4.

    A ``shared`` one is bound where :func:`bind_shared` has begun. One that is not ``large`` has the
    system's usual buffers until :func:`enlarge`.
    """
    family = socket.AF_INET6 if address.is_ipv6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        if address.is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if large:
            enlarge(sock)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(tuple(address))
    except BaseException:
        sock.close()
        raise
    return sock


def bind_shared(address: Address, count: int) -> list[socket.socket]:
    """So many sockets with one address: the kernel keeps each flow at one of them (SO_REUSEPORT).

    They share it with each other and not with another program, unless that is of the same user and
    means to: the first is bound alone. Linux. Raises OSError.
    """
    sockets = [bind_socket(address)]
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        while len(sockets) < count:
            sockets.append(bind_socket(address, shared=True))
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def enlarge(sock: socket.socket) -> None:
    """Give ``sock`` large buffers."""
    _enlarge(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE)
    _enlarge(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE)


def _enlarge(sock: socket.socket, option: int, force: int) -> None:
    """Give ``sock`` as large a buffer as the system lets us."""
    if sys.platform == "linux":
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, KERNEL_BUFFER_BYTES)
            return
        except PermissionError:
            pass
    size = KERNEL_BUFFER_BYTES
    while size >= _SMALLEST_BUFFER_ASKED:  # BSD refuses what is too large instead of clamping
        try:
            sock.setsockopt(socket.SOL_SOCKET, option, size)
            return
        except OSError:
            size //= 2
