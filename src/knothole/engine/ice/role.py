"""Controlling or controlled, and what happens when both think the same (RFC 8445 7.3.1.1)."""

from __future__ import annotations

import enum

from knothole.engine.core import RandomBytes
from knothole.wire.stun import IceControlled, IceControlling, Message


class Conflict(enum.Enum):
    """What a check's role attribute asks of its receiver."""

    NONE = enum.auto()
    REFUSE = enum.auto()  # answer 487, keep the role
    YIELD = enum.auto()  # change the role, answer success


class Role:
    """An agent's role and tie-breaker; both outlive an ICE restart (RFC 8445 Section 9)."""

    def __init__(self, controlling: bool, tie_breaker: int, random: RandomBytes) -> None:
        if not 0 <= tie_breaker < 1 << 64:
            raise ValueError("a tie-breaker has 64 bits")
        self.controlling = controlling
        self.tie_breaker = tie_breaker
        self._random = random

    @property
    def attribute(self) -> IceControlling | IceControlled:
        """What our checks carry (RFC 8445 Section 7.1.3)."""
        if self.controlling:
            return IceControlling(self.tie_breaker)
        return IceControlled(self.tie_breaker)

    def conflict(self, request: Message) -> Conflict:
        """Judge the role that an authenticated check claims (RFC 8445 Section 7.3.1.1)."""
        if self.controlling:
            controlling = request.get(IceControlling)
            if controlling is None:
                return Conflict.NONE
            ours_wins = self.tie_breaker >= controlling.tie_breaker
            return Conflict.REFUSE if ours_wins else Conflict.YIELD
        controlled = request.get(IceControlled)
        if controlled is None:
            return Conflict.NONE
        ours_wins = self.tie_breaker >= controlled.tie_breaker
        return Conflict.YIELD if ours_wins else Conflict.REFUSE

    def switch(self) -> None:
        """Take the other role, as a receiver that yields does."""
        self.controlling = not self.controlling

    def refused(self, claimed: IceControlling | IceControlled) -> bool:
        """A 487 answered a check of ours that carried ``claimed``; whether the role changed.

        RFC 8445 Section 7.2.5.1: the other role than the request's, and a new tie-breaker. Late
        487s to older checks find the role changed already and leave both as they are.
        """
        if claimed != self.attribute:
            return False
        self.switch()
        self.tie_breaker = int.from_bytes(self._random(8), "big")
        return True
