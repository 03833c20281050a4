"""ICMP errors: what a router or host says of a packet that went no further (RFC 792, RFC 4443)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from knothole.wire.malformed import MalformedMessage
from knothole.wire.segment import behind_ipv4

UNREACHABLE: Final = 3  # RFC 792
TIME_EXCEEDED: Final = 11
UNREACHABLE6: Final = 1  # RFC 4443 Section 3.1
TIME_EXCEEDED6: Final = 3

_WORDS: Final = {  # RFC 792, RFC 1122 Section 3.2.2.1, RFC 1812 Section 5.2.7.1
    (UNREACHABLE, 0): "network unreachable",
    (UNREACHABLE, 1): "host unreachable",
    (UNREACHABLE, 3): "port unreachable",
    (UNREACHABLE, 9): "administratively prohibited",
    (UNREACHABLE, 10): "administratively prohibited",
    (UNREACHABLE, 13): "administratively prohibited",
    (TIME_EXCEEDED, 0): "time to live exceeded on the way",
}
_WORDS6: Final = {  # RFC 4443 Sections 3.1 and 3.3
    (UNREACHABLE6, 0): "no route to destination",
    (UNREACHABLE6, 1): "administratively prohibited",
    (UNREACHABLE6, 3): "address unreachable",
    (UNREACHABLE6, 4): "port unreachable",
    (TIME_EXCEEDED6, 0): "hop limit exceeded on the way",
}
_HEADER: Final = 8
_IPV6_HEADER: Final = 40


@dataclass(frozen=True, slots=True)
class IcmpError:
    """One error: who says it, and what (the numbers of its family)."""

    origin: str
    type: int
    code: int

    @property
    def words(self) -> str:
        """Its name, for people."""
        known = (_WORDS6 if ":" in self.origin else _WORDS).get((self.type, self.code))
        return known or f"type {self.type} code {self.code}"


@dataclass(frozen=True, slots=True)
class Quoted:
    """Of which packet an ICMP error speaks: protocol number and ports."""

    protocol: int
    source_port: int
    destination_port: int


def decode_icmp(origin: str, message: bytes) -> tuple[IcmpError, Quoted]:
    """An ICMP message that came from ``origin``, without IP header, and what it quotes.

    Raises MalformedMessage for what is no error, and for one that quotes too little.
    """
    if len(message) < _HEADER:
        raise MalformedMessage("shorter than an ICMP header")
    error = IcmpError(origin, message[0], message[1])
    quote = message[_HEADER:]
    if ":" in origin:
        kinds, protocol_at = (UNREACHABLE6, TIME_EXCEEDED6), 6
        segment = quote[_IPV6_HEADER:]
    else:
        kinds, protocol_at = (UNREACHABLE, TIME_EXCEEDED), 9
        segment = behind_ipv4(quote)
    if error.type not in kinds:
        raise MalformedMessage(f"type {error.type} is not an error about a packet")
    if len(segment) < 4:
        raise MalformedMessage("quotes no ports")
    source_port, destination_port = struct.unpack_from(">HH", segment)
    return error, Quoted(quote[protocol_at], source_port, destination_port)
