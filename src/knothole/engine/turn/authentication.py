"""The server's side of the long-term credential mechanism (RFC 8489 Section 9.2.4)."""

from __future__ import annotations

from typing import Final

from knothole.engine.turn.answer import Refusal, Requester
from knothole.engine.turn.credentials import Authenticator, User
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.nonce import Freshness, NonceMint
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.wire.stun import (
    Algorithm,
    Message,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    Userhash,
    Username,
    verify_integrity,
    verify_integrity_sha256,
)

# "in preferential order", and RFC 8656 Section 6 wants SHA-256 of who has both.
PASSWORD_ALGORITHMS: Final = PasswordAlgorithms(
    (PasswordAlgorithm(Algorithm.SHA256), PasswordAlgorithm(Algorithm.MD5))
)


class Doorkeeper:
    """Lets requests in that one of the users signed."""

    def __init__(self, realm: str, authenticator: Authenticator, mint: NonceMint) -> None:
        self._realm = Realm(realm)
        self._authenticator, self._mint = authenticator, mint

    def admit(
        self,
        message: Message,
        five_tuple: FiveTuple,
        allocation: ServerAllocation | None,
        now: float,
    ) -> Requester:
        """Who sent the request ``message``; the checks and their order are those of the RFC.

        A request on an ``allocation`` by the username that made it is verified with the key kept
        in it, whatever became of the username since (RFC 8656 Section 6): a call outlives the
        short-lived credential that it began with.

        Raises Refusal: 400, 401 or 438.
        """
        if not (message.has_integrity or message.has_integrity_sha256):
            raise self._challenge(401, five_tuple, now)
        username, nonce = message.get(Username), message.get(Nonce)
        if message.get(Realm) is None or nonce is None:
            raise Refusal(400)
        if username is None:
            if message.get(Userhash) is None:
                raise Refusal(400)
            # Our nonces do not offer "username anonymity", so it is nobody's.
            raise self._challenge(401, five_tuple, now)
        algorithm, legacy = _algorithm(message)
        user = self._user(username.value, algorithm, allocation, now)
        key = None if user is None else _signing_key(message, user)
        if user is None or key is None:
            raise self._challenge(401, five_tuple, now)
        freshness = self._mint.judge(nonce.value, five_tuple, now)
        # Ours: a Refresh changes the nonce early, so that the permission for a call, which is in
        # a hurry, does not meet a stale one.
        if freshness is Freshness.STALE or (
            freshness is Freshness.AGING and message.method == Method.REFRESH
        ):
            raise self._challenge(438, five_tuple, now)
        return Requester(username.value, user.owner, algorithm, key, not legacy)

    def _user(
        self, username: str, algorithm: Algorithm, allocation: ServerAllocation | None, now: float
    ) -> User | None:
        if allocation is not None:
            maker = allocation.requester
            if maker.username == username and maker.algorithm is algorithm:
                return User(maker.owner, (maker.key,))
        return self._authenticator.user(username, algorithm, now)

    def _challenge(self, code: int, five_tuple: FiveTuple, now: float) -> Refusal:
        nonce = Nonce(self._mint.mint(five_tuple, now))
        return Refusal(code, self._realm, nonce, PASSWORD_ALGORITHMS)


def _algorithm(message: Message) -> tuple[Algorithm, bool]:
    """The password algorithm of a request, and whether it knows of no choice (RFC 5389)."""
    offered, chosen = message.get(PasswordAlgorithms), message.get(PasswordAlgorithm)
    if offered is None and chosen is None:
        return Algorithm.MD5, True
    if chosen is None or chosen not in PASSWORD_ALGORITHMS.algorithms:
        raise Refusal(400)
    if offered != PASSWORD_ALGORITHMS:
        raise Refusal(400)  # somebody on the way has changed our offer: Section 9.2.1
    return Algorithm(chosen.algorithm), False


def _signing_key(message: Message, user: User) -> bytes | None:
    verify = verify_integrity_sha256 if message.has_integrity_sha256 else verify_integrity
    return next((key for key in user.keys if verify(message, key)), None)
