"""How a TURN server answers a request (RFC 8489 Section 6.3.1, RFC 8656 Section 19)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from knothole.wire.stun import (
    Algorithm,
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    Software,
    encode_parts,
)

SOFTWARE: Final = Software("knothole")  # no version: RFC 8656 Section 21.1.6

# RFC 8489 Section 14.8, RFC 8656 Section 19, RFC 6062 Section 6.3, and RFC 8016 for 405.
REASONS: Final = {
    300: "Try Alternate",
    400: "Bad Request",
    401: "Unauthenticated",
    403: "Forbidden",
    405: "Mobility Forbidden",
    420: "Unknown Attribute",
    437: "Allocation Mismatch",
    438: "Stale Nonce",
    440: "Address Family not Supported",
    441: "Wrong Credentials",
    442: "Unsupported Transport Protocol",
    443: "Peer Address Family Mismatch",
    446: "Connection Already Exists",
    447: "Connection Timeout or Failure",
    486: "Allocation Quota Reached",
    508: "Insufficient Capacity",
}


class Refusal(Exception):
    """A request that is answered with an error: raised where that is found, answered at one place.

    The fault is the client's, or nobody's (486, 508), never ours.
    """

    def __init__(self, code: int, *attributes: Attribute) -> None:
        super().__init__(code)
        self.code, self.attributes = code, attributes


@dataclass(frozen=True, slots=True)
class Requester:
    """Who signed a request, and how its answer is signed (RFC 8489 Section 9.2.4)."""

    username: str
    owner: str
    algorithm: Algorithm
    key: bytes = field(repr=False)
    valid_until: float
    sha256: bool
    """Whether the answer carries MESSAGE-INTEGRITY-SHA256 and not MESSAGE-INTEGRITY."""
    token_name: str = ""
    """Which token it was that they showed, if they did (RFC 7635)."""

    @property
    def account(self) -> str:
        """Whose quota counts, and who may move an allocation: the owner, or who has the token."""
        return f"{self.owner} {self.token_name}" if self.token_name else self.owner


def success_answer(
    request: Message, requester: Requester, attributes: tuple[Attribute, ...]
) -> bytes:
    """The success response to ``request``."""
    return _answer(request, MessageClass.SUCCESS, attributes, requester)


def error_answer(request: Message, requester: Requester | None, refusal: Refusal) -> bytes:
    """The error response to ``request``; unsigned when nobody signed the request."""
    reason = "" if requester is None else REASONS[refusal.code]  # kept short, see below
    attributes = (ErrorCode(refusal.code, reason), *refusal.attributes)
    return _answer(request, MessageClass.ERROR, attributes, requester)


def _answer(
    request: Message,
    message_class: MessageClass,
    attributes: tuple[Attribute, ...],
    requester: Requester | None,
) -> bytes:
    # RFC 8656 Section 5: "SHOULD include the SOFTWARE attribute in all Allocate and Refresh
    # responses". Not in those to a source that may be forged: they are kept short.
    if requester is not None and request.method in (Method.ALLOCATE, Method.REFRESH):
        attributes = (*attributes, SOFTWARE)
    key = requester.key if requester is not None else None
    sha256 = requester is not None and requester.sha256
    return encode_parts(
        message_class,
        request.method,
        request.transaction_id,
        attributes,
        key=None if sha256 else key,
        sha256_key=key if sha256 else None,
        fingerprint=request.has_fingerprint,
    )
