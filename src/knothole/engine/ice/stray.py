"""Checks outside of the checklist: sent once to a port where the peer may be, and forgotten.

An answer to one means nothing here. What counts is the check that the peer sends in turn, through
the hole that ours has opened or found (docs/protocol/plans.md Section 2).
"""

from __future__ import annotations

from typing import Final

from knothole.engine.core import Datagram
from knothole.engine.ice.credentials import IceCredentials, check_username, split_username
from knothole.wire.candidate import CandidateKind, candidate_priority
from knothole.wire.stun import (
    IceControlled,
    IceControlling,
    MalformedMessage,
    Message,
    MessageClass,
    Method,
    Priority,
    Username,
    decode,
    encode,
    verify_integrity,
)

# What a peer-reflexive candidate of the last socket would have (RFC 8445 Sections 5.1.2 and 7.1.1).
STRAY_PRIORITY: Final = candidate_priority(CandidateKind.PEER_REFLEXIVE, 0)


def stray_check(
    local: IceCredentials,
    remote: IceCredentials,
    role: IceControlling | IceControlled,
    priority: int,
    transaction_id: bytes,
) -> bytes:
    """A connectivity check (RFC 8445 Section 7.2.2), which may be sent to any number of ports."""
    attributes = (Username(check_username(local, remote)), Priority(priority), role)
    message = Message(MessageClass.REQUEST, Method.BINDING, transaction_id, attributes)
    return encode(message, key=remote.key, fingerprint=True)


def is_check_for(datagram: Datagram, local: IceCredentials) -> bool:
    """Whether this is a check that only somebody who knows our password can have made."""
    try:
        message = decode(datagram.payload)
    except MalformedMessage:
        return False
    username = message.get(Username)
    fragments = split_username(username.value) if username is not None else None
    return (
        message.message_class is MessageClass.REQUEST
        and message.method == Method.BINDING
        and fragments is not None
        and fragments[0] == local.ufrag
        and message.has_integrity
        and verify_integrity(message, local.key)
    )
