"""Who may use a relay: credentials, and what a server knows of them (RFC 8489 Section 9.2)."""

from __future__ import annotations

import base64
import hmac
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from knothole.wire.stun import Algorithm, long_term_key, userhash

DEFAULT_SEPARATOR: Final = ":"
DEVICE_SEPARATOR: Final = "/"  # ours: NAME/DEVICE is the user NAME


@dataclass(frozen=True, slots=True)
class Credentials:
    """A long-term credential as a client holds it."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class User:
    """Who is behind a username.

    ``owner`` is whose quota counts, and who may refresh an allocation: several usernames may have
    one owner, as renewed REST credentials do. ``keys`` are the long-term keys of which a request
    must be signed with one, good until ``valid_until`` on the engine's clock. Of users who show a
    token, ``token_name`` tells one token from another; they sign with its key as it is.
    """

    owner: str
    keys: tuple[bytes, ...] = field(repr=False)
    valid_until: float = math.inf
    token_name: str = ""


class Authenticator(Protocol):
    """What a server asks to tell its users apart."""

    def user(self, username: str, algorithm: Algorithm, now: float) -> User | None:
        """Who ``username`` is at ``now``, or None for a stranger."""
        ...

    def valid_until(self, username: str, now: float) -> float | None:
        """When on the engine's clock ``username`` stops being good, None when it has or never was.

        The answer may change: the operator removes a user, or the wall clock is corrected.
        """
        ...

    def username_of(self, hashed: bytes) -> str | None:
        """Whose USERHASH this is (RFC 8489 Section 14.4), if that can be told."""
        ...

    @property
    def knows_hashes(self) -> bool:
        """Whether :meth:`username_of` can tell for every user, so that clients may be invited to
        hide their names."""
        ...


class LongTermUsers:
    """Users with a password each. Only the keys are kept (RFC 8656 Section 6)."""

    def __init__(self, realm: str, passwords: Mapping[str, str]) -> None:
        self._users = {
            (name, algorithm): User(name, (long_term_key(name, realm, password, algorithm),))
            for name, password in passwords.items()
            for algorithm in Algorithm
        }
        self._names = {userhash(name, realm): name for name in passwords}

    def user(self, username: str, algorithm: Algorithm, now: float) -> User | None:
        return self._users.get((username, algorithm))

    def valid_until(self, username: str, now: float) -> float | None:
        return math.inf if (username, Algorithm.MD5) in self._users else None

    def username_of(self, hashed: bytes) -> str | None:
        return self._names.get(hashed)

    @property
    def knows_hashes(self) -> bool:
        return True


class RestUsers:
    """Users with credentials made by :func:`rest_credentials`, known until those expire.

    ``secrets`` are all good at once, so that a new one can be brought in before the old one goes.
    ``unix_at_zero`` is the UNIX time at which the engine's ``now`` was 0; it may be set anew when
    the wall clock is corrected. The owner is NAME, up to a "/" in it: what follows that tells one
    user's devices apart.
    """

    def __init__(
        self,
        realm: str,
        secrets: Sequence[str | bytes],
        unix_at_zero: float,
        separator: str = DEFAULT_SEPARATOR,
    ) -> None:
        if not separator:
            raise ValueError("REST credentials need a separator")
        self.unix_at_zero = unix_at_zero
        self._realm, self._separator = realm, separator
        self.set_secrets(secrets)

    def set_secrets(self, secrets: Sequence[str | bytes]) -> None:
        """Know credentials made of other ``secrets`` from now on.

        Raises ValueError when one is empty or there is none.
        """
        if not secrets or not all(secrets):
            raise ValueError("REST credentials need secrets that are not empty")
        self._secrets = tuple(secrets)

    def user(self, username: str, algorithm: Algorithm, now: float) -> User | None:
        valid_until = self.valid_until(username, now)
        if valid_until is None:
            return None
        keys = tuple(
            long_term_key(username, self._realm, _rest_password(secret, username), algorithm)
            for secret in self._secrets
        )
        # With the separator in front, an owner of this kind is never one of another kind.
        owner = rest_name(username, self._separator).partition(DEVICE_SEPARATOR)[0]
        return User(self._separator + owner, keys, valid_until)

    def valid_until(self, username: str, now: float) -> float | None:
        expiry = rest_expiry(username, self._separator)
        if expiry is None or expiry <= self.unix_at_zero + now:
            return None
        return expiry - self.unix_at_zero

    def username_of(self, hashed: bytes) -> str | None:
        return None  # nobody is known before showing a name

    @property
    def knows_hashes(self) -> bool:
        return False


class AnyOf:
    """Users of several kinds: the first authenticator that knows a username decides."""

    def __init__(self, *authenticators: Authenticator) -> None:
        self._authenticators = authenticators

    def user(self, username: str, algorithm: Algorithm, now: float) -> User | None:
        for authenticator in self._authenticators:
            user = authenticator.user(username, algorithm, now)
            if user is not None:
                return user
        return None

    def valid_until(self, username: str, now: float) -> float | None:
        for authenticator in self._authenticators:
            valid_until = authenticator.valid_until(username, now)
            if valid_until is not None:
                return valid_until
        return None

    def username_of(self, hashed: bytes) -> str | None:
        for authenticator in self._authenticators:
            username = authenticator.username_of(hashed)
            if username is not None:
                return username
        return None

    @property
    def knows_hashes(self) -> bool:
        return all(each.knows_hashes for each in self._authenticators)


def rest_credentials(
    secret: str | bytes,
    name: str,
    lifetime_seconds: float,
    now_unix: float,
    separator: str = DEFAULT_SEPARATOR,
) -> Credentials:
    """Credentials that a server with ``secret`` accepts for ``lifetime_seconds`` from ``now_unix``.

    The form is that of draft-uberti-behave-turn-rest-00 Section 2.2, which coturn's
    ``use-auth-secret`` takes too: username ``EXPIRY:NAME``, password its HMAC-SHA1 in base64.
    """
    username = f"{int(now_unix + lifetime_seconds)}{separator}{name}"
    return Credentials(username, _rest_password(secret, username))


def rest_expiry(username: str, separator: str = DEFAULT_SEPARATOR) -> int | None:
    """The UNIX time until which ``username`` is good, or None when it is not of the REST form."""
    digits = username.partition(separator)[0]
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 15:
        return None
    return int(digits)


def rest_name(username: str, separator: str = DEFAULT_SEPARATOR) -> str:
    """The name inside a REST username, empty when it has none."""
    return username.partition(separator)[2]


def _rest_password(secret: str | bytes, username: str) -> str:
    key = secret.encode() if isinstance(secret, str) else secret
    return base64.b64encode(hmac.digest(key, username.encode(), "sha1")).decode()
