"""Third-party authorization (RFC 7635): users whom another server vouches for by a token."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from knothole.engine.core import RandomBytes
from knothole.engine.turn.credentials import User
from knothole.wire.malformed import MalformedMessage
from knothole.wire.oauth import (
    NONCE_SIZE,
    SealedToken,
    TokenContent,
    decode_content,
    decode_token,
    encode_content,
    encode_token,
)

CLOCK_SKEW: Final = 5.0
"""RFC 7635 Section 7 has a Delta between the clocks, and recommends this. Here a token may be so
much younger than now; none is good for longer than it says."""

COTURN_KEY_SIZE: Final = 16  # ours: coturn's client signs with so much of a key of 20 bytes

KEY_SIZES: Final = (16, 32)  # RFC 5116: AEAD_AES_128_GCM and AEAD_AES_256_GCM


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What an authorization server seals tokens for ``server_name`` with; ``kid`` names it."""

    kid: str
    key: bytes = field(repr=False)
    server_name: str


class TokenUsers:
    """Whoever shows a token that one of the ``keys`` opens, until the token expires.

    They have one owner, for a token does not say whose it is, and each token a quota of its own.
    ``unix_at_zero`` is as for :class:`~knothole.engine.turn.credentials.RestUsers`.
    """

    def __init__(self, keys: Sequence[TokenKey], unix_at_zero: float) -> None:
        self.unix_at_zero = unix_at_zero
        self.set_keys(keys)

    def set_keys(self, keys: Sequence[TokenKey]) -> None:
        """Have these count from now on, and no others. They are all for one server name."""
        self._keys = {each.kid: each for each in keys}
        self._ciphers = {each.kid: AESGCM(each.key) for each in keys}
        self.server_name = keys[0].server_name if keys else ""

    def knows(self, kid: str) -> bool:
        return kid in self._keys

    def user(self, kid: str, token: bytes, now: float) -> User | None:
        """Who shows ``token``, the value of ACCESS-TOKEN, beside the USERNAME ``kid`` at ``now``.

        None when it is malformed, forged, expired, or for another server.
        """
        key = self._keys.get(kid)
        if key is None:
            return None
        try:
            sealed = decode_token(token)
            block = self._ciphers[kid].decrypt(
                sealed.nonce, sealed.sealed, key.server_name.encode()
            )
            content = decode_content(block)
        except (MalformedMessage, InvalidTag):
            return None
        issued_at = content.issued_at - self.unix_at_zero
        valid_until = issued_at + content.lifetime_seconds
        if issued_at > now + CLOCK_SKEW or valid_until <= now:
            return None
        name = hashlib.sha256(content.mac_key).hexdigest()
        keys = (content.mac_key, content.mac_key[:COTURN_KEY_SIZE])
        return User(f" {key.server_name}", keys, valid_until, name)


def make_token(key: TokenKey, content: TokenContent, random: RandomBytes) -> bytes:
    """The value of ACCESS-TOKEN that an authorization server gives a client with ``content``."""
    nonce = random(NONCE_SIZE)
    sealed = AESGCM(key.key).encrypt(nonce, encode_content(content), key.server_name.encode())
    return encode_token(SealedToken(nonce, sealed))
