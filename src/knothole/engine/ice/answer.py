"""Connectivity checks as a server answers them (RFC 8445 Section 7.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from knothole.engine.core import Datagram
from knothole.engine.ice.credentials import IceCredentials, split_username
from knothole.engine.ice.role import Conflict, Role
from knothole.wire.address import Address
from knothole.wire.stun import (
    Attribute,
    ErrorCode,
    Message,
    MessageClass,
    Priority,
    UnknownAttributes,
    UseCandidate,
    Username,
    XorMappedAddress,
    encode,
    verify_integrity,
)

BAD_REQUEST: Final = ErrorCode(400, "Bad Request")
UNAUTHENTICATED: Final = ErrorCode(401, "Unauthenticated")
UNKNOWN_ATTRIBUTE: Final = ErrorCode(420, "Unknown Attribute")
ROLE_CONFLICT: Final = ErrorCode(487, "Role Conflict")


@dataclass(frozen=True, slots=True)
class AcceptedCheck:
    """A check that the peer is proven to have sent, and that was answered with success.

    ``base`` is ours, ``source`` the peer's; ``priority`` is its PRIORITY attribute.
    """

    base: Address
    source: Address
    priority: int
    use_candidate: bool
    remote_ufrag: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back, and what the check means for us if it was accepted."""

    response: Datagram
    accepted: AcceptedCheck | None = None


def answer(request: Message, datagram: Datagram, local: IceCredentials, role: Role) -> Answer:
    """Judge a Binding request that arrived in ``datagram``; a conflict may switch ``role``.

    Nothing changes and the answer carries no integrity unless the request was made with our
    password (RFC 8489 Section 9.1.3).
    """
    username = request.get(Username)
    if username is None or not request.has_integrity:
        return _refusal(request, datagram, BAD_REQUEST, None)
    fragments = split_username(username.value)
    if fragments is None or fragments[0] != local.ufrag or not verify_integrity(request, local.key):
        return _refusal(request, datagram, UNAUTHENTICATED, None)
    if unknown := request.unknown_required:
        return _refusal(request, datagram, UNKNOWN_ATTRIBUTE, local.key, UnknownAttributes(unknown))
    priority = request.get(Priority)
    if priority is None:
        return _refusal(request, datagram, BAD_REQUEST, local.key)
    match role.conflict(request):
        case Conflict.REFUSE:
            return _refusal(request, datagram, ROLE_CONFLICT, local.key)
        case Conflict.YIELD:
            role.switch()
        case Conflict.NONE:
            pass
    return Answer(
        _reply(
            request, datagram, MessageClass.SUCCESS, local.key, XorMappedAddress(datagram.source)
        ),
        AcceptedCheck(
            datagram.destination,
            datagram.source,
            priority.value,
            # RFC 8445 Section 7.1.2: the controlled agent must not send it, so it means nothing.
            request.get(UseCandidate) is not None and not role.controlling,
            fragments[1],
        ),
    )


def _refusal(
    request: Message,
    datagram: Datagram,
    error: ErrorCode,
    key: bytes | None,
    *attributes: Attribute,
) -> Answer:
    return Answer(_reply(request, datagram, MessageClass.ERROR, key, error, *attributes))


def _reply(
    request: Message,
    datagram: Datagram,
    message_class: MessageClass,
    key: bytes | None,
    *attributes: Attribute,
) -> Datagram:
    message = Message(message_class, request.method, request.transaction_id, attributes)
    payload = encode(message, key=key, fingerprint=True)
    return Datagram(datagram.destination, datagram.source, payload, transport=datagram.transport)
