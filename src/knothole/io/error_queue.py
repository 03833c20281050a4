"""ICMP errors as Linux keeps them for a UDP socket: who said it, and what (ip(7), IP_RECVERR)."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, NamedTuple

from knothole.wire.address import Address, parse_address
from knothole.wire.icmp import IcmpError

_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_MSG_ERRQUEUE: Final = 0x2000
_EXTENDED_ERROR: Final = struct.Struct("=IBBBxII")  # struct sock_extended_err
_BY_ICMP: Final = (2, 3)  # SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6
# RFC 1191 Section 4 and RFC 4443 Section 3.2: fragmentation needed, packet too big.
_TOO_BIG: Final = {int(socket.AF_INET): (3, 4), int(socket.AF_INET6): (2, 0)}
_PORT_UNREACHABLE: Final = {socket.AF_INET: (3, 3), socket.AF_INET6: (1, 4)}


def keep_errors(udp: socket.socket) -> None:
    """From now on ``udp`` keeps ICMP errors with all they say, where the system can."""
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):
        if udp.family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            udp.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)


def next_error(udp: socket.socket) -> IcmpError | None:
    """The oldest ICMP error that ``udp`` has kept; None when there is none."""
    if sys.platform != "linux":
        return None
    try:
        _, extras, _, _ = udp.recvmsg(1, 512, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
    except OSError:
        return None
    for _, kind, data in extras:
        if kind not in (_IP_RECVERR, _IPV6_RECVERR) or len(data) < _EXTENDED_ERROR.size:
            continue
        _, origin, icmp_type, code, _, _ = _EXTENDED_ERROR.unpack_from(data)
        if origin in _BY_ICMP:
            return IcmpError(_offender(data[_EXTENDED_ERROR.size :]), icmp_type, code)
    return None


class PeerError(NamedTuple):
    """What was said of a datagram to ``destination``; ``data`` is the MTU if that is why."""

    destination: Address
    icmp_type: int
    code: int
    data: int


def peer_errors(udp: socket.socket, most: int) -> Iterator[PeerError]:
    """What ``udp`` has kept of datagrams to several destinations, at most so many of them.

    With what the system itself says of one that is larger than the path's MTU.
    """
    if sys.platform != "linux":
        return
    for _ in range(most):
        try:
            _, extras, _, address = udp.recvmsg(0, 512, _MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            return
        for _, kind, data in extras:
            if kind not in (_IP_RECVERR, _IPV6_RECVERR) or len(data) < _EXTENDED_ERROR.size:
                continue
            number, origin, icmp_type, code, mtu, _ = _EXTENDED_ERROR.unpack_from(data)
            destination = parse_address(address[0].partition("%")[0], address[1])
            if origin in _BY_ICMP:
                too_big = (icmp_type, code) in _TOO_BIG.values()
                yield PeerError(destination, icmp_type, code, mtu if too_big else 0)
            elif number == errno.EMSGSIZE:
                yield PeerError(destination, *_TOO_BIG[udp.family], mtu)


def refused_by(remote: str, family: int) -> IcmpError:
    """What ECONNREFUSED means on a UDP socket, where the system says no more."""
    return IcmpError(remote, *_PORT_UNREACHABLE[socket.AddressFamily(family)])


def _offender(sockaddr: bytes) -> str:
    """The host in a sockaddr_in or sockaddr_in6."""
    (family,) = struct.unpack_from("=H", sockaddr)
    packed = sockaddr[8:24] if family == socket.AF_INET6 else sockaddr[4:8]
    return str(ip_address(packed))
