"""Nonces that need no memory: the server recognises its own (RFC 8489 Sections 9.2, 9.2.4)."""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac

from knothole.engine.turn.five_tuple import FiveTuple
from knothole.wire.stun import SecurityFeature, nonce_cookie

_TIME_SIZE = 4
_MAC_SIZE = 11  # 88 bits (RFC 2104 Section 5 wants 80), and what base64 does not pad


class Freshness(enum.Enum):
    """How a nonce stands to the moment at which it is shown."""

    FRESH = enum.auto()
    AGING = enum.auto()
    """Still good, but in the second half of its life."""
    STALE = enum.auto()
    """Too old, of another 5-tuple, or none of ours."""


class NonceMint:
    """Makes nonces for one 5-tuple each, and judges those that come back.

    ``key`` is a secret of this server, ``lifetime_seconds`` how long a nonce is good: RFC 8656
    Section 5 wants "at least once every hour". ``features`` is what their first bytes promise.
    """

    def __init__(
        self,
        key: bytes,
        lifetime_seconds: float,
        now: float,
        features: SecurityFeature = SecurityFeature.PASSWORD_ALGORITHMS,
    ) -> None:
        self._key, self._lifetime, self._zero = key, lifetime_seconds, now
        self._cookie = nonce_cookie(features)

    def mint(self, five_tuple: FiveTuple, now: float) -> bytes:
        """A NONCE value for requests on ``five_tuple`` from ``now`` on."""
        made = int(now - self._zero).to_bytes(_TIME_SIZE, "big")
        return self._cookie + base64.b64encode(made + self._mac(made, five_tuple))

    def judge(self, nonce: bytes, five_tuple: FiveTuple, now: float) -> Freshness:
        """What to think of ``nonce`` when a request on ``five_tuple`` brings it at ``now``."""
        if not nonce.startswith(self._cookie):
            return Freshness.STALE
        try:
            body = base64.b64decode(nonce[len(self._cookie) :], validate=True)
        except binascii.Error:
            return Freshness.STALE
        made, mac = body[:_TIME_SIZE], body[_TIME_SIZE:]
        if not hmac.compare_digest(mac, self._mac(made, five_tuple)):
            return Freshness.STALE
        age = now - self._zero - int.from_bytes(made, "big")
        if age >= self._lifetime:
            return Freshness.STALE
        return Freshness.AGING if age >= self._lifetime / 2 else Freshness.FRESH

    def _mac(self, made: bytes, five_tuple: FiveTuple) -> bytes:
        transport, client, server = five_tuple
        text = f"{transport.value} {client} {server} ".encode() + made
        # RFC 7693: "BLAKE2 can be directly keyed, making it functionally equivalent to a Message
        # Authentication Code (MAC)". It takes a third of an HMAC's time.
        return hashlib.blake2s(text, key=self._key, digest_size=_MAC_SIZE).digest()
