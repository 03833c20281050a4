"""The attributes of connectivity checks (RFC 8445 Section 16.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from knothole.wire.stun.attribute import (
    Attribute,
    FlagAttribute,
    decode_uint32,
    decode_uint64,
    encode_uint32,
    encode_uint64,
)


@dataclass(frozen=True, slots=True)
class Priority(Attribute):
    """PRIORITY: that of the peer-reflexive candidate which the check may discover."""

    value: int

    TYPE: ClassVar[int] = 0x0024

    @classmethod
    def decode(cls, value: bytes, mask: bytes) -> Priority:
        return cls(decode_uint32(value))

    def encode(self, mask: bytes) -> bytes:
        return encode_uint32(self.value)


@dataclass(frozen=True, slots=True)
class UseCandidate(FlagAttribute):
    """USE-CANDIDATE: this pair is nominated."""

    TYPE: ClassVar[int] = 0x0025


RoleT = TypeVar("RoleT", bound="_RoleAttribute")


@dataclass(frozen=True, slots=True)
class _RoleAttribute(Attribute):
    tie_breaker: int

    @classmethod
    def decode(cls: type[RoleT], value: bytes, mask: bytes) -> RoleT:
        return cls(decode_uint64(value))

    def encode(self, mask: bytes) -> bytes:
        return encode_uint64(self.tie_breaker)


@dataclass(frozen=True, slots=True)
class IceControlled(_RoleAttribute):
    """ICE-CONTROLLED, with the agent's 64-bit tie-breaker."""

    TYPE: ClassVar[int] = 0x8029


@dataclass(frozen=True, slots=True)
class IceControlling(_RoleAttribute):
    """ICE-CONTROLLING, with the agent's 64-bit tie-breaker."""

    TYPE: ClassVar[int] = 0x802A
