"""The shapes that STUN attribute values come in (RFC 8489 Section 14), one base class for each.

A concrete attribute names its type number and inherits its shape. ``mask`` is bytes 4 to 20 of the
message header, magic cookie and transaction ID, with which XOR'ed addresses are hidden.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import ClassVar, Final, TypeVar

from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage


class AddressFamily(enum.IntEnum):
    """RFC 8489 Section 14.1."""

    IPV4 = 0x01
    IPV6 = 0x02

    @classmethod
    def of(cls, address: Address) -> AddressFamily:
        """That of ``address``."""
        return cls.IPV6 if address.is_ipv6 else cls.IPV4


# RFC 8489 Sections 14.8-14.10, 14.14: "fewer than 128 characters (which can be as long as 509 bytes
# when encoding and as long as 763 bytes when decoding)".
MAX_CHARACTERS: Final = 127
MAX_TEXT_BYTES: Final = 763

ValueT = TypeVar("ValueT", bound="Attribute")

_UINT32 = struct.Struct("!I")
_UINT64 = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a message. Subclasses are values; ``TYPE`` is the number on the wire."""

    TYPE: ClassVar[int]

    @classmethod
    def decode(cls: type[ValueT], value: bytes, mask: bytes) -> ValueT:
        """The attribute whose unpadded value is ``value``; raises ValueError or struct.error."""
        raise NotImplementedError

    def encode(self, mask: bytes) -> bytes:
        """The unpadded value; raises ValueError when the attribute cannot be put on the wire."""
        raise NotImplementedError


AddressT = TypeVar("AddressT", bound="AddressAttribute")


@dataclass(frozen=True, slots=True)
class AddressAttribute(Attribute):
    """An address as it is (RFC 8489 Section 14.1)."""

    address: Address

    @classmethod
    def decode(cls: type[AddressT], value: bytes, mask: bytes) -> AddressT:
        return cls(_decode_address(value))

    def encode(self, mask: bytes) -> bytes:
        return _encode_address(self.address)


@dataclass(frozen=True, slots=True)
class XorAddressAttribute(AddressAttribute):
    """An address XOR'ed with the mask, so that no NAT rewrites it (RFC 8489 Section 14.2)."""

    @classmethod
    def decode(cls: type[AddressT], value: bytes, mask: bytes) -> AddressT:
        return cls(_decode_address(_xor_address(value, mask)))

    def encode(self, mask: bytes) -> bytes:
        return _xor_address(_encode_address(self.address), mask)


TextT = TypeVar("TextT", bound="TextAttribute")


@dataclass(frozen=True, slots=True)
class TextAttribute(Attribute):
    """UTF-8 text of fewer than 128 characters."""

    value: str

    @classmethod
    def decode(cls: type[TextT], value: bytes, mask: bytes) -> TextT:
        if len(value) > MAX_TEXT_BYTES:
            raise MalformedMessage(f"{cls.__name__} of {len(value)} bytes")
        return cls(value.decode())

    def encode(self, mask: bytes) -> bytes:
        if len(self.value) > MAX_CHARACTERS:
            raise ValueError(f"{type(self).__name__} of {len(self.value)} characters")
        return self.value.encode()


BytesT = TypeVar("BytesT", bound="BytesAttribute")


@dataclass(frozen=True, slots=True)
class BytesAttribute(Attribute):
    """Bytes whose meaning is not ours to judge."""

    value: bytes

    LENGTH: ClassVar[int | None] = None

    @classmethod
    def decode(cls: type[BytesT], value: bytes, mask: bytes) -> BytesT:
        if cls.LENGTH is not None and len(value) != cls.LENGTH:
            raise MalformedMessage(f"{cls.__name__} of {len(value)} bytes")
        return cls(value)

    def encode(self, mask: bytes) -> bytes:
        if self.LENGTH is not None and len(self.value) != self.LENGTH:
            raise ValueError(f"{type(self).__name__} of {len(self.value)} bytes")
        return self.value


FlagT = TypeVar("FlagT", bound="FlagAttribute")


@dataclass(frozen=True, slots=True)
class FlagAttribute(Attribute):
    """Says something by being there: no value."""

    @classmethod
    def decode(cls: type[FlagT], value: bytes, mask: bytes) -> FlagT:
        if value:
            raise MalformedMessage(f"{cls.__name__} with a value")
        return cls()

    def encode(self, mask: bytes) -> bytes:
        return b""


def encode_uint32(value: int) -> bytes:
    """Four bytes in network order; raises ValueError out of range."""
    if not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"{value} does not fit in 32 bits")
    return _UINT32.pack(value)


def decode_uint32(value: bytes) -> int:
    """The number in exactly four bytes; raises struct.error for any other length."""
    number: int = _UINT32.unpack(value)[0]
    return number


def encode_uint64(value: int) -> bytes:
    """Eight bytes in network order; raises ValueError out of range."""
    if not 0 <= value <= 0xFFFFFFFFFFFFFFFF:
        raise ValueError(f"{value} does not fit in 64 bits")
    return _UINT64.pack(value)


def decode_uint64(value: bytes) -> int:
    """The number in exactly eight bytes; raises struct.error for any other length."""
    number: int = _UINT64.unpack(value)[0]
    return number


def _decode_address(value: bytes) -> Address:
    if len(value) == 8 and value[1] == AddressFamily.IPV4:
        host = f"{value[4]}.{value[5]}.{value[6]}.{value[7]}"
    elif len(value) == 20 and value[1] == AddressFamily.IPV6:
        host = str(IPv6Address(value[4:]))
    else:
        raise MalformedMessage("an address of unknown family or wrong length")
    return Address(host, value[2] << 8 | value[3])


def _encode_address(address: Address) -> bytes:
    host, port = address
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"{port} is not a port number (0-65535)")
    if ":" in host:
        return b"\0\x02" + port.to_bytes(2, "big") + IPv6Address(host).packed
    packed = bytes(map(int, host.split(".")))  # canonical text, for which IPv4Address is too slow
    if len(packed) != 4:
        raise ValueError(f"{host} is not an IPv4 address")
    return b"\0\x01" + port.to_bytes(2, "big") + packed


def _xor_address(value: bytes, mask: bytes) -> bytes:
    """Family and reserved byte stay; the port meets the cookie's first half again."""
    if not 4 <= len(value) <= 20:
        raise MalformedMessage(f"an address of {len(value)} bytes")
    key = mask[:2] + mask[: len(value) - 4]
    hidden = int.from_bytes(value[2:], "big") ^ int.from_bytes(key, "big")
    return value[:2] + hidden.to_bytes(len(value) - 2, "big")
