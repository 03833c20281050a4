"""One allocation as the server keeps it (RFC 8656 Section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from knothole.engine.turn.answer import Requester
from knothole.engine.turn.channel import Channels
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.permission import Permissions
from knothole.wire.address import Address


@dataclass(slots=True, eq=False)
class ServerAllocation:
    """What binds a 5-tuple to a relayed address, until ``expires_at``.

    ``requester`` is who made it, with the key that later requests are verified with; there is no
    password in it. ``transaction_id`` and ``answer`` are the Allocate request that made it and our
    response, for when the request comes again.
    """

    five_tuple: FiveTuple
    requester: Requester
    relayed: Address
    expires_at: float
    permissions: Permissions
    channels: Channels
    transaction_id: bytes
    answer: bytes
    padded: bool
    """Whether ChannelData is padded: on streams (RFC 8656 Section 12.5)."""
    to_peers: int = 0
    """Payload bytes relayed towards peers."""
    to_client: int = 0
    """Payload bytes relayed towards the client."""
