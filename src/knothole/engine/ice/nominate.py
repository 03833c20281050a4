"""Which pair carries payload, and which one is nominated when (RFC 8445 Section 8)."""

from __future__ import annotations

from collections.abc import Iterable

from knothole.engine.ice.checklist import Checklist
from knothole.engine.ice.options import IceOptions
from knothole.engine.ice.pair import CandidatePair
from knothole.engine.ice.role import Role


def ranked(pairs: Iterable[CandidatePair], role: Role, options: IceOptions) -> list[CandidatePair]:
    """The valid pairs, best first.

    By the standard a nominated pair comes before all others (RFC 8445 Section 12.1); between
    knotholes priority alone decides. A pair that fell silent comes after those that did not.
    """

    def merit(pair: CandidatePair) -> tuple[bool, bool, int]:
        chosen = pair.nominated and not options.continuous
        return chosen, not pair.doubted, pair.valid_priority(role.controlling)

    return sorted((pair for pair in pairs if pair.valid), key=merit, reverse=True)


def pace_consent(
    pairs: list[CandidatePair], concluded: bool, options: IceOptions, now: float
) -> None:
    """Of these valid pairs, best first, the best is asked for consent often, a few spare ones
    seldom, a relayed one among them."""
    spares = pairs[1 : 1 + options.spare_pairs]
    relayed = next((pair for pair in pairs if pair.relayed), None)
    for pair in pairs:
        interval: float | None = None
        if pair is pairs[0]:
            interval = options.consent_interval_seconds
        elif not concluded and (pair in spares or pair is relayed):
            interval = options.spare_interval_seconds
        assert pair.consent is not None
        pair.consent.keep(interval, now)


class Nominator:
    """When to stop hoping for a better pair; regular nomination (RFC 8445 Section 8.1.1)."""

    def __init__(self, role: Role, options: IceOptions) -> None:
        self._role = role
        self._options = options
        self._valid_since: float | None = None
        self._decides_at: float | None = None

    def choose(
        self, checklist: Checklist, now: float, candidates_complete: bool
    ) -> CandidatePair | None:
        """The pair to nominate now, if it is our turn and time.

        That is the best valid pair: at once when no better one can come any more, otherwise after
        a while, which is longer for a relayed pair.
        """
        self._decides_at = None
        best = next(iter(ranked(checklist, self._role, self._options)), None)
        if best is None:
            self._valid_since = None
            return None
        if self._valid_since is None:
            self._valid_since = now
        if not self._role.controlling or best.doubted:
            return None
        if any(pair.nominated for pair in checklist):
            return None
        if any(pair.nominating and not pair.doubted for pair in checklist):
            return None
        rank = best.valid_priority(controlling=True)
        hopeful = any(pair.unresolved and pair.priority > rank for pair in checklist)
        patience = (
            self._options.nominate_relayed_after_seconds
            if best.relayed
            else self._options.nominate_direct_after_seconds
        )
        decides_at = self._valid_since + patience
        if (candidates_complete and not hopeful) or now >= decides_at:
            return best
        self._decides_at = decides_at
        return None

    def next_timeout(self) -> float | None:
        return self._decides_at
