"""Allocate requests that wait for io to open their relayed addresses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from knothole.engine.turn.allocate_request import AllocateRequest
from knothole.engine.turn.answer import Requester
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.quota import Holder
from knothole.wire.address import Address
from knothole.wire.stun import AddressFamily, Message

OPEN_ATTEMPTS: Final = 8  # ours: ports tried before a client hears that there is none


@dataclass(slots=True, eq=False)
class Opening:
    """The relayed address of one family, and with it the port that is to be reserved."""

    family: AddressFamily
    wanted: tuple[Address, ...] = ()
    opened: set[Address] = field(default_factory=set)
    attempts: int = 0
    has_failed: bool = False

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.has_failed or len(self.opened) == len(self.wanted)


@dataclass(slots=True, eq=False)
class PendingAllocation:
    """A request and what was asked of io for it; ``counted`` is how much of the quota it holds."""

    five_tuple: FiveTuple
    message: Message
    requester: Requester
    holder: Holder
    request: AllocateRequest
    openings: tuple[Opening, ...] = ()
    counted: int = 0
