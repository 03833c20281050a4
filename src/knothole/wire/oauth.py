"""Access tokens for STUN servers: the value of ACCESS-TOKEN and what is sealed in it (RFC 7635).

The outside has a nonce and a sealed block. The inside, once opened with the key that the
authorization server shares with the STUN server, has the key of the client and its life.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from knothole.wire.malformed import MalformedMessage

NONCE_SIZE: Final = 12  # RFC 5116 Section 5.3: AEAD_AES_256_GCM has nonces of 12 octets
TAG_SIZE: Final = 16  # RFC 5116 Section 5.3
LEAST_KEY_SIZE: Final = 20  # RFC 7635 Section 6.2: 160 bits, for HMAC-SHA-1
GREATEST_KEY_SIZE: Final = 64  # ours: what HMAC-SHA-256 takes without hashing it first

_LENGTH: Final = struct.Struct("!H")
_LIFE: Final = struct.Struct("!QI")
_LEAST_SEALED: Final = _LENGTH.size + LEAST_KEY_SIZE + _LIFE.size + TAG_SIZE
_GREATEST_SEALED: Final = _LENGTH.size + GREATEST_KEY_SIZE + _LIFE.size + TAG_SIZE
_FRACTIONS: Final = 64_000  # RFC 7635 Section 6.2: what the last 16 bits of a timestamp count


@dataclass(frozen=True, slots=True)
class SealedToken:
    """A token as it comes: ``sealed`` is the encrypted block with its tag."""

    nonce: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True)
class TokenContent:
    """What is in it: the key that the client signs with, when it was issued and for how long."""

    mac_key: bytes = field(repr=False)
    issued_at: float
    """UNIX time."""
    lifetime_seconds: int


def decode_token(value: bytes) -> SealedToken:
    """The token in an ACCESS-TOKEN attribute; every length that can be seen is right then.

    Raises MalformedMessage.
    """
    if len(value) < _LENGTH.size:
        raise MalformedMessage(f"an access token of {len(value)} bytes")
    (nonce_size,) = _LENGTH.unpack_from(value)
    sealed_size = len(value) - _LENGTH.size - nonce_size
    if nonce_size != NONCE_SIZE or not _LEAST_SEALED <= sealed_size <= _GREATEST_SEALED:
        raise MalformedMessage(f"an access token with {nonce_size} and {sealed_size} bytes")
    sealed_at = _LENGTH.size + nonce_size
    return SealedToken(value[_LENGTH.size : sealed_at], value[sealed_at:])


def encode_token(token: SealedToken) -> bytes:
    """The value of ACCESS-TOKEN; the inverse of :func:`decode_token`."""
    return _LENGTH.pack(len(token.nonce)) + token.nonce + token.sealed


def decode_content(block: bytes) -> TokenContent:
    """What an opened block says. Raises MalformedMessage when its lengths do not add up."""
    if len(block) < _LENGTH.size:
        raise MalformedMessage(f"an opened access token of {len(block)} bytes")
    (key_size,) = _LENGTH.unpack_from(block)
    life_at = _LENGTH.size + key_size
    if not LEAST_KEY_SIZE <= key_size <= GREATEST_KEY_SIZE or len(block) != life_at + _LIFE.size:
        raise MalformedMessage(f"a key of {key_size} bytes in an access token of {len(block)}")
    timestamp, lifetime = _LIFE.unpack_from(block, life_at)
    seconds, fraction = timestamp >> 16, timestamp & 0xFFFF
    return TokenContent(block[_LENGTH.size : life_at], seconds + fraction / _FRACTIONS, lifetime)


def encode_content(content: TokenContent) -> bytes:
    """The block to be sealed; the inverse of :func:`decode_content`."""
    seconds = int(content.issued_at)
    fraction = round((content.issued_at - seconds) * _FRACTIONS)
    life = _LIFE.pack(seconds << 16 | fraction, content.lifetime_seconds)
    return _LENGTH.pack(len(content.mac_key)) + content.mac_key + life
