"""Questions to a Linux kernel about interfaces and routes, and its classifiers (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# <linux/rtnetlink.h>
_GET_LINK, _GET_ADDRESS, _GET_ROUTE = 18, 22, 26
_NEW_QDISC, _NEW_FILTER, _DELETE_FILTER = 36, 44, 45
_IFLA_MTU, _IFLA_AF_SPEC = 4, 26
# <linux/if_link.h>, and where <linux/ipv6.h> has the MTU among the numbers.
_IFLA_INET6_CONF, _DEVCONF_MTU6 = 2, 2
_RTA_DESTINATION, _RTA_SOURCE, _RTA_INTERFACE, _RTA_GATEWAY, _RTA_METRICS = 1, 2, 4, 5, 8
_RTA_VIA, _RTA_ENCAP, _RTAX_MTU = 18, 22, 2
_SCOPE_LINK: Final = 253
_UNICAST, _LOCAL = 1, 2
# <linux/netlink.h>
_ERROR, _DONE = 2, 3
_REQUEST, _ACKNOWLEDGE, _DUMP, _CREATE, _EXCLUSIVE = 0x1, 0x4, 0x300, 0x400, 0x200
_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ADDRESS: Final = struct.Struct("=BBBBI")
_ROUTE: Final = struct.Struct("=BBBBBBBBI")
# <linux/pkt_sched.h>, <linux/pkt_cls.h>
_TRAFFIC: Final = struct.Struct("=BxxxiIII")
_CLSACT: Final = 0xFFFFFFF1
_CLSACT_HANDLE: Final = 0xFFFF0000
_INGRESS: Final = 0xFFFFFFF2
_KIND, _OPTIONS = 1, 2
_BPF_FD, _BPF_NAME, _BPF_FLAGS = 6, 7, 8
_DIRECT_ACTION: Final = 1
_ALL_PROTOCOLS: Final = socket.htons(3)

_LARGEST: Final = 1 << 17


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; ``hardware`` is its ARPHRD number, ``flags`` are those of netdevice(7).

    ``ipv6_mtu`` is the lesser one that a router may have advertised.
    """

    index: int
    hardware: int
    flags: int
    mtu: int
    ipv6_mtu: int


@dataclass(frozen=True, slots=True)
class Route:
    """How packets get somewhere: by which interface, at most how large (0: as the interface can).

    ``next_hop`` is the host on that link which takes them, the destination itself or a gateway, of
    whichever IP version. ``is_local``: to this machine itself.
    """

    interface: int
    mtu: int
    is_local: bool
    next_hop: str


class RouteNetlink:
    """A socket for questions, each answered at once, of the namespace it was made in."""

    def __init__(self) -> None:
        """Raises OSError; AttributeError elsewhere than on Linux."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def links(self) -> list[Link]:
        """Every interface."""
        found = []
        for body in self._ask(_GET_LINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0)):
            _, hardware, index, flags, _ = _LINK.unpack_from(body)
            attributes = dict(_attributes(body[_LINK.size :]))
            (mtu,) = struct.unpack("=I", attributes.get(_IFLA_MTU, bytes(4)))
            families = dict(_attributes(attributes.get(_IFLA_AF_SPEC, b"")))
            ipv6 = dict(_attributes(families.get(socket.AF_INET6, b"")))
            numbers = ipv6.get(_IFLA_INET6_CONF, b"")
            ipv6_mtu = mtu
            if len(numbers) >= 4 * (_DEVCONF_MTU6 + 1):
                (ipv6_mtu,) = struct.unpack_from("=I", numbers, 4 * _DEVCONF_MTU6)
            found.append(Link(index, hardware, flags, mtu, ipv6_mtu))
        return found

    def interfaces_with_addresses(self) -> set[int]:
        """The interfaces that have an IP address besides link-local ones."""
        bodies = self._ask(_GET_ADDRESS, _DUMP, _ADDRESS.pack(0, 0, 0, 0, 0))
        entries = [_ADDRESS.unpack_from(body) for body in bodies]
        return {index for _, _, _, scope, index in entries if scope != _SCOPE_LINK}

    def route(self, source: str, destination: str) -> Route | None:
        """The way of packets that this machine sends; None when there is none, and when they are
        put into others on it (a lightweight tunnel), which is the route's work alone. Of a host
        with a scope it is not asked."""
        if "%" in source or "%" in destination:
            return None
        family = socket.AF_INET6 if ":" in destination else socket.AF_INET
        ends = [socket.inet_pton(family, each) for each in (destination, source)]
        bits = 8 * len(ends[0])
        body = _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0)
        body += _attribute(_RTA_DESTINATION, ends[0]) + _attribute(_RTA_SOURCE, ends[1])
        try:
            answer = next(self._ask(_GET_ROUTE, 0, body))
        except OSError:
            return None
        kind = _ROUTE.unpack_from(answer)[7]
        found = dict(_attributes(answer[_ROUTE.size :]))
        if kind not in (_UNICAST, _LOCAL) or _RTA_INTERFACE not in found or _RTA_ENCAP in found:
            return None
        metrics = dict(_attributes(found.get(_RTA_METRICS, b"")))
        (mtu,) = struct.unpack("=I", metrics.get(_RTAX_MTU, bytes(4)))
        (interface,) = struct.unpack("=I", found[_RTA_INTERFACE])
        try:
            next_hop = _next_hop(family, found, destination)
        except (struct.error, ValueError, OSError):
            return None  # a neighbour of another kind than IP
        return Route(interface, mtu, kind == _LOCAL, next_hop)

    def add_clsact(self, interface: int) -> None:
        """Have a place for classifiers at ``interface``; it may be there already."""
        body = _TRAFFIC.pack(0, interface, _CLSACT_HANDLE, _CLSACT, 0)
        with contextlib.suppress(FileExistsError):
            self._do(_NEW_QDISC, _CREATE | _EXCLUSIVE, body + _attribute(_KIND, b"clsact\0"))

    def add_ingress_filter(
        self, interface: int, program: int, name: str, *, priority: int, handle: int
    ) -> None:
        """Attach the classifier with the descriptor ``program``."""
        options = _attribute(_BPF_FD, struct.pack("=I", program))
        options += _attribute(_BPF_NAME, name.encode("ascii") + b"\0")
        options += _attribute(_BPF_FLAGS, struct.pack("=I", _DIRECT_ACTION))
        body = _filter(interface, priority, handle)
        body += _attribute(_KIND, b"bpf\0") + _attribute(_OPTIONS, options)
        self._do(_NEW_FILTER, _CREATE | _EXCLUSIVE, body)

    def delete_ingress_filter(self, interface: int, *, priority: int, handle: int) -> None:
        """Detach it. Raises OSError when there is none."""
        body = _filter(interface, priority, handle) + _attribute(_KIND, b"bpf\0")
        self._do(_DELETE_FILTER, 0, body)

    def _do(self, kind: int, flags: int, body: bytes) -> None:
        for _ in self._ask(kind, flags | _ACKNOWLEDGE, body):
            pass

    def _ask(self, kind: int, flags: int, body: bytes) -> Iterator[bytes]:
        """The bodies of the answers. Raises OSError when the kernel says no."""
        self._sequence += 1
        size = _HEADER.size + len(body)
        self._socket.send(_HEADER.pack(size, kind, flags | _REQUEST, self._sequence, 0) + body)
        while True:
            data = self._socket.recv(_LARGEST)
            while len(data) >= _HEADER.size:
                length, answer, _, sequence, _ = _HEADER.unpack_from(data)
                content = data[_HEADER.size : length]
                data = data[length + 3 & ~3 :]
                if sequence != self._sequence:
                    continue  # the rest of an answer that nobody read to its end
                if answer == _ERROR:
                    (code,) = struct.unpack_from("=i", content)
                    if code:
                        raise OSError(-code, os.strerror(-code))
                    return
                if answer == _DONE:
                    return
                yield content
            if not flags & (_ACKNOWLEDGE | _DUMP):
                return


def _filter(interface: int, priority: int, handle: int) -> bytes:
    return _TRAFFIC.pack(0, interface, handle, _INGRESS_PARENT, priority << 16 | _ALL_PROTOCOLS)


_INGRESS_PARENT: Final = _CLSACT_HANDLE | (_INGRESS & 0xFFFF)


def _attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) & 3)


def _next_hop(family: int, found: dict[int, bytes], destination: str) -> str:
    if _RTA_GATEWAY in found:
        return socket.inet_ntop(family, found[_RTA_GATEWAY])
    if _RTA_VIA in found:  # struct rtvia: a gateway of another IP version
        (family,) = struct.unpack_from("=H", found[_RTA_VIA])
        return socket.inet_ntop(family, found[_RTA_VIA][2:])
    return destination


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[length + 3 & ~3 :]
