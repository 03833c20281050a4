"""What gateways announce to everybody: that they were restarted, or have another address."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Final

from knothole.wire.portmap.pcp import MAX_SIZE, SERVER_PORT

GROUP: Final = "224.0.0.1"  # RFC 6886 Section 3.2.1, RFC 6887 Section 14.1.1
PORT: Final = 5350  # ibid.
READS_A_TURN: Final = 16  # ours: announcements are rare, and anybody may send them


class Announcements:
    """Listens on every interface; ``heard`` gets the gateway's address and what it says.

    Only what has a gateway's own address and port is heard. Where the port cannot be shared, or
    the loop has no ``add_reader``, nothing is: a restart is then seen at the next renewal.
    """

    def __init__(self, heard: Callable[[str, bytes], None]) -> None:
        """Starts within a running event loop."""
        self._heard = heard
        self._loop = asyncio.get_running_loop()
        self._gateways: frozenset[str] = frozenset()
        self._sock: socket.socket | None = None
        try:
            self._sock = _listen()
            self._loop.add_reader(self._sock, self._readable)
        except (OSError, NotImplementedError):
            self.close()

    def set_gateways(self, gateways: Iterable[str], hosts: Iterable[str]) -> None:
        """Whom to believe, and by which of our IPv4 addresses they reach us."""
        self._gateways = frozenset(gateways)
        for host in hosts:
            if self._sock is not None and ":" not in host:
                membership = IPv4Address(GROUP).packed + IPv4Address(host).packed
                with contextlib.suppress(OSError):  # a member already, or the address is gone
                    self._sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)

    def close(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(NotImplementedError):
                self._loop.remove_reader(self._sock)
            self._sock.close()
            self._sock = None

    def _readable(self) -> None:
        for _ in range(READS_A_TURN):
            try:
                assert self._sock is not None
                payload, (host, port) = self._sock.recvfrom(MAX_SIZE + 1)
            except OSError:
                return
            if host in self._gateways and port == SERVER_PORT:
                self._heard(host, payload)


def _listen() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(("", PORT))
    except BaseException:
        sock.close()
        raise
    return sock
