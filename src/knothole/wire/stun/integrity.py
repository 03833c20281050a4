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


def integrity_of(text: bytes, key: bytes, *, sha256: bool = False) -> bytes:
    """The HMAC that an integrity attribute holds; ``text`` is what it is made over."""
    return hmac.digest(key, text, "sha256" if sha256 else "sha1")


def integrity_matches(message: bytes, at: int, key: bytes, *, sha256: bool = False) -> bool:
    """Whether the attribute at ``at`` holds the right HMAC, compared in constant time."""
    size = attribute_size(message, at)
    found = message[at + _ATTRIBUTE_HEADER_SIZE : at + _ATTRIBUTE_HEADER_SIZE + size]
    expected = integrity_of(text_before(message, at), key, sha256=sha256)
    return hmac.compare_digest(expected[:size], found)


def attribute_size(message: bytes, at: int) -> int:
    """The length that the attribute at ``at`` gives for its value."""
    return message[at + 2] << 8 | message[at + 3]


def text_before(message: bytes, at: int) -> bytes:
    """What integrity and fingerprint of an attribute at ``at`` are made over: all that stands
    before it, with the length in the header as if the message ended with that attribute."""
    length = at - _HEADER_SIZE + _ATTRIBUTE_HEADER_SIZE + attribute_size(message, at)
    return message[:2] + length.to_bytes(2, "big") + message[4:at]


def fingerprint(text: bytes) -> int:
    """The value of the FINGERPRINT attribute over ``text``."""
    return zlib.crc32(text) ^ _FINGERPRINT_XOR
