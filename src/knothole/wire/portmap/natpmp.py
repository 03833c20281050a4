"""NAT Port Mapping Protocol, for UDP (RFC 6886)."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final, TypeAlias

from knothole.wire.malformed import MalformedMessage

VERSION: Final = 0  # RFC 6886 Section 3.1
_RESPONSE: Final = 128  # RFC 6886 Section 3.1: "128 + the opcode"
_HEADER: Final = struct.Struct("!BBHI")
_ADDRESS: Final = struct.Struct("!4s")
_MAPPING: Final = struct.Struct("!HHI")
_MAP_REQUEST: Final = struct.Struct("!BBxxHHI")


class Opcode(enum.IntEnum):
    """RFC 6886 Sections 3.2 and 3.3."""

    EXTERNAL_ADDRESS = 0
    MAP_UDP = 1


class ResultCode(enum.IntEnum):
    """RFC 6886 Section 3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class AddressResponse:
    """The gateway's external IPv4 address. It is also announced unasked (Section 3.2.1)."""

    epoch_seconds: int
    host: str


@dataclass(frozen=True, slots=True)
class MapResponse:
    """A UDP port is mapped; with a lifetime of 0 the mapping was deleted."""

    epoch_seconds: int
    internal_port: int
    external_port: int
    lifetime_seconds: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """No: ``result`` is another one than SUCCESS."""

    opcode: int
    result: int
    epoch_seconds: int


NatPmpResponse: TypeAlias = AddressResponse | MapResponse | Refusal


def encode_address_request() -> bytes:
    """Ask for the external address."""
    return bytes((VERSION, Opcode.EXTERNAL_ADDRESS))


def encode_map_request(internal_port: int, suggested_port: int, lifetime_seconds: int) -> bytes:
    """Ask for a mapping; to delete it, ``suggested_port`` and ``lifetime_seconds`` are 0."""
    return _MAP_REQUEST.pack(
        VERSION, Opcode.MAP_UDP, internal_port, suggested_port, lifetime_seconds
    )


def decode_response(data: bytes) -> NatPmpResponse:
    """A gateway's datagram. Raises MalformedMessage, also for an opcode that we never ask for."""
    if len(data) < _HEADER.size:
        raise MalformedMessage("a short NAT-PMP response")
    version, opcode, result, epoch = _HEADER.unpack_from(data)
    if version == VERSION and opcode == 0 and result == ResultCode.UNSUPPORTED_VERSION:
        return Refusal(opcode, result, epoch)  # Section 3.5 draws it with an opcode of 0
    if version != VERSION or opcode < _RESPONSE:
        raise MalformedMessage("not a NAT-PMP response")
    opcode -= _RESPONSE
    if result != ResultCode.SUCCESS:
        return Refusal(opcode, result, epoch)
    body = data[_HEADER.size :]
    if opcode == Opcode.EXTERNAL_ADDRESS and len(body) == _ADDRESS.size:
        return AddressResponse(epoch, str(IPv4Address(body)))
    if opcode == Opcode.MAP_UDP and len(body) == _MAPPING.size:
        return MapResponse(epoch, *_MAPPING.unpack(body))
    raise MalformedMessage("an opcode we never sent, or another length than it has")
