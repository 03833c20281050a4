"""Refresh on the server's side (RFC 8656 Section 8.2), and with a ticket (RFC 8016)."""

from __future__ import annotations

from knothole.engine.turn.allocations import Allocations
from knothole.engine.turn.answer import Refusal, Requester
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.quota import Limits
from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.engine.turn.server_events import EndReason
from knothole.wire.prohibited import is_tunnelled
from knothole.wire.stun import (
    AddressFamily,
    Attribute,
    Lifetime,
    Message,
    Method,
    MobilityTicket,
    RequestedAddressFamily,
)


def by_ticket(
    message: Message,
    five_tuple: FiveTuple,
    requester: Requester,
    allocations: Allocations,
    now: float,
) -> ServerAllocation | None:
    """The allocation whose ticket a Refresh shows; None without one. Raises Refusal."""
    ticket = message.get(MobilityTicket) if message.method == Method.REFRESH else None
    if ticket is None:
        return None
    if allocations.mobility is None:
        raise Refusal(405)
    if five_tuple.client.is_ipv6 and is_tunnelled(five_tuple.client.host):
        raise Refusal(403)  # as when one is made there
    return allocations.mobility.find(ticket, five_tuple, requester.account, now)


def refresh(
    message: Message,
    five_tuple: FiveTuple,
    allocation: ServerAllocation,
    allocations: Allocations,
    limits: Limits,
    now: float,
) -> tuple[Attribute, ...]:
    """Refresh or end the half of a dual allocation that is named, else all there is.

    Returns what is answered. Raises Refusal: 443.
    """
    family, requested = message.get(RequestedAddressFamily), message.get(Lifetime)
    halves = [
        half
        for half in allocation.halves
        if family is None or family.family == AddressFamily.of(half.relayed)
    ]
    if not halves:
        raise Refusal(443)
    left = [half for half in allocation.halves if half not in halves]
    if requested is not None and requested.seconds == 0:
        for half in halves:
            allocations.end(half, EndReason.DELETED, now)
        granted = 0
    else:
        lifetime = limits.lifetime(None if requested is None else requested.seconds)
        granted = min(allocations.refresh(half, lifetime, now) for half in halves)
        left += halves
    if allocations.mobility is None or message.get(MobilityTicket) is None or not left:
        return (Lifetime(granted),)
    return (Lifetime(granted), allocations.mobility.prepare(left[0], five_tuple))
