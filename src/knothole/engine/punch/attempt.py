"""One attempt at a direct path: a plan carried out by its tactic, within its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from knothole.engine.core import Datagram, least
from knothole.engine.predict.plan import Plan, PlanKind, Shape, shape_of
from knothole.engine.predict.pool import pool_of
from knothole.engine.punch.aim import Aiming
from knothole.engine.punch.birthday import Scanning, Scattering
from knothole.engine.punch.bracket import Bracketing, Filling
from knothole.engine.punch.means import Means, PunchOutput
from knothole.engine.punch.tactic import Tactic
from knothole.wire.address import Address
from knothole.wire.signal.plans import Move, PlanTerms

TACTICS: Final[dict[tuple[PlanKind, bool], Callable[[Means], Tactic]]] = {
    (PlanKind.BRACKET, True): Bracketing,
    (PlanKind.BRACKET, False): Filling,
    (PlanKind.AIM, True): Aiming,
    (PlanKind.BIRTHDAY, True): Scattering,
    (PlanKind.BIRTHDAY, False): Scanning,
    (PlanKind.MEETING, True): Aiming,
}
"""By the plan, and whether our end is the one with the unforeseen port."""


def is_tried(plan: Plan) -> bool:
    """Whether there is something to do for this plan beyond ordinary checks."""
    return (plan.kind, plan.moves_first) in TACTICS


class Attempt:
    """Carries out ``plan`` (an :class:`~knothole.engine.core.Engine`); it begins at once."""

    def __init__(self, plan: Plan, means: Means, now: float) -> None:
        self.plan: Final = plan
        self._means = means
        self._tactic = TACTICS[plan.kind, plan.moves_first](means)
        self._ends_at: float | None = now + means.ledger.budget.seconds
        self._note_pool()
        self._tactic.start(now)

    @property
    def is_over(self) -> bool:
        return self._ends_at is None

    def opened(self, bases: Sequence[Address], now: float) -> None:
        """Further sockets that were asked for."""
        if self.is_over:
            self._means.refuse(bases)
        else:
            self._means.opened(bases)
            self._tactic.opened(bases, now)

    def lost(self, base: Address) -> None:
        """A further socket is gone."""
        self._means.lost(base)

    def keep(self, base: Address) -> None:
        """The peer was heard on this further socket: whatever comes of the round, it stays open."""
        self._means.keep(base)

    def learned(self, ours: PlanTerms) -> None:
        """More is known of our own NAT."""
        before, self._means.ours = self._means.ours, ours
        if ours.nat.ports != before.nat.ports:
            self._note_pool()

    def heard(self, move: Move, now: float) -> None:
        """What the peer says of its part."""
        if not self.is_over:
            self._tactic.heard(move, now)

    def receive(self, datagram: Datagram, now: float) -> None:
        """A datagram to a further socket: only answers of the server are of interest here."""
        sample = self._means.answered(datagram, now)
        if sample is not None and not self.is_over:
            self._tactic.sampled(sample, now)

    def handle_timeout(self, now: float) -> None:
        if self._ends_at is None:
            return
        if now >= self._ends_at:
            self.end(())
        else:
            self._tactic.handle_timeout(now)

    def next_timeout(self) -> float | None:
        if self._ends_at is None:
            return None
        return least(self._ends_at, self._tactic.next_timeout())

    def outputs(self) -> Iterator[PunchOutput]:
        while self._means.outputs:
            yield self._means.outputs.popleft()

    def end(self, keep: Iterable[Address]) -> None:
        """Stop: all further sockets but ``keep`` are closed."""
        self._ends_at = None
        self._means.close_all(keep)

    def _note_pool(self) -> None:
        pool = pool_of(self._means.ours.nat)
        if pool is not None and shape_of(self._means.ours.nat) is Shape.RANDOM:
            self._means.note_pool(*pool, ours=True)
