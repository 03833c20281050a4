"""Who may ask a STUN server, where not everybody may: the mechanisms of RFC 8489 Section 9.

The short-term one is here. The long-term one is that of the TURN server, which wraps it
(:mod:`knothole.engine.turn.binding_guard`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from knothole.engine.core import Datagram
from knothole.wire.stun import (
    Attribute,
    Message,
    Username,
    short_term_key,
    verify_integrity,
    verify_integrity_sha256,
)

_NOBODYS_KEY: Final = bytes(20)


class Denied(Exception):
    """The request is answered with an error that nobody signs."""

    def __init__(self, code: int, reason: str, *attributes: Attribute) -> None:
        super().__init__(code)
        self.code, self.reason, self.attributes = code, reason, attributes


@dataclass(frozen=True, slots=True)
class Proof:
    """How the answer to an admitted request is signed."""

    key: bytes = field(repr=False)
    sha256: bool


class Guard(Protocol):
    """Lets Binding requests in."""

    def admit(self, request: Message, datagram: Datagram, now: float) -> Proof:
        """The request came in ``datagram``. Raises Denied."""
        ...


class ShortTermGuard:
    """RFC 8489 Section 9.1.3: usernames with a password each, agreed on by other means."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._keys = {name: short_term_key(password) for name, password in passwords.items()}

    def admit(self, request: Message, datagram: Datagram, now: float) -> Proof:
        username = request.get(Username)
        sha256 = request.has_integrity_sha256
        if username is None or not (sha256 or request.has_integrity):
            raise Denied(400, "Bad Request")
        key = self._keys.get(username.value)
        verify = verify_integrity_sha256 if sha256 else verify_integrity
        # As much work for a stranger as for a wrong password.
        is_right = verify(request, _NOBODYS_KEY if key is None else key)
        if key is None or not is_right:
            raise Denied(401, "Unauthenticated")
        return Proof(key, sha256)
