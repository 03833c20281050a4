"""The attributes of TURN: RFC 8656 Section 18, and CONNECTION-ID of RFC 6062."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun.attribute import (
    Attribute,
    BytesAttribute,
    FlagAttribute,
    XorAddressAttribute,
    decode_uint32,
    encode_uint32,
)
from knothole.wire.stun.attributes import decode_error, encode_error

_CHANNEL = struct.Struct("!H2x")
_FIRST_BYTE = struct.Struct("!B3x")
_ICMP = struct.Struct("!2xHI")


@dataclass(frozen=True, slots=True)
class ChannelNumber(Attribute):
    """CHANNEL-NUMBER (RFC 8656 Section 18.1); the range is the server's to check."""

    value: int

    TYPE: ClassVar[int] = 0x000C

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> ChannelNumber:
        return cls(_CHANNEL.unpack(value)[0])

    def encode(self, mask: bytes) -> bytes:
        if not 0 <= self.value <= 0xFFFF:
            raise ValueError(f"{self.value} is not a channel number")
        return _CHANNEL.pack(self.value)


@dataclass(frozen=True, slots=True)
class Lifetime(Attribute):
    """LIFETIME (RFC 8656 Section 18.2)."""

    seconds: int

    TYPE: ClassVar[int] = 0x000D

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> Lifetime:
        return cls(decode_uint32(value))

    def encode(self, mask: bytes) -> bytes:
        return encode_uint32(self.seconds)


@dataclass(frozen=True, slots=True)
class XorPeerAddress(XorAddressAttribute):
    """XOR-PEER-ADDRESS (RFC 8656 Section 18.3); may be there several times."""

    TYPE: ClassVar[int] = 0x0012


@dataclass(frozen=True, slots=True)
class Data(BytesAttribute):
    """DATA: the payload (RFC 8656 Section 18.4)."""

    TYPE: ClassVar[int] = 0x0013


@dataclass(frozen=True, slots=True)
class XorRelayedAddress(XorAddressAttribute):
    """XOR-RELAYED-ADDRESS (RFC 8656 Section 18.5); one for each address family."""

    TYPE: ClassVar[int] = 0x0016


FamilyT = TypeVar("FamilyT", bound="_FamilyAttribute")


@dataclass(frozen=True, slots=True)
class _FamilyAttribute(Attribute):
    """``family`` is an :class:`AddressFamily`, or a number that has no meaning yet."""

    family: int

    @classmethod
    def decode(cls: type[FamilyT], value: bytes, mask: bytes) -> FamilyT:
        return cls(_FIRST_BYTE.unpack(value)[0])

    def encode(self, mask: bytes) -> bytes:
        if not 0 <= self.family <= 0xFF:
            raise ValueError(f"{self.family} is not an address family")
        return _FIRST_BYTE.pack(self.family)


@dataclass(frozen=True, slots=True)
class RequestedAddressFamily(_FamilyAttribute):
    """REQUESTED-ADDRESS-FAMILY (RFC 8656 Section 18.6)."""

    TYPE: ClassVar[int] = 0x0017


@dataclass(frozen=True, slots=True)
class AdditionalAddressFamily(_FamilyAttribute):
    """ADDITIONAL-ADDRESS-FAMILY (RFC 8656 Section 18.11)."""

    TYPE: ClassVar[int] = 0x8000


@dataclass(frozen=True, slots=True)
class DraftAdditionalAddressFamily(_FamilyAttribute):
    """ADDITIONAL-ADDRESS-FAMILY by the number that coturn (4.6) has for it, which is no RFC's."""

    TYPE: ClassVar[int] = 0x8032


@dataclass(frozen=True, slots=True)
class EvenPort(Attribute):
    """EVEN-PORT; ``reserve`` asks for the next port too (RFC 8656 Section 18.7)."""

    reserve: bool = False

    TYPE: ClassVar[int] = 0x0018

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> EvenPort:
        if len(value) != 1:
            raise MalformedMessage(f"EVEN-PORT of {len(value)} bytes")
        return cls(bool(value[0] & 0x80))

    def encode(self, mask: bytes) -> bytes:
        return b"\x80" if self.reserve else b"\0"


@dataclass(frozen=True, slots=True)
class RequestedTransport(Attribute):
    """REQUESTED-TRANSPORT: an IP protocol number, 17 for UDP (RFC 8656 Section 18.8)."""

    protocol: int = 17

    TYPE: ClassVar[int] = 0x0019

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> RequestedTransport:
        return cls(_FIRST_BYTE.unpack(value)[0])

    def encode(self, mask: bytes) -> bytes:
        if not 0 <= self.protocol <= 0xFF:
            raise ValueError(f"{self.protocol} is not an IP protocol number")
        return _FIRST_BYTE.pack(self.protocol)


@dataclass(frozen=True, slots=True)
class DontFragment(FlagAttribute):
    """DONT-FRAGMENT (RFC 8656 Section 18.9)."""

    TYPE: ClassVar[int] = 0x001A


@dataclass(frozen=True, slots=True)
class ReservationToken(BytesAttribute):
    """RESERVATION-TOKEN: eight bytes (RFC 8656 Section 18.10)."""

    TYPE: ClassVar[int] = 0x0022
    LENGTH: ClassVar[int | None] = 8


@dataclass(frozen=True, slots=True)
class AddressErrorCode(Attribute):
    """ADDRESS-ERROR-CODE: why there is no address of this family (RFC 8656 Section 18.12)."""

    family: int
    code: int
    reason: str = ""

    TYPE: ClassVar[int] = 0x8001

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> AddressErrorCode:
        code, reason = decode_error(value)
        return cls(value[0], code, reason)

    def encode(self, mask: bytes) -> bytes:
        return encode_error(self.family, self.code, self.reason)


@dataclass(frozen=True, slots=True)
class Icmp(Attribute):
    """ICMP: why a datagram did not arrive (RFC 8656 Section 18.13: 7 bits type, 9 bits code)."""

    icmp_type: int
    code: int
    error_data: int = 0

    TYPE: ClassVar[int] = 0x8004

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> Icmp:
        kind_and_code, error_data = _ICMP.unpack(value)
        return cls(kind_and_code >> 9, kind_and_code & 0x1FF, error_data)

    def encode(self, mask: bytes) -> bytes:
        if not (0 <= self.icmp_type <= 0x7F and 0 <= self.code <= 0x1FF):
            raise ValueError("an ICMP type has 7 bits here and a code 9")
        if not 0 <= self.error_data <= 0xFFFFFFFF:
            raise ValueError("ICMP error data has 32 bits")
        return _ICMP.pack(self.icmp_type << 9 | self.code, self.error_data)


@dataclass(frozen=True, slots=True)
class ConnectionId(Attribute):
    """CONNECTION-ID (RFC 6062 Section 6.2.1)."""

    value: int

    TYPE: ClassVar[int] = 0x002A

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> ConnectionId:
        return cls(decode_uint32(value))

    def encode(self, mask: bytes) -> bytes:
        return encode_uint32(self.value)
