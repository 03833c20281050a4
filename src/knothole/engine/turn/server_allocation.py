"""One allocation as the server keeps it (RFC 8656 Section 6)."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

from knothole.engine.turn.answer import Requester
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.channel import Channels
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.permission import Permissions
from knothole.engine.turn.quota import Holder
from knothole.wire.address import Address


@dataclass(slots=True, eq=False)
class Mobile:
    """How an allocation follows its client (RFC 8016): ``number`` stands for it in tickets, of
    which those from ``oldest`` to ``newest`` are good. ``moving_to`` is where a client has been
    given a ticket and has sent no data from yet. Older ones, not older than ``retained_from``, are
    known until ``retained_until`` where they led to."""

    number: int
    oldest: int = 0
    newest: int = 0
    moving_to: FiveTuple | None = None
    retained_from: int = 0
    retained_until: float = -math.inf


@dataclass(slots=True, eq=False)
class ServerAllocation:
    """What binds a 5-tuple to a relayed address.

    ``requester`` is who made it, with the key that later requests are verified with; there is no
    password in it. ``transaction_id`` and ``answer`` are the Allocate request that made it and our
    response, for when the request comes again.
    """

    five_tuple: FiveTuple
    requester: Requester
    relayed: Address
    lifetime_until: float
    """As Allocate or the last Refresh granted it."""
    credentials_until: float
    """How long the best of the credentials that signed requests for it is good."""
    expires_at: float
    """The earlier of both."""
    permissions: Permissions
    channels: Channels
    transaction_id: bytes
    answer: bytes
    padded: bool
    """Whether ChannelData is padded: on streams (RFC 8656 Section 12.5)."""
    holder: Holder
    budget: Budget
    """How much it may relay now, to peers and from them together."""
    to_peers: int = 0
    """Payload bytes relayed towards peers."""
    to_client: int = 0
    """Payload bytes relayed towards the client."""
    is_tcp: bool = False
    """Whether its peers come and go by TCP (RFC 6062)."""
    twin: ServerAllocation | None = field(default=None, repr=False)
    """The other half of a dual allocation: the same 5-tuple, a relayed address of the other family,
    and permissions and channels of its own."""

    mobile: Mobile | None = None
    """Shared with the twin; None when the client did not ask for it."""

    @property
    def five_tuples(self) -> tuple[FiveTuple, ...]:
        """The 5-tuple, and the one to which it is moving."""
        moving_to = None if self.mobile is None else self.mobile.moving_to
        return (self.five_tuple,) if moving_to is None else (self.five_tuple, moving_to)

    @property
    def halves(self) -> tuple[ServerAllocation, ...]:
        """It and its twin, if it has one."""
        return (self,) if self.twin is None else (self, self.twin)

    def half_for(self, peer: Address) -> ServerAllocation | None:
        """The one whose relayed address can reach ``peer``."""
        for half in self.halves:
            if half.relayed.is_ipv6 is peer.is_ipv6:
                return half
        return None

    def hosts(self) -> set[str]:
        """Every host that it has, or had lately, to do with."""
        return {*self.permissions.expires_at, *(peer.host for peer in self.channels.by_peer)}

    def forbid(self, hosts: Collection[str], now: float) -> frozenset[str]:
        """End permissions and channels of ``hosts``; those of them that had any."""
        lost = set(self.permissions.remove(hosts))
        for peer in tuple(self.channels.by_peer):
            if peer.host in hosts:
                self.channels.end(peer, now)
                lost.add(peer.host)
        return frozenset(lost)
