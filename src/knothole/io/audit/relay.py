"""Ways to a relay: TURN over UDP, TCP and TLS, on port 443 too, and proxies on the way."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from typing import Final

from knothole.io.audit.finding import Finding, Group
from knothole.io.proxy import InvalidProxy, ProxyRefused, open_tunnel, parse_proxy
from knothole.io.tls import ALPN_TURN, client_context
from knothole.wire.address import Address
from knothole.wire.stun import (
    HEADER_SIZE,
    TRANSACTION_ID_SIZE,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    decode,
    encode,
)
from knothole.wire.stun.turn_attributes import RequestedTransport

WAIT_SECONDS: Final = 3.0  # ours: for a connection to come about, and for an answer on it
_UDP_WAIT_SECONDS: Final = 0.5
_UDP_TRIES: Final = 3
_TLS_PORTS: Final = (443,)
_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def relay_ways(server: Address, tls_ports: Sequence[int]) -> Iterator[Finding]:
    """TURN at ``server``, which has TLS on the further ports too.

    An answer to an Allocate request that proves nothing (401) is enough: a relay is there.
    """
    yield Finding(Group.RELAY, f"TURN over UDP, port {server.port}", *_by_udp(server))
    yield Finding(Group.RELAY, f"TURN over TCP, port {server.port}", *_by_stream(server, False))
    for port in dict.fromkeys((server.port, *tls_ports, *_TLS_PORTS)):
        title = f"TURN over TLS, port {port}"
        if port in (server.port, *tls_ports):
            yield Finding(Group.RELAY, title, *_by_stream(Address(server.host, port), True))
        else:
            why = "the server has no such port: start it with --also-listen 443"
            yield Finding(Group.RELAY, title, None, why)
    yield _by_proxy(Address(server.host, tls_ports[0] if tls_ports else server.port))


def _by_udp(server: Address) -> tuple[bool, str]:
    family = socket.AF_INET6 if server.is_ipv6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(_UDP_WAIT_SECONDS)
        try:
            udp.connect(server)
            for _ in range(_UDP_TRIES):
                udp.send(_allocate_request())
                try:
                    decode(udp.recv(2048))
                except TimeoutError:
                    continue
                return True, "the relay has answered"
        except (OSError, MalformedMessage) as error:
            return False, _words(error)
    return False, "no answer"


def _by_stream(server: Address, tls: bool) -> tuple[bool, str]:
    try:
        with socket.create_connection(server, WAIT_SECONDS) as plain:
            return _ask(plain, tls)
    except (OSError, MalformedMessage) as error:
        return False, _words(error)


def _ask(connected: socket.socket, tls: bool) -> tuple[bool, str]:
    """Raises OSError, MalformedMessage."""
    connected.settimeout(WAIT_SECONDS)
    if tls:
        # Who answers is proven elsewhere: here it counts that somebody does.
        context = client_context(pinned=True, alpn=ALPN_TURN)
        with context.wrap_socket(connected) as secured:
            return _answered(secured)
    return _answered(connected)


def _answered(stream: socket.socket) -> tuple[bool, str]:
    stream.sendall(_allocate_request())
    data = b""
    while len(data) < HEADER_SIZE or len(data) < HEADER_SIZE + int.from_bytes(data[2:4], "big"):
        more = stream.recv(2048)
        if not more:
            return False, "connected, but what answers there is no relay"
        data += more
    decode(data)
    return True, "the relay has answered"


def _by_proxy(server: Address) -> Finding:
    """The proxy that the environment names. One found by WPAD is not looked for."""
    name = next((each for each in _VARIABLES if os.environ.get(each)), None)
    title = "HTTP CONNECT by a proxy"
    if name is None:
        return Finding(
            Group.PROXY, title, None, "the environment names none (WPAD is not looked at)"
        )
    try:
        proxy = parse_proxy(os.environ[name])
    except InvalidProxy as error:
        return Finding(Group.PROXY, title, None, f"{name} names a proxy that is not tried: {error}")
    try:
        with asyncio.run(open_tunnel(proxy, server.host, server.port)) as stream:
            is_open, why = _ask(stream, tls=True)
    except ProxyRefused as error:
        return Finding(Group.PROXY, title, False, f"{name}: {error}")
    except (OSError, MalformedMessage) as error:
        is_open, why = False, _words(error)
    return Finding(Group.PROXY, title, is_open, f"{name} names {proxy}, and through it: {why}")


def _allocate_request() -> bytes:
    identity = secrets.token_bytes(TRANSACTION_ID_SIZE)
    attributes = (RequestedTransport(),)
    return encode(Message(MessageClass.REQUEST, Method.ALLOCATE, identity, attributes))


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer"
    return (getattr(error, "strerror", None) or str(error)).lower()
