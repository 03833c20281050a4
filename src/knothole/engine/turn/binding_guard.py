"""The TURN server's long-term credential mechanism for Binding requests (RFC 8489 Section 9.2)."""

from __future__ import annotations

from knothole.engine.core import Datagram, RandomBytes
from knothole.engine.stun.guard import Denied, Proof
from knothole.engine.turn.answer import REASONS, Refusal
from knothole.engine.turn.authentication import Doorkeeper
from knothole.engine.turn.credentials import Authenticator
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.nonce import NonceMint
from knothole.engine.turn.quota import GREATEST_NONCE_LIFETIME
from knothole.wire.stun import Message, SecurityFeature

_NONCE_KEY_SIZE = 32


class LongTermGuard:
    """A :class:`~knothole.engine.stun.guard.Guard` that asks the ``authenticator``."""

    def __init__(
        self, realm: str, authenticator: Authenticator, random: RandomBytes, now: float
    ) -> None:
        features = SecurityFeature.PASSWORD_ALGORITHMS
        if authenticator.knows_hashes:
            features |= SecurityFeature.USERNAME_ANONYMITY
        mint = NonceMint(random(_NONCE_KEY_SIZE), GREATEST_NONCE_LIFETIME, now, features)
        self._doorkeeper = Doorkeeper(realm, authenticator, mint)

    def admit(self, request: Message, datagram: Datagram, now: float) -> Proof:
        five_tuple = FiveTuple(datagram.transport, datagram.source, datagram.destination)
        try:
            requester = self._doorkeeper.admit(request, five_tuple, None, now)
        except Refusal as refusal:
            raise Denied(refusal.code, REASONS[refusal.code], *refusal.attributes) from None
        return Proof(requester.key, requester.sha256)
