"""The attributes of RFC 8489, and the one for those that nobody here knows."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Final

from knothole.wire.malformed import MalformedMessage
from knothole.wire.stun.attribute import (
    MAX_CHARACTERS,
    MAX_TEXT_BYTES,
    AddressAttribute,
    Attribute,
    BytesAttribute,
    TextAttribute,
    XorAddressAttribute,
)

MAX_USERNAME_BYTES: Final = 508  # RFC 8489 Section 14.3: "fewer than 509 bytes"

_ALGORITHM = struct.Struct("!HH")


class Algorithm(enum.IntEnum):
    """How a long-term password becomes a key (RFC 8489 Section 18.5)."""

    MD5 = 0x0001
    SHA256 = 0x0002


@dataclass(frozen=True, slots=True)
class MappedAddress(AddressAttribute):
    """MAPPED-ADDRESS, for RFC 3489 clients (RFC 8489 Section 14.1)."""

    TYPE: ClassVar[int] = 0x0001


@dataclass(frozen=True, slots=True)
class XorMappedAddress(XorAddressAttribute):
    """XOR-MAPPED-ADDRESS: our address as the other end saw it (RFC 8489 Section 14.2)."""

    TYPE: ClassVar[int] = 0x0020


@dataclass(frozen=True, slots=True)
class Username(TextAttribute):
    """USERNAME (RFC 8489 Section 14.3): up to 508 bytes of UTF-8, up to 763 when received."""

    TYPE: ClassVar[int] = 0x0006

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> Username:
        if len(value) > MAX_TEXT_BYTES:  # RFC 8489 Section 14.3: "763 or fewer octets", as before
            raise MalformedMessage(f"USERNAME of {len(value)} bytes")
        return cls(value.decode())

    def encode(self, mask: bytes) -> bytes:
        value = self.value.encode()
        if len(value) > MAX_USERNAME_BYTES:
            raise ValueError(f"USERNAME of {len(value)} bytes")
        return value


@dataclass(frozen=True, slots=True)
class Userhash(BytesAttribute):
    """USERHASH: the user name hidden from onlookers (RFC 8489 Section 14.4)."""

    TYPE: ClassVar[int] = 0x001E
    LENGTH: ClassVar[int | None] = 32


@dataclass(frozen=True, slots=True)
class Realm(TextAttribute):
    """REALM (RFC 8489 Section 14.9)."""

    TYPE: ClassVar[int] = 0x0014


@dataclass(frozen=True, slots=True)
class Nonce(BytesAttribute):
    """NONCE (RFC 8489 Section 14.10); bytes, because it is handed back exactly as it came."""

    TYPE: ClassVar[int] = 0x0015

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> Nonce:
        if len(value) > MAX_TEXT_BYTES:
            raise MalformedMessage(f"NONCE of {len(value)} bytes")
        return cls(value)


@dataclass(frozen=True, slots=True)
class PasswordAlgorithm(Attribute):
    """PASSWORD-ALGORITHM: the one that the client took (RFC 8489 Section 14.12)."""

    algorithm: int
    parameters: bytes = b""

    TYPE: ClassVar[int] = 0x001D

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> PasswordAlgorithm:
        algorithms = _decode_algorithms(value)
        if len(algorithms) != 1:
            raise MalformedMessage(f"PASSWORD-ALGORITHM with {len(algorithms)} algorithms")
        return algorithms[0]

    def encode(self, mask: bytes) -> bytes:
        return _encode_algorithms((self,))


@dataclass(frozen=True, slots=True)
class PasswordAlgorithms(Attribute):
    """PASSWORD-ALGORITHMS: what the server takes, best first (RFC 8489 Section 14.11)."""

    algorithms: tuple[PasswordAlgorithm, ...]

    TYPE: ClassVar[int] = 0x8002

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> PasswordAlgorithms:
        return cls(_decode_algorithms(value))

    def encode(self, mask: bytes) -> bytes:
        return _encode_algorithms(self.algorithms)


@dataclass(frozen=True, slots=True)
class ErrorCode(Attribute):
    """ERROR-CODE: 300 to 699, and a reason for people (RFC 8489 Section 14.8)."""

    code: int
    reason: str = ""

    TYPE: ClassVar[int] = 0x0009

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> ErrorCode:
        return cls(*decode_error(value))

    def encode(self, mask: bytes) -> bytes:
        return encode_error(0, self.code, self.reason)


@dataclass(frozen=True, slots=True)
class UnknownAttributes(Attribute):
    """UNKNOWN-ATTRIBUTES: the types a 420 complains of (RFC 8489 Section 14.13)."""

    types: tuple[int, ...]

    TYPE: ClassVar[int] = 0x000A

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> UnknownAttributes:
        return cls(struct.unpack(f"!{len(value) // 2}H", value))

    def encode(self, mask: bytes) -> bytes:
        if not all(0 <= kind <= 0xFFFF for kind in self.types):
            raise ValueError("an attribute type has 16 bits")
        return struct.pack(f"!{len(self.types)}H", *self.types)


@dataclass(frozen=True, slots=True)
class Software(TextAttribute):
    """SOFTWARE (RFC 8489 Section 14.14)."""

    TYPE: ClassVar[int] = 0x8022


@dataclass(frozen=True, slots=True)
class AlternateServer(AddressAttribute):
    """ALTERNATE-SERVER: try there (RFC 8489 Section 14.15)."""

    TYPE: ClassVar[int] = 0x8023


@dataclass(frozen=True, slots=True)
class AlternateDomain(Attribute):
    """ALTERNATE-DOMAIN: whose certificate the alternate server shows (RFC 8489 Section 14.16)."""

    value: str

    TYPE: ClassVar[int] = 0x8003

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> AlternateDomain:
        if len(value) > 255:
            raise MalformedMessage(f"ALTERNATE-DOMAIN of {len(value)} bytes")
        return cls(value.decode())

    def encode(self, mask: bytes) -> bytes:
        value = self.value.encode()
        if len(value) > 255:
            raise ValueError(f"ALTERNATE-DOMAIN of {len(value)} bytes")
        return value


@dataclass(frozen=True, slots=True)
class UnknownAttribute(Attribute):
    """An attribute that has no class here, or an optional one with a value that makes no sense."""

    type: int
    value: bytes

    @property
    def required(self) -> bool:
        """Whether it must be understood (RFC 8489 Section 14: types below 0x8000)."""
        return self.type < 0x8000

    def encode(self, mask: bytes) -> bytes:
        if not 0 <= self.type <= 0xFFFF:
            raise ValueError("an attribute type has 16 bits")
        return self.value


def encoded(attribute: Attribute) -> UnknownAttribute:
    """The same with its value encoded already: for one that is sent again and again, and has no
    address in it."""
    return UnknownAttribute(attribute.TYPE, attribute.encode(b""))


def decode_error(value: bytes) -> tuple[int, str]:
    """Code and reason from a 4-byte head and text, as much of it as the RFC allows.

    What reserved bits hold does not matter.
    """
    if len(value) < 4:
        raise MalformedMessage("an error code of less than four bytes")
    hundreds, number = value[2] & 0x07, value[3]
    if not 3 <= hundreds <= 6 or number > 99:
        raise MalformedMessage(f"error class {hundreds}, number {number}")
    return hundreds * 100 + number, value[4:].decode(errors="replace")[:MAX_CHARACTERS]


def encode_error(first_byte: int, code: int, reason: str) -> bytes:
    """The head with code, and the reason cut to what the RFC allows."""
    if not 300 <= code <= 699:
        raise ValueError(f"{code} is not an error code (300-699)")
    head = bytes((first_byte, 0, code // 100, code % 100))
    return head + reason[:MAX_CHARACTERS].encode()


def _decode_algorithms(value: bytes) -> tuple[PasswordAlgorithm, ...]:
    # Every request of a client has the same few bytes; others are rare, and as long as they like.
    return _decode_short_algorithms(value) if len(value) <= 16 else _read_algorithms(value)


def _read_algorithms(value: bytes) -> tuple[PasswordAlgorithm, ...]:
    found = []
    at = 0
    while at < len(value):
        number, length = _ALGORITHM.unpack_from(value, at)
        parameters = value[at + 4 : at + 4 + length]
        if len(parameters) != length:
            raise MalformedMessage("password algorithm parameters are cut off")
        found.append(PasswordAlgorithm(number, parameters))
        at += 4 + length + -length % 4
    return tuple(found)


_decode_short_algorithms = lru_cache(64)(_read_algorithms)


def _encode_algorithms(algorithms: tuple[PasswordAlgorithm, ...]) -> bytes:
    parts = []
    for each in algorithms:
        if not 0 <= each.algorithm <= 0xFFFF or len(each.parameters) > 0xFFFF:
            raise ValueError("a password algorithm has 16 bits, and its parameters' length too")
        parts.append(_ALGORITHM.pack(each.algorithm, len(each.parameters)))
        parts.append(each.parameters + bytes(-len(each.parameters) % 4))
    return b"".join(parts)
