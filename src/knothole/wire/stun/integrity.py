"""Keys and hashes of RFC 8489 Sections 9, 14.4 to 14.7, over bytes that are already framed."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
import zlib
from typing import Final

from knothole.wire.stun.attributes import Algorithm

INTEGRITY_SIZE: Final = 20  # RFC 8489 Section 14.5: HMAC-SHA1
INTEGRITY_SHA256_SIZE: Final = 32  # RFC 8489 Section 14.6
INTEGRITY_SHA256_LEAST: Final = 16  # ibid.: at least 16 bytes and a multiple of 4

_FINGERPRINT_XOR = 0x5354554E  # RFC 8489 Section 14.7
_ATTRIBUTE_HEADER_SIZE = 4
_HEADER_SIZE = 20


def short_term_key(password: str) -> bytes:
    """The HMAC key of a short-term credential (RFC 8489 Section 9.1.1)."""
    return opaque_string(password).encode()


def long_term_key(
    username: str, realm: str, password: str, algorithm: Algorithm = Algorithm.MD5
) -> bytes:
    """The HMAC key of a long-term credential (RFC 8489 Section 18.5.1)."""
    text = ":".join(map(opaque_string, (username, realm, password))).encode()
    if algorithm is Algorithm.SHA256:
        return hashlib.sha256(text).digest()
    return hashlib.md5(text, usedforsecurity=False).digest()


def userhash(username: str, realm: str) -> bytes:
    """The value of USERHASH (RFC 8489 Section 14.4)."""
    return hashlib.sha256(f"{opaque_string(username)}:{opaque_string(realm)}".encode()).digest()


def opaque_string(text: str) -> str:
    """``text`` prepared for comparison: spaces made plain, then NFC.

    Of RFC 8265 Section 4.2 these are the mapping rules; what it would refuse is let through, for a
    string that only one side can prepare matches nothing anyway.
    """
    if text.isascii():
        return text
    plain = "".join(" " if unicodedata.category(each) == "Zs" else each for each in text)
    return unicodedata.normalize("NFC", plain)


def message_integrity(message: bytes, at: int, key: bytes, *, sha256: bool = False) -> bytes:
    """The HMAC over what stands before ``at``, where the integrity attribute begins or will.

    The length in the header is taken as if the message ended with the attribute, at its full size
    or, in a received message, at the size it has there.
    """
    size = INTEGRITY_SHA256_SIZE if sha256 else INTEGRITY_SIZE
    if len(message) > at:
        size = attribute_size(message, at)
    text = _with_length(message, at, _ATTRIBUTE_HEADER_SIZE + size)
    return hmac.digest(key, text, "sha256" if sha256 else "sha1")


def integrity_matches(message: bytes, at: int, key: bytes, *, sha256: bool = False) -> bool:
    """Whether the attribute at ``at`` holds the right HMAC, compared in constant time."""
    size = attribute_size(message, at)
    found = message[at + _ATTRIBUTE_HEADER_SIZE : at + _ATTRIBUTE_HEADER_SIZE + size]
    expected = message_integrity(message, at, key, sha256=sha256)
    return hmac.compare_digest(expected[:size], found)


def attribute_size(message: bytes, at: int) -> int:
    """The length that the attribute at ``at`` gives for its value."""
    return message[at + 2] << 8 | message[at + 3]


def fingerprint(message: bytes, at: int) -> int:
    """The value of the FINGERPRINT attribute that begins, or will begin, at ``at``."""
    text = _with_length(message, at, _ATTRIBUTE_HEADER_SIZE + 4)
    return zlib.crc32(text) ^ _FINGERPRINT_XOR


def _with_length(message: bytes, at: int, attribute_size: int) -> bytes:
    length = at - _HEADER_SIZE + attribute_size
    return message[:2] + length.to_bytes(2, "big") + message[4:at]
