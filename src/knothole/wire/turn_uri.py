"""STUN and TURN URIs (RFC 7064, RFC 7065)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from knothole.wire.address import Transport
from knothole.wire.malformed import MalformedMessage

SELF_HOST: Final = "self.invalid"
"""In URIs of a switchboard: the switchboard itself, at the address the client reached it by."""

DEFAULT_PORT: Final = 3478  # RFC 7065 Section 3.2
DEFAULT_TLS_PORT: Final = 5349

_SECURE: Final = {"tcp": Transport.TLS, "udp": Transport.DTLS}


@dataclass(frozen=True, slots=True)
class ServerUri:
    """Where a STUN or TURN server is. ``host`` is an IP address or a name."""

    host: str
    port: int
    transport: Transport


def parse_server_uri(text: str) -> ServerUri:
    """A ``stun:``, ``turn:`` or ``turns:`` URI.

    ``turns`` over udp is DTLS (RFC 7065 Section 3.1). Raises MalformedMessage for anything else.
    """
    match = _URI.fullmatch(text)
    if match is None:
        raise MalformedMessage(f"not a STUN or TURN URI: {text[:100]!r}")
    scheme = match["scheme"].lower()
    secure = scheme == "turns"
    port = int(match["port"] or (DEFAULT_TLS_PORT if secure else DEFAULT_PORT))
    transport = match["transport"] or ("tcp" if secure else "udp")
    if not 0 < port <= 0xFFFF:
        raise MalformedMessage(f"not a port: {text[:100]!r}")
    kind = _SECURE[transport] if secure else Transport(transport)
    return ServerUri(match["bracketed"] or match["host"], port, kind)


def format_server_uri(host: str, port: int, transport: Transport) -> str:
    """The ``turn:`` or ``turns:`` URI of a TURN server."""
    scheme = "turns" if transport in _SECURE.values() else "turn"
    shown = f"[{host}]" if ":" in host else host
    way = "tcp" if transport.is_stream else "udp"
    return f"{scheme}:{shown}:{port}?transport={way}"


_URI: Final = re.compile(
    r"(?P<scheme>(?i:stun|turns?)):"
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+))"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?:\?transport=(?P<transport>udp|tcp))?"
)
