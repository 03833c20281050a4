"""The attributes of NAT behaviour discovery (RFC 5780) and of classic STUN (RFC 3489)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun.attribute import (
    AddressAttribute,
    Attribute,
    BytesAttribute,
    decode_uint32,
    encode_uint32,
)

_CHANGE_IP = 0x04  # RFC 5780 Section 7.2
_CHANGE_PORT = 0x02

_PORT = struct.Struct("!H")


@dataclass(frozen=True, slots=True)
class ChangeRequest(Attribute):
    """CHANGE-REQUEST: answer from the other address, the other port (RFC 5780 Section 7.2)."""

    change_ip: bool = False
    change_port: bool = False

    TYPE: ClassVar[int] = 0x0003

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> ChangeRequest:
        flags = decode_uint32(value)
        return cls(bool(flags & _CHANGE_IP), bool(flags & _CHANGE_PORT))

    def encode(self, mask: bytes) -> bytes:
        return encode_uint32(_CHANGE_IP * self.change_ip | _CHANGE_PORT * self.change_port)


@dataclass(frozen=True, slots=True)
class ResponseOrigin(AddressAttribute):
    """RESPONSE-ORIGIN: where the answer was sent from (RFC 5780 Section 7.3)."""

    TYPE: ClassVar[int] = 0x802B


@dataclass(frozen=True, slots=True)
class OtherAddress(AddressAttribute):
    """OTHER-ADDRESS: where CHANGE-REQUEST would be answered from (RFC 5780 Section 7.4)."""

    TYPE: ClassVar[int] = 0x802C


@dataclass(frozen=True, slots=True)
class Padding(Attribute):
    """PADDING: ``length`` bytes of no meaning (RFC 5780 Section 7.6)."""

    length: int

    TYPE: ClassVar[int] = 0x0026

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> Padding:
        return cls(len(value))

    def encode(self, mask: bytes) -> bytes:
        return bytes(self.length)


@dataclass(frozen=True, slots=True)
class ResponsePort(Attribute):
    """RESPONSE-PORT: answer to this port (RFC 5780 Section 7.5).

    Written with the two bytes of padding inside the value, read either way.
    """

    port: int

    TYPE: ClassVar[int] = 0x0027

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> ResponsePort:
        if len(value) not in (2, 4):
            raise MalformedMessage(f"RESPONSE-PORT of {len(value)} bytes")
        return cls(_PORT.unpack_from(value)[0])

    def encode(self, mask: bytes) -> bytes:
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"{self.port} is not a port number (0-65535)")
        return _PORT.pack(self.port) + b"\0\0"


@dataclass(frozen=True, slots=True)
class CacheTimeout(Attribute):
    """CACHE-TIMEOUT: how long the server remembers a transaction (RFC 5780 Section 9.1)."""

    seconds: int

    TYPE: ClassVar[int] = 0x8027

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> CacheTimeout:
        return cls(decode_uint32(value))

    def encode(self, mask: bytes) -> bytes:
        return encode_uint32(self.seconds)


@dataclass(frozen=True, slots=True)
class ResponseAddress(AddressAttribute):
    """RESPONSE-ADDRESS (RFC 3489 Section 11.2.2): an invitation to reflect, never followed."""

    TYPE: ClassVar[int] = 0x0002


@dataclass(frozen=True, slots=True)
class SourceAddress(AddressAttribute):
    """SOURCE-ADDRESS (RFC 3489 Section 11.2.5), today RESPONSE-ORIGIN."""

    TYPE: ClassVar[int] = 0x0004


@dataclass(frozen=True, slots=True)
class ChangedAddress(AddressAttribute):
    """CHANGED-ADDRESS (RFC 3489 Section 11.2.3), today OTHER-ADDRESS."""

    TYPE: ClassVar[int] = 0x0005


@dataclass(frozen=True, slots=True)
class Password(BytesAttribute):
    """PASSWORD (RFC 3489 Section 11.2.7); nobody sends it any more."""

    TYPE: ClassVar[int] = 0x0007


@dataclass(frozen=True, slots=True)
class ReflectedFrom(AddressAttribute):
    """REFLECTED-FROM (RFC 3489 Section 11.2.11)."""

    TYPE: ClassVar[int] = 0x000B
