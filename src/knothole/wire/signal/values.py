"""The values inside signalling messages, with the limits that hold at the door.

Sizes and shapes are checked while decoding (docs/protocol/signal.md Section 3), so that nothing
past the door has to ask again.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

VERSION: Final = 1
"""The only version of the protocol so far."""

MAX_MESSAGE_BYTES: Final = (
    65536  # ours: ten times an offer; bounds what one client can make us hold
)
MAX_SEALED_BYTES: Final = 16384  # ours: four times an offer with two ClientHello datagrams
MAX_CANDIDATES: Final = 32  # ours: also bounds how many addresses one client can make another probe
MAX_DATAGRAM_BYTES: Final = 1500  # ours: what fits one Ethernet frame
MAX_EARLY_DATAGRAMS: Final = 12
MAX_NAMES: Final = 400  # ours: two full audiences still fit one message

NAME_PATTERN: Final = r"\A[a-z0-9][a-z0-9._-]{0,63}\Z"

Name: TypeAlias = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""A canonical name: see :func:`canonical_name`."""

Code: TypeAlias = Annotated[str, Meta(pattern=r"\A[a-z][a-z0-9-]{0,31}\Z")]
"""A machine-readable reason. Receivers take one they do not know for the general case."""

Text: TypeAlias = Annotated[str, Meta(max_length=1000, pattern=r"\A[^\x00-\x1f\x7f-\x9f]*\Z")]
"""A line for people. Without control characters: it is shown in terminals."""

CallId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
DeviceId: TypeAlias = Annotated[bytes, Meta(min_length=16, max_length=16)]
Key: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Nonce: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Hash: TypeAlias = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature: TypeAlias = Annotated[bytes, Meta(min_length=64, max_length=64)]
Sealed: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=MAX_SEALED_BYTES)]
Datagram: TypeAlias = Annotated[bytes, Meta(min_length=1, max_length=MAX_DATAGRAM_BYTES)]
EarlyDatagrams: TypeAlias = Annotated[
    tuple[Datagram, ...], Meta(min_length=1, max_length=MAX_EARLY_DATAGRAMS)
]
CandidateLine: TypeAlias = Annotated[str, Meta(pattern=r"\A[\x20-\x7e]{1,256}\Z")]
Candidates: TypeAlias = Annotated[tuple[CandidateLine, ...], Meta(max_length=MAX_CANDIDATES)]
Hosts: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(pattern=r"\A[0-9a-f.:]{2,45}\Z")], ...], Meta(max_length=4)
]
"""IP addresses."""
Names: TypeAlias = Annotated[tuple[Name, ...], Meta(max_length=MAX_NAMES)]
Uris: TypeAlias = Annotated[tuple[Text, ...], Meta(max_length=16)]


class InvalidName(ValueError):
    """What a person typed cannot be a name; the text says what can."""


def canonical_name(typed: str) -> str:
    """The name in the one spelling it has everywhere: ASCII letters in lower case.

    A name has 1 to 64 of ``a-z 0-9 . _ -`` and starts with a letter or digit. Other alphabets are
    refused rather than folded, because they hold letters that look like these. Raises
    :class:`InvalidName`.
    """
    name = typed.lower() if typed.isascii() else typed
    if not name:
        raise InvalidName("a name must not be empty")
    if len(name) > 64:
        raise InvalidName("a name has at most 64 characters")
    if not all(character in _NAME_CHARACTERS for character in name):
        raise InvalidName("a name is made of the letters a-z, digits, '.', '_' and '-'")
    if name[0] in "._-":
        raise InvalidName("a name starts with a letter or a digit")
    return name


_NAME_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")


class AudienceKind(enum.Enum):
    ANYONE = "anyone"
    NAMES = "names"
    NOBODY = "nobody"


class Audience(Struct, frozen=True, omit_defaults=True):
    """Some of the people registered on the server. ``names`` counts with the kind NAMES only."""

    kind: AudienceKind
    names: Names = ()

    def includes(self, name: str) -> bool:
        match self.kind:
            case AudienceKind.ANYONE:
                return True
            case AudienceKind.NAMES:
                return name in self.names
            case AudienceKind.NOBODY:
                return False


ANYONE: Final = Audience(AudienceKind.ANYONE)
NOBODY: Final = Audience(AudienceKind.NOBODY)


class TurnService(Struct, frozen=True, omit_defaults=True):
    """A TURN server with credentials for this session. ``uris`` are of RFC 7065."""

    uris: Uris
    username: Annotated[str, Meta(max_length=512)]
    password: Annotated[str, Meta(max_length=512)]
    realm: Annotated[str, Meta(max_length=128)]
    lifetime_seconds: Annotated[int, Meta(ge=0, le=2**31)]

    def __repr__(self) -> str:
        return f"TurnService(uris={self.uris}, lifetime_seconds={self.lifetime_seconds})"


class DeviceOnFile(Struct, frozen=True, omit_defaults=True):
    """A device that is being called, and where it can be reached if it lets the caller know."""

    device_id: DeviceId
    candidates: Candidates = ()


class Refusal(enum.StrEnum):
    """Why a registration was refused."""

    VERSION = "version"
    NAME_TAKEN = "name-taken"
    BAD_NAME = "bad-name"
    BAD_SIGNATURE = "bad-signature"
    INVITATION_NEEDED = "invitation-needed"
    BAD_INVITATION = "bad-invitation"
    TOO_MANY_NAMES = "too-many-names"
    TOO_MANY_DEVICES = "too-many-devices"
    SERVER_FULL = "server-full"
    SERVER_TROUBLE = "server-trouble"


class Failure(enum.StrEnum):
    """Why a call ended before anybody answered or declined."""

    UNKNOWN = "unknown"
    OFFLINE = "offline"
    STALE_KEY = "stale-key"
    NO_ANSWER = "no-answer"
    CALLEE_GONE = "callee-gone"
    CALLER_GONE = "caller-gone"
    TOO_MANY_CALLS = "too-many-calls"
    CALL_ID_IN_USE = "call-id-in-use"


class Reason(enum.StrEnum):
    """Why a call was declined, cancelled or hung up."""

    DECLINED = "declined"
    BUSY = "busy"
    NOT_ACCEPTED = "not-accepted"
    CANNOT_OPEN = "cannot-open"
    KEY_CHANGED = "key-changed"
    GLARE = "glare"
    CANCELLED = "cancelled"
    ANSWERED_ELSEWHERE = "answered-elsewhere"
    DECLINED_ELSEWHERE = "declined-elsewhere"
    CALLER_GONE = "caller-gone"
    NO_ANSWER = "no-answer"
    HUNG_UP = "hung-up"
    FAILED = "failed"


class Trouble(enum.StrEnum):
    """What the server found wrong with something a client sent."""

    MALFORMED = "malformed"
    REGISTER_FIRST = "register-first"
    ALREADY_REGISTERED = "already-registered"
    UNKNOWN_CALL = "unknown-call"
    NOT_ALLOWED = "not-allowed"
    PEER_AWAY = "peer-away"
    RATE = "rate"
    EARLY_LIMIT = "early-limit"
    LIMIT = "limit"
    REPLACED = "replaced"
    TIMEOUT = "timeout"
    SERVER_TROUBLE = "server-trouble"
