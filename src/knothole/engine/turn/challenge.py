"""The client's side of the long-term credential mechanism (RFC 8489 Sections 9.2.3 and 9.2.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from knothole.engine.turn.credentials import Credentials
from knothole.wire.stun import (
    Algorithm,
    Attribute,
    Message,
    MessageClass,
    Nonce,
    PasswordAlgorithm,
    PasswordAlgorithms,
    Realm,
    SecurityFeature,
    Userhash,
    Username,
    encode,
    long_term_key,
    security_features,
    userhash,
    verify_integrity,
    verify_integrity_sha256,
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a request was signed with."""

    credentials: Credentials
    realm: str
    key: bytes = field(repr=False)


class Challenged(Exception):
    """The server's challenge cannot be met; the text says why."""


class ChallengeResponder:
    """Signs requests as the server's last challenge wants it, and judges the answers."""

    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials
        self._renewed: Credentials | None = None
        self._keeps_username = False
        self._realm: Realm | None = None
        self._nonce: Nonce | None = None
        self._offered: PasswordAlgorithms | None = None
        self._chosen = PasswordAlgorithm(Algorithm.MD5)
        self._anonymous = False
        self._keys: dict[tuple[Credentials, str, int], bytes] = {}

    @property
    def has_signed(self) -> bool:
        """Whether there was a challenge, so that requests are signed since."""
        return self._nonce is not None

    def request(
        self,
        method: int,
        transaction_id: bytes,
        attributes: tuple[Attribute, ...],
        *,
        renewed: bool = False,
    ) -> tuple[bytes, Signature | None]:
        """An encoded request, signed as soon as there was a challenge, and its signature.

        ``renewed``: with the credentials of :meth:`renew`, if there are any and the server is not
        known to want the old username.
        """
        credentials, signature = self.credentials, None
        if renewed and self._renewed is not None and not self._keeps_username:
            credentials = self._renewed
        key = sha256_key = None
        if self._realm is not None and self._nonce is not None:
            realm = self._realm.value
            signature = Signature(credentials, realm, self._key(credentials, realm))
            identity = self._identity(credentials.username, realm)
            attributes = (*attributes, identity, self._realm, self._nonce)
            if self._offered is None:
                key = signature.key
            else:
                attributes = (*attributes, self._offered, self._chosen)
                sha256_key = signature.key
        message = Message(MessageClass.REQUEST, method, transaction_id, attributes)
        return encode(message, key=key, sha256_key=sha256_key), signature

    def learn(self, message: Message) -> None:
        """Take the challenge in a 401 or 438 response; later requests answer it.

        Raises Challenged when it must not be answered (RFC 8489 Section 9.2.5).
        """
        realm, nonce = message.get(Realm), message.get(Nonce)
        offered = message.get(PasswordAlgorithms)
        if nonce is None or (realm is None and self._realm is None):
            raise Challenged("the server asks for a signature without saying how")
        features = security_features(nonce.value) or SecurityFeature(0)
        if SecurityFeature.PASSWORD_ALGORITHMS in features and offered is None:
            raise Challenged("somebody has taken the password algorithms out of the answer")
        if offered is not None:
            self._chosen = _choose(offered)
        self._offered = offered
        self._realm, self._nonce = realm or self._realm, nonce
        self._anonymous = SecurityFeature.USERNAME_ANONYMITY in features

    def renew(self, credentials: Credentials) -> None:
        """Have ``credentials`` ready: the next request that may be signed with them tries them,
        and they are taken when the server refuses those in use.

        RFC 8656 Section 5 wants all requests for an allocation to come from the username that made
        it, and some servers insist (441); others end an allocation with the credential that made
        it. So one request tries, before the old ones expire.
        """
        self._renewed = credentials if credentials != self.credentials else None

    def accepted(self, signature: Signature | None) -> None:
        """A request with that ``signature`` was granted: credentials that it tried are in use."""
        if signature is not None and signature.credentials == self._renewed:
            self.credentials, self._renewed = self._renewed, None

    def was_a_try(self, signature: Signature | None) -> bool:
        """Whether a request that was refused with 441 tried renewed credentials: this server
        insists on the username, and they are not tried again."""
        if signature is None or signature.credentials == self.credentials:
            return False
        self._keeps_username = True
        return True

    def can_do_better(self, signature: Signature | None) -> bool:
        """Whether the next request says more than the one that was refused with 401 said.

        RFC 8489 Section 9.2.5: "MUST NOT perform this retry if it is not changing the USERNAME,
        USERHASH, REALM, or its associated password". Takes renewed credentials if that helps.
        """
        if signature is None or self._realm is None or signature.realm != self._realm.value:
            return True
        if signature.credentials == self._renewed:
            self._renewed = None  # they were tried too early, or are wrong
        elif signature.credentials == self.credentials and self._renewed is not None:
            self.credentials, self._renewed = self._renewed, None
        return signature.credentials != self.credentials

    def trusts(self, message: Message, signature: Signature | None) -> bool:
        """Whether a response to a request with that ``signature`` comes from the server.

        To an unsigned request anything does. Responses of 401 and 438 are not judged here.
        """
        nonce = message.get(Nonce)
        if nonce is not None and message.get(PasswordAlgorithms) is None:
            features = security_features(nonce.value) or SecurityFeature(0)
            if SecurityFeature.PASSWORD_ALGORITHMS in features:
                return False
        if signature is None:
            return True
        if message.has_integrity_sha256:
            return verify_integrity_sha256(message, signature.key)
        return verify_integrity(message, signature.key)

    def _identity(self, username: str, realm: str) -> Username | Userhash:
        return Userhash(userhash(username, realm)) if self._anonymous else Username(username)

    def _key(self, credentials: Credentials, realm: str) -> bytes:
        name = (credentials, realm, self._chosen.algorithm)
        key = self._keys.get(name)
        if key is None:
            algorithm = Algorithm(self._chosen.algorithm)
            username, password = credentials.username, credentials.password
            key = long_term_key(username, realm, password, algorithm)
            self._keys = {name: key}
        return key


def _choose(offered: PasswordAlgorithms) -> PasswordAlgorithm:
    """RFC 8656 Section 6 wants SHA-256 whenever it is offered, RFC 8489 the first that we know."""
    known = [each for each in offered.algorithms if each.algorithm in (*Algorithm,)]
    if not known:
        raise Challenged("the server wants a password algorithm that is not known here")
    return next((each for each in known if each.algorithm == Algorithm.SHA256), known[0])
