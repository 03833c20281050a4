"""Port Control Protocol: MAP for UDP, and ANNOUNCE (RFC 6887)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, TypeAlias

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage

SERVER_PORT: Final = 5351  # RFC 6887 Section 19.1; RFC 6886 uses it too
VERSION: Final = 2  # RFC 6887 Section 7.1
NONCE_SIZE: Final = 12  # RFC 6887 Section 11.1: 96 bits
MAX_SIZE: Final = 1100  # RFC 6887 Section 7: "a maximum UDP payload length of 1100 octets"
_UDP: Final = 17  # the IANA protocol number
_RESPONSE: Final = 0x80  # RFC 6887 Section 7.2: the R bit
_REQUEST_HEADER: Final = struct.Struct("!BBxxI16s")
_RESPONSE_HEADER: Final = struct.Struct("!BBxBII12x")
_MAP: Final = struct.Struct("!12sB3xHH16s")


class Opcode(enum.IntEnum):
    """RFC 6887 Section 19.2."""

    ANNOUNCE = 0
    MAP = 1


class ResultCode(enum.IntEnum):
    """RFC 6887 Section 7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Map ``internal_port`` of ``client`` (an IP address) for UDP; a lifetime of 0 deletes.

    ``suggested`` is the external address wished for; its host may be unspecified, its port 0.
    """

    client: str
    nonce: bytes
    internal_port: int
    lifetime_seconds: int
    suggested: Address


@dataclass(frozen=True, slots=True)
class MapResponse:
    """The answer to a MapRequest for UDP.

    With another ``result`` than SUCCESS ``lifetime_seconds`` says how long it will stay so.
    """

    result: int
    lifetime_seconds: int
    epoch_seconds: int
    nonce: bytes
    internal_port: int
    external: Address


@dataclass(frozen=True, slots=True)
class Announcement:
    """The server was restarted, or its external address is another one (Section 14.1)."""

    epoch_seconds: int


PcpResponse: TypeAlias = MapResponse | Announcement


def encode_map_request(request: MapRequest) -> bytes:
    """The datagram for ``request``. Raises ValueError for a nonce of another size."""
    if len(request.nonce) != NONCE_SIZE:
        raise ValueError(f"a mapping nonce of {len(request.nonce)} bytes")
    head = _REQUEST_HEADER.pack(
        VERSION, Opcode.MAP, request.lifetime_seconds, _packed(request.client)
    )
    suggested = request.suggested
    return head + _MAP.pack(
        request.nonce, _UDP, request.internal_port, suggested.port, _packed(suggested.host)
    )


def decode_response(data: bytes) -> PcpResponse:
    """A server's datagram. Options are passed over: we send none that is answered.

    Raises MalformedMessage (RFC 6887 Section 8.3: what a client must drop), also for an opcode
    and a protocol that we never ask for.
    """
    if not _RESPONSE_HEADER.size <= len(data) <= MAX_SIZE or len(data) % 4:
        raise MalformedMessage("no PCP response has this length")
    version, opcode, result, lifetime, epoch = _RESPONSE_HEADER.unpack_from(data)
    if version != VERSION or not opcode & _RESPONSE:
        raise MalformedMessage("not a PCP response")
    match opcode & ~_RESPONSE:
        case Opcode.ANNOUNCE:
            return Announcement(epoch)
        case Opcode.MAP if len(data) >= _RESPONSE_HEADER.size + _MAP.size:
            nonce, protocol, internal, external, host = _MAP.unpack_from(
                data, _RESPONSE_HEADER.size
            )
            if protocol != _UDP:
                raise MalformedMessage("a mapping that is not for UDP")
            external_address = Address(_unpacked(host), external)
            return MapResponse(result, lifetime, epoch, nonce, internal, external_address)
        case _:
            raise MalformedMessage("an opcode we never sent, or a short response")


def _packed(host: str) -> bytes:
    """RFC 6887 Section 5: IPv4 addresses travel as IPv4-mapped IPv6 addresses."""
    ip = ip_address(host)
    if isinstance(ip, IPv4Address):
        return bytes(10) + b"\xff\xff" + ip.packed
    return ip.packed


def _unpacked(packed: bytes) -> str:
    ip = IPv6Address(packed)
    return str(ip.ipv4_mapped or ip)
