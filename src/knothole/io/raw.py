"""Packets sent from a port that need not be ours, by raw sockets: for root, as hping does it."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from knothole.io.waiting import readable
from knothole.wire.address import Address
from knothole.wire.icmp import IcmpError, Quoted, decode_icmp
from knothole.wire.malformed import MalformedMessage
from knothole.wire.segment import (
    TCP,
    UDP,
    TcpFlag,
    TcpSegment,
    behind_ipv4,
    decode_tcp,
    decode_udp,
    encode_tcp,
    encode_udp,
)

_LARGEST: Final = 65536


class RawPort:
    """One local port and one remote address, joined by raw sockets: nothing is bound.

    Whatever program has the port keeps it and gets everything that comes in, as always; what
    comes from the remote address is seen here as well.
    """

    def __init__(self, port: int, remote: Address, protocol: int) -> None:
        """``protocol`` is UDP or TCP. Raises PermissionError without the right (CAP_NET_RAW)."""
        self.local = Address(_own_address(remote), port)
        self.remote = remote
        self._protocol = protocol
        family = socket.AF_INET6 if remote.is_ipv6 else socket.AF_INET
        icmp = socket.IPPROTO_ICMPV6 if remote.is_ipv6 else socket.IPPROTO_ICMP
        self._raw = socket.socket(family, socket.SOCK_RAW, protocol)
        try:
            self._icmp = socket.socket(family, socket.SOCK_RAW, icmp)
        except OSError:
            self._raw.close()
            raise
        self._raw.setblocking(False)
        self._icmp.setblocking(False)

    def __enter__(self) -> RawPort:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._raw.close()
        self._icmp.close()

    def set_hops(self, hops: int) -> None:
        """How many routers what is sent from now on may pass."""
        if self.remote.is_ipv6:
            self._raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        else:
            self._raw.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)

    def send_datagram(self, payload: bytes) -> None:
        """Send one UDP datagram. Raises OSError."""
        self._send(encode_udp(self.local, self.remote, payload))

    def send_segment(
        self, flags: TcpFlag, *, sequence: int | None = None, acknowledgment: int = 0
    ) -> None:
        """Send one TCP segment, with a sequence number at random if none is given."""
        number = secrets.randbits(32) if sequence is None else sequence
        self._send(
            encode_tcp(
                self.local, self.remote, flags, sequence=number, acknowledgment=acknowledgment
            )
        )

    def answers(self, seconds: float) -> Iterator[bytes | TcpSegment | IcmpError]:
        """What comes back within so many seconds: payloads, TCP segments and ICMP errors."""
        until = time.monotonic() + seconds
        both = [self._raw, self._icmp]
        while ready := readable(both, until):
            for each in ready:
                # BlockingIOError: select saw a packet of which the checksum is wrong (select(2)).
                with contextlib.suppress(MalformedMessage, BlockingIOError):
                    packet, (host, *_) = each.recvfrom(_LARGEST)
                    segment = packet if self.remote.is_ipv6 else behind_ipv4(packet)
                    take = self._error_in if each is self._icmp else self._answer_in
                    if (found := take(host.partition("%")[0], segment)) is not None:
                        yield found

    def _error_in(self, host: str, segment: bytes) -> IcmpError | None:
        error, quoted = decode_icmp(host, segment)
        ours = Quoted(self._protocol, self.local.port, self.remote.port)
        return error if quoted == ours else None

    def _answer_in(self, host: str, segment: bytes) -> bytes | TcpSegment | None:
        ports = (self.remote.port, self.local.port)
        if host != self.remote.host:
            return None
        if self._protocol == UDP:
            *seen, payload = decode_udp(segment)
            return payload if tuple(seen) == ports else None
        tcp = decode_tcp(segment)
        return tcp if (tcp.source_port, tcp.destination_port) == ports else None

    def _send(self, segment: bytes) -> None:
        # A raw socket of IPv6 takes a port for a protocol number: none is given.
        self._raw.sendto(segment, (self.remote.host, 0))


def raw_tcp(port: int, remote: Address) -> RawPort:
    """:class:`RawPort` for TCP."""
    return RawPort(port, remote, TCP)


def raw_udp(port: int, remote: Address) -> RawPort:
    """:class:`RawPort` for UDP."""
    return RawPort(port, remote, UDP)


def _own_address(remote: Address) -> str:
    """From which of our addresses packets to ``remote`` go out. Raises OSError: by none."""
    family = socket.AF_INET6 if remote.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as asked:
        asked.connect((remote.host, remote.port or 9))
        return str(asked.getsockname()[0])
