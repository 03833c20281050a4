"""What all calls of one endpoint know of their way out, and the account of what plans use."""

from __future__ import annotations

from knothole.engine.core import RandomBytes
from knothole.engine.predict.budget import Budget, Ledger
from knothole.wire.address import Address
from knothole.wire.nat import NatReport
from knothole.wire.signal.plans import PlanTerms


class WayOut:
    """``report`` is what is known of our NAT, ``servers`` are the STUN servers to ask for samples;
    the endpoint keeps both up to date. ``private`` allows plans towards addresses that are not
    public, for networks of one's own."""

    def __init__(
        self, random: RandomBytes, budget: Budget | None = None, *, private: bool = False
    ) -> None:
        self.random = random
        self.report: NatReport | None = None
        self.servers: tuple[Address, ...] = ()
        self.private = private
        self.ledger = Ledger(budget or Budget())

    @property
    def makes_plans(self) -> bool:
        """Whether anything may be spent on a direct path at all."""
        return self.ledger.budget.probes > 0

    @property
    def terms(self) -> PlanTerms | None:
        """What we bring to a plan; None while nothing is known, or when nothing is to be spent."""
        budget = self.ledger.budget
        if self.report is None or not self.makes_plans:
            return None
        return PlanTerms(self.report, min(budget.probes, 65535), min(budget.sockets, 65535))
