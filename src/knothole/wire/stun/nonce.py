"""What a server promises in the first 13 bytes of its nonces (RFC 8489 Sections 9.2 and 18.1)."""

from __future__ import annotations

import base64
import binascii
import enum
from typing import Final

NONCE_COOKIE_SIZE: Final = 13

_PREFIX = b"obMatJos2"


class SecurityFeature(enum.IntFlag):
    """A bit of the 24; bit 0 is the most significant one."""

    PASSWORD_ALGORITHMS = 1 << 23
    USERNAME_ANONYMITY = 1 << 22


def nonce_cookie(features: SecurityFeature) -> bytes:
    """The 13 bytes that a server puts before its own nonce; ``SecurityFeature(0)`` for none."""
    return _PREFIX + base64.b64encode(features.to_bytes(3, "big"))


def security_features(nonce: bytes) -> SecurityFeature | None:
    """What the server of ``nonce`` says it can do, None when the nonce has no cookie.

    A client that sees PASSWORD_ALGORITHMS here but no such attribute is being bid down, and stops
    (RFC 8489 Section 9.2.5).
    """
    if not nonce.startswith(_PREFIX) or len(nonce) < NONCE_COOKIE_SIZE:
        return None
    try:
        bits = base64.b64decode(nonce[len(_PREFIX) : NONCE_COOKIE_SIZE], validate=True)
    except binascii.Error:
        return None
    return SecurityFeature(int.from_bytes(bits, "big")) if len(bits) == 3 else None
