"""Username fragments and passwords of connectivity checks (RFC 8445 Sections 5.3 and 7.2.2)."""

from __future__ import annotations

import base64
import string
from dataclasses import dataclass, field
from typing import Final

from knothole.engine.core import RandomBytes

# RFC 8839 Section 5.4: ice-ufrag = 4*256ice-char, ice-pwd = 22*256ice-char.
MIN_UFRAG_CHARACTERS: Final = 4
MIN_PASSWORD_CHARACTERS: Final = 22
MAX_CHARACTERS: Final = 256

# RFC 8445 Section 5.3: "at least 128 bits ... to generate the password, and at least 24 bits of
# output to generate the username fragment". Multiples of 3, so that base64 needs no padding.
UFRAG_BYTES: Final = 6
PASSWORD_BYTES: Final = 18

ICE_CHARACTERS: Final = frozenset(string.ascii_letters + string.digits + "+/")


@dataclass(frozen=True, slots=True)
class IceCredentials:
    """One agent's username fragment and password for one ICE session.

    Raises ValueError for text that RFC 8839 Section 5.4 does not allow.
    """

    ufrag: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        _check("username fragment", self.ufrag, MIN_UFRAG_CHARACTERS)
        _check("password", self.password, MIN_PASSWORD_CHARACTERS)

    @property
    def key(self) -> bytes:
        """The MESSAGE-INTEGRITY key: the password as it is (RFC 8489 Section 9.1.1)."""
        return self.password.encode()


def generate_credentials(random: RandomBytes) -> IceCredentials:
    """Fresh credentials: 48 bits of username fragment, 144 bits of password."""
    return IceCredentials(
        ufrag=base64.b64encode(random(UFRAG_BYTES)).decode(),
        password=base64.b64encode(random(PASSWORD_BYTES)).decode(),
    )


def check_username(sender: IceCredentials, receiver: IceCredentials) -> str:
    """The USERNAME of a check: the receiver's fragment first (RFC 8445 Section 7.2.2)."""
    return f"{receiver.ufrag}:{sender.ufrag}"


def split_username(username: str) -> tuple[str, str] | None:
    """The receiver's and the sender's fragment of a check's USERNAME; None when it is not one."""
    receiver, colon, sender = username.partition(":")
    return (receiver, sender) if colon else None


def _check(what: str, text: str, minimum: int) -> None:
    if not minimum <= len(text) <= MAX_CHARACTERS:
        raise ValueError(f"an ICE {what} has {minimum} to {MAX_CHARACTERS} characters")
    if not ICE_CHARACTERS.issuperset(text):
        raise ValueError(f"an ICE {what} has only letters, digits, + and /")
