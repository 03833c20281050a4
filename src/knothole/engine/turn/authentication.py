"""The server's side of the long-term credential mechanism (RFC 8489 Section 9.2.4)."""

from __future__ import annotations

import math
from typing import Final

from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.answer import Refusal, Requester
from knothole.engine.turn.credentials import Authenticator, User
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.nonce import Freshness, NonceMint
from knothole.engine.turn.server_events import EndReason
from knothole.engine.turn.tokens import TokenUsers
from knothole.wire.stun import (
    AccessToken,
    Algorithm,
    Message,
    Method,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    ThirdPartyAuthorization,
    Userhash,
    Username,
    encoded,
    verify_integrity,
    verify_integrity_sha256,
)

# "in preferential order", and RFC 8656 Section 6 wants SHA-256 of who has both.
PASSWORD_ALGORITHMS: Final = PasswordAlgorithms(
    (PasswordAlgorithm(Algorithm.SHA256), PasswordAlgorithm(Algorithm.MD5))
)
_OFFER: Final = encoded(PASSWORD_ALGORITHMS)


class Doorkeeper:
    """Lets requests in that one of the users signed.

    ``revoked`` are the owners that the operator has shut out: nobody knows them any more.
    """

    def __init__(
        self,
        realm: str,
        authenticator: Authenticator,
        mint: NonceMint,
        tokens: TokenUsers | None = None,
    ) -> None:
        self.revoked: set[str] = set()
        self._realm, self._tokens = encoded(Realm(realm)), tokens
        self._authenticator, self._mint = authenticator, mint
        self._nobody = User("", (bytes(32),), -math.inf)

    @property
    def takes_tokens(self) -> bool:
        """Whether clients may show tokens (RFC 7635)."""
        return self._tokens is not None and bool(self._tokens.server_name)

    def admit(
        self,
        message: Message,
        five_tuple: FiveTuple,
        maker: Requester | None,
        now: float,
        control: FiveTuple | None = None,
    ) -> Requester:
        """Who sent the request ``message``; the checks and their order are those of the RFC.

        Every request is judged by what is known of its user at that moment, or since the last
        :meth:`recheck`: a credential that has expired or was revoked is nobody's, on a live
        allocation too. ``maker`` is who made the allocation that it is for, if there is one: a
        token need not be shown with every request. ``control`` is the connection whose nonces the
        client may use as well.

        Raises Refusal: 400, 401 or 438.
        """
        if not (message.has_integrity or message.has_integrity_sha256):
            raise self._challenge(401, five_tuple, now)
        nonce = message.get(Nonce)
        if message.get(Realm) is None or nonce is None:
            raise Refusal(400)
        username = self._username(message)
        algorithm, legacy = _algorithm(message)
        user = self._again(username, algorithm, maker, now)
        key = None if user is None else _signing_key(message, user)
        if key is None:
            user = self._user(message, username, algorithm, maker, now)
            if user is None or user.owner in self.revoked:
                user = self._nobody  # as much work for a stranger as for a wrong password
            key = _signing_key(message, user)
        if user is None or user is self._nobody or key is None:
            raise self._challenge(401, five_tuple, now)
        freshness = self._mint.judge(nonce.value, five_tuple, now)
        if control is not None and freshness is Freshness.STALE:
            freshness = self._mint.judge(nonce.value, control, now)
        # Ours: a Refresh changes the nonce early, so that the permission for a call, which is in
        # a hurry, does not meet a stale one.
        if freshness is Freshness.STALE or (
            freshness is Freshness.AGING and message.method == Method.REFRESH
        ):
            raise self._challenge(438, five_tuple, now)
        sha256 = message.has_integrity_sha256 if user.token_name else not legacy
        return Requester(
            username, user.owner, algorithm, key, user.valid_until, sha256, user.token_name
        )

    def recheck(self, allocations: Allocations, now: float) -> None:
        """End those whose credentials are good no more; the others end when theirs do."""
        for allocation in tuple(allocations.by_relayed.values()):
            valid_until = self.valid_until(allocation.requester, now)
            if valid_until is None:
                allocations.end(allocation, EndReason.CREDENTIALS, now)
            else:
                allocations.vouch(allocation, valid_until, now)

    def valid_until(self, requester: Requester, now: float) -> float | None:
        """Until when the credential of ``requester`` is good, as things are now; None: no more."""
        if requester.token_name:
            known = self._tokens is not None and self._tokens.knows(requester.username)
            good = known and requester.owner not in self.revoked and requester.valid_until > now
            return requester.valid_until if good else None
        user = self._authenticator.user(requester.username, requester.algorithm, now)
        if user is None or user.owner in self.revoked or requester.key not in user.keys:
            return None
        return user.valid_until

    def _again(
        self, username: str, algorithm: Algorithm, maker: Requester | None, now: float
    ) -> User | None:
        """``maker``, if it is that one again, with the key that is known from the last time: to
        make it out of a secret takes as long as all else. None: it is to be found out anew.

        A key that is good no more is no allocation's, since the last :meth:`recheck`.
        """
        if (
            maker is None
            or maker.username != username
            or maker.algorithm is not algorithm
            or maker.token_name
            or maker.owner in self.revoked
        ):
            return None
        valid_until = self._authenticator.valid_until(username, now)
        return None if valid_until is None else User(maker.owner, (maker.key,), valid_until)

    def _user(
        self,
        message: Message,
        username: str,
        algorithm: Algorithm,
        maker: Requester | None,
        now: float,
    ) -> User | None:
        token = message.get(AccessToken)
        if token is not None and self._tokens is not None and self.takes_tokens:
            return self._tokens.user(username, token.value, now)
        if maker is not None and maker.token_name and maker.username == username:
            valid_until = self.valid_until(maker, now)
            if valid_until is None:
                return None
            return User(maker.owner, (maker.key,), valid_until, maker.token_name)
        return self._authenticator.user(username, algorithm, now)

    def _username(self, message: Message) -> str:
        """RFC 8489 Section 9.2.4: from USERNAME or USERHASH; "" when the hash is nobody's."""
        username, hashed = message.get(Username), message.get(Userhash)
        if username is not None:
            return username.value
        if hashed is None:
            raise Refusal(400)
        return self._authenticator.username_of(hashed.value) or ""

    def _challenge(self, code: int, five_tuple: FiveTuple, now: float) -> Refusal:
        nonce = Nonce(self._mint.mint(five_tuple, now))
        refusal = Refusal(code, self._realm, nonce, _OFFER)
        if self._tokens is not None and self.takes_tokens:
            refusal.attributes += (ThirdPartyAuthorization(self._tokens.server_name),)
        return refusal


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
