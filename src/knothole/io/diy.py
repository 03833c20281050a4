"""Hole punching by hand: what netcat and hping do in the article's experiment, as events."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, TypeAlias

from knothole.io.error_queue import keep_errors, next_error, refused_by
from knothole.io.raw import RawPort, raw_tcp, raw_udp
from knothole.io.waiting import readable
from knothole.wire.address import Address, parse_address
from knothole.wire.icmp import IcmpError
from knothole.wire.segment import TcpFlag, TcpSegment

_LARGEST: Final = 65536
_CHUNK: Final = 16384  # bytes of stdin in one datagram at most, as netcat has it
_BACKLOG: Final = 8


@dataclass(frozen=True, slots=True)
class Listening:
    """The port is ours: what is sent to it from now on is told."""

    local: Address


@dataclass(frozen=True, slots=True)
class Received:
    """A datagram, or a piece of a TCP connection."""

    remote: Address
    data: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """So many bytes are on their way."""

    local: Address
    remote: Address
    size: int


@dataclass(frozen=True, slots=True)
class Connected:
    """A TCP connection is there, whoever opened it."""

    remote: Address


@dataclass(frozen=True, slots=True)
class Closed:
    """A TCP connection is over."""

    remote: Address


@dataclass(frozen=True, slots=True)
class Answered:
    """A TCP segment has come back to a packet that was made by hand."""

    remote: Address
    segment: TcpSegment


Event: TypeAlias = Listening | Received | Sent | Connected | Closed | Answered | IcmpError


class PortTaken(OSError):
    """Another program has the port, and does not share it."""


def resolve(host: str, port: int) -> Address:
    """The address of ``host``, a name or an IP address. Raises OSError when there is none."""
    return _address(_look_up(host, port)[0])


def addresses_of(host: str) -> list[str]:
    """Every IP address of ``host``. Raises OSError when there is none."""
    return sorted({str(ip_address(str(each[0]))) for each in _look_up(host, None)})


def listen_udp(host: str, port: int) -> Iterator[Event]:
    """Every datagram that comes to the port. Raises OSError; never ends by itself."""
    with _bound(host, port, socket.SOCK_DGRAM) as udp:
        _share(udp)  # once it is ours: `punch` may use it as well, a second listener may not
        yield Listening(_address(udp.getsockname()))
        while True:
            data, source = udp.recvfrom(_LARGEST)
            yield Received(_address(source), data)


def listen_tcp(host: str, port: int) -> Iterator[Event]:
    """Every connection to the port, and what comes by it. Raises OSError; never ends by itself."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bound(host, port, socket.SOCK_STREAM))
        listener.listen(_BACKLOG)
        open_now: dict[socket.socket, Address] = {}
        yield Listening(_address(listener.getsockname()))
        stack.callback(_close_all, open_now)
        while True:
            for ready in select.select([listener, *open_now], [], [])[0]:
                if ready is listener:
                    new, source = listener.accept()
                    open_now[new] = _address(source)
                    yield Connected(open_now[new])
                    continue
                data = b""
                with contextlib.suppress(OSError):  # a reset is an end as well
                    data = ready.recv(_LARGEST)
                if data:
                    yield Received(open_now[ready], data)
                else:
                    ready.close()
                    yield Closed(open_now.pop(ready))


def send_udp(source_port: int, remote: Address, stdin: int, wait: float) -> Iterator[Event]:
    """What stdin gives, each piece as a datagram, and what comes back until ``wait`` seconds after.

    ``source_port`` 0 leaves the choice to the system. Raises OSError.
    """
    with _bound(_any_host(remote), source_port, socket.SOCK_DGRAM) as udp:
        keep_errors(udp)
        udp.connect(remote)
        local = _address(udp.getsockname())
        udp.setblocking(False)
        until: float | None = None
        while until is None or time.monotonic() < until:
            left = None if until is None else max(0.0, until - time.monotonic())
            watched = [udp.fileno()] if until else [udp.fileno(), stdin]
            ready = select.select(watched, [], [], left)[0]
            if udp.fileno() in ready:
                yield from _arrived(udp, remote)
            if stdin in ready:
                data = os.read(stdin, _CHUNK)
                if not data:
                    until = time.monotonic() + wait
                    continue
                with contextlib.suppress(ConnectionRefusedError):  # of an earlier one: kept too
                    udp.send(data)
                yield Sent(local, remote, len(data))


def send_tcp(source_port: int, remote: Address, stdin: int, wait: float) -> Iterator[Event]:
    """A connection to ``remote``: what stdin gives goes out, what comes is told.

    Tries for ``wait`` seconds, and ends so long after the end of stdin, or when the other side
    ends. Raises OSError.
    """
    with _bound(_any_host(remote), source_port, socket.SOCK_STREAM) as tcp:
        tcp.settimeout(wait)
        tcp.connect(remote)
        yield Connected(remote)
        local = _address(tcp.getsockname())
        until: float | None = None
        while until is None or time.monotonic() < until:
            left = None if until is None else max(0.0, until - time.monotonic())
            watched = [tcp.fileno()] if until else [tcp.fileno(), stdin]
            ready = select.select(watched, [], [], left)[0]
            if tcp.fileno() in ready:
                data = tcp.recv(_LARGEST)
                if not data:
                    yield Closed(remote)
                    return
                yield Received(remote, data)
            if stdin in ready:
                data = os.read(stdin, _CHUNK)
                if not data:
                    tcp.shutdown(socket.SHUT_WR)
                    until = time.monotonic() + wait
                    continue
                tcp.sendall(data)
                yield Sent(local, remote, len(data))


def punch_udp(source_port: int, remote: Address, hops: int | None, wait: float) -> Iterator[Event]:
    """One empty datagram from the port, whoever has it, and what comes back.

    By a raw socket where we may; else by sharing the port with a program that lets us. Raises
    PortTaken when neither can be, and other OSErrors.
    """
    try:
        port = raw_udp(source_port, remote)
    except PermissionError:
        yield from _punch_sharing(source_port, remote, hops, wait)
        return
    with port:
        _limit(port, hops)
        port.send_datagram(b"")
        yield from _sent_by_hand(port, wait)


def punch_tcp(source_port: int, remote: Address, hops: int | None, wait: float) -> Iterator[Event]:
    """One SYN from the port, whoever has it, and what comes back.

    Raises PermissionError where we may not make packets by hand, and other OSErrors.
    """
    with raw_tcp(source_port, remote) as port:
        _limit(port, hops)
        port.send_segment(TcpFlag.SYN)
        yield from _sent_by_hand(port, wait)


def _sent_by_hand(port: RawPort, wait: float) -> Iterator[Event]:
    yield Sent(port.local, port.remote, 0)
    for answer in port.answers(wait):
        if isinstance(answer, bytes):
            yield Received(port.remote, answer)
        elif isinstance(answer, TcpSegment):
            yield Answered(port.remote, answer)
        else:
            yield answer


def _punch_sharing(
    source_port: int, remote: Address, hops: int | None, wait: float
) -> Iterator[Event]:
    family = socket.AF_INET6 if remote.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        _share(udp)
        try:
            udp.bind((_any_host(remote), source_port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortTaken(errno.EADDRINUSE, "the port is taken") from error
            raise
        keep_errors(udp)
        udp.connect(remote)  # only what comes from there is kept from the port's other owner
        if hops is not None:
            level = socket.IPPROTO_IPV6 if remote.is_ipv6 else socket.IPPROTO_IP
            name = socket.IPV6_UNICAST_HOPS if remote.is_ipv6 else socket.IP_TTL
            udp.setsockopt(level, name, hops)
        udp.send(b"")
        yield Sent(_address(udp.getsockname()), remote, 0)
        udp.setblocking(False)
        until = time.monotonic() + wait
        while readable([udp], until):
            yield from _arrived(udp, remote)


def _arrived(udp: socket.socket, remote: Address) -> Iterator[Received | IcmpError]:
    """What a connected socket has to say, by now."""
    told = False
    while (kept := next_error(udp)) is not None:
        told = True
        yield kept
    try:
        yield Received(remote, udp.recv(_LARGEST))
    except BlockingIOError:
        pass
    except ConnectionRefusedError:
        if not told:
            yield refused_by(remote.host, udp.family)
    except OSError:  # another ICMP error; which one, was told above
        pass


def _bound(host: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, kind)
    try:
        if kind is socket.SOCK_STREAM and os.name == "posix":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # no minute of TIME-WAIT
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def _look_up(host: str, port: int | None) -> list[tuple[object, ...]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except UnicodeError as error:
        raise OSError("no name has such a part") from error
    return [each[4] for each in found]


def _close_all(connections: Iterable[socket.socket]) -> None:
    for each in connections:
        each.close()


def _share(udp: socket.socket) -> None:
    for option in ("SO_REUSEADDR", "SO_REUSEPORT"):  # netcat-traditional sets but the first
        if hasattr(socket, option):
            udp.setsockopt(socket.SOL_SOCKET, getattr(socket, option), 1)


def _limit(port: RawPort, hops: int | None) -> None:
    if hops is not None:
        port.set_hops(hops)


def _any_host(remote: Address) -> str:
    return "::" if remote.is_ipv6 else "0.0.0.0"  # noqa: S104  a source, and nobody is told of it


def _address(found: tuple[object, ...]) -> Address:
    host, port = str(found[0]).partition("%")[0], found[1]
    assert isinstance(port, int)
    return parse_address(host, port)
