"""Performing connectivity checks: when, how often, and what an answer means (RFC 8445 7.2)."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from knothole.engine.core import Datagram, RandomBytes, least
from knothole.engine.ice.check import CONSENT_WAITS, Check, Checks, check_waits, probe_waits
from knothole.engine.ice.checklist import Checklist
from knothole.engine.ice.credentials import IceCredentials
from knothole.engine.ice.options import IceOptions
from knothole.engine.ice.pair import CandidatePair, PairState
from knothole.engine.ice.role import Role
from knothole.engine.ice.tally import Tally
from knothole.wire.stun import ErrorCode, Message, MessageClass, XorMappedAddress, verify_integrity

ROLE_CONFLICT: Final = 487  # RFC 8445 Section 16.2
FORBIDDEN: Final = 403  # RFC 7675 Section 5.2: consent is revoked

# Ours. Every pair under way may meet the one conflict; more is not an honest peer.
MAX_ROLE_CONFLICTS: Final = 200

# Ours, between knotholes: a pair that is being checked is checked from the start no sooner.
RECHECK_AFTER_SECONDS: Final = 1.0


class Outcome(enum.Enum):
    """What an answer says of the check it belongs to."""

    SUCCEEDED = enum.auto()
    FAILED = enum.auto()
    REVOKED = enum.auto()
    NOTHING = enum.auto()


class Checker:
    """The checks of one ICE session on the pairs of its ``checklist``.

    New checks go out one every Ta, triggered ones first, and at once after a pause. Nothing goes
    out before ``remote`` is known.
    """

    def __init__(
        self,
        local: IceCredentials,
        role: Role,
        options: IceOptions,
        random: RandomBytes,
        tally: Tally,
    ) -> None:
        self.remote: IceCredentials | None = None
        self.checklist = Checklist(role, options.pair_limit, freezing=not options.continuous)
        self._role = role
        self._options = options
        self._tally = tally
        self._checks = Checks(local, role, random, tally)
        self._next_slot_at = 0.0
        self._role_conflicts = 0

    def find(self, transaction_id: bytes) -> Check | None:
        return self._checks.find(transaction_id)

    def trigger(self, pair: CandidatePair) -> None:
        """Check ``pair`` at the next opportunity, instead of what is under way there."""
        self._checks.cancel(pair)
        self.checklist.trigger(pair)

    def recheck(self, now: float) -> None:
        """Check every pair from the start, the valid ones first."""
        for pair in sorted(self.checklist, key=lambda pair: not pair.valid):
            if not pair.valid and (self.checklist.concluded or pair.revoked):
                continue
            live = self._checks.of(pair)
            if live is None or now - live.sent_at >= RECHECK_AFTER_SECONDS:
                self.trigger(pair)

    def claim_role(self) -> None:
        """The role changed: checks under way claim the old one, so make them anew."""
        self.checklist.reprioritize()
        for pair in self.checklist:
            pair.nominating = pair.nominate_on_success = False
            live = self._checks.of(pair)
            if live is not None and live.role != self._role.attribute:
                self.trigger(pair)

    def stop(self, pair: CandidatePair) -> None:
        """Repeat no check on ``pair`` and begin none; late answers still count."""
        self._checks.cancel(pair)
        self.checklist.untrigger(pair)

    def stop_all(self, below: CandidatePair | None) -> None:
        """End the checks of all pairs (RFC 8445 Section 8.1.2), or of those worse than ``below``.

        The pairs stay, so that a check of the peer's can bring them back.
        """
        if below is None:
            self.checklist.concluded = True
        for pair in self.checklist:
            if below is None or pair.priority < below.priority:
                self.stop(pair)
                if pair.unresolved:
                    pair.state = PairState.FAILED

    def drop(self, pair: CandidatePair) -> None:
        """No answer on ``pair`` counts any more."""
        self._checks.drop(pair)
        self.checklist.untrigger(pair)

    def start(self, pair: CandidatePair, now: float, consent: bool = False) -> Datagram:
        """Begin a check on ``pair``, nominating it if that is due; what to send for it."""
        assert self.remote is not None
        rtt = pair.rtt_seconds or 0.0
        if consent:
            waits = CONSENT_WAITS
        elif pair.valid and self._options.continuous:
            waits = probe_waits(rtt)
        else:
            # RFC 8445 Section 14.3, with one Ta for each check under way.
            under_way = sum(each.unresolved for each in self.checklist)
            pace = self._options.ta_seconds * under_way
            waits = check_waits(self._options, max(self._options.rto_seconds, 1.5 * rtt, pace))
        use_candidate = pair.nominating and self._role.controlling
        check = self._checks.start(
            pair, self.remote, now, waits, use_candidate=use_candidate, consent=consent
        )
        if pair.consent is None:
            pair.state = PairState.IN_PROGRESS
        elif consent:
            pair.consent.asked(now, pair.rtt_seconds)
        else:
            pair.consent.probing(now, pair.rtt_seconds)
        return check.datagram

    def send(self, now: float) -> Iterator[Datagram]:
        """The new checks whose slot has come (RFC 8445 Section 6.1.4.2)."""
        if self.remote is None:
            return
        while now >= self._next_slot_at and (pair := self.checklist.pop()) is not None:
            yield self.start(pair, now)
            self._next_slot_at = now + self._options.ta_seconds

    def due(self, now: float) -> Iterator[tuple[Check, bool]]:
        """Checks to be repeated now (True), or that failed for want of an answer (False)."""
        for check, repeat in self._checks.due(now):
            if repeat or not (check.cancelled or check.consent):
                yield check, repeat

    def judge(self, check: Check, response: Message, datagram: Datagram) -> Outcome:
        """What ``response`` means; without the right integrity it never came."""
        if not verify_integrity(response, check.key):
            return Outcome.NOTHING
        self._checks.finish(check)
        failed = Outcome.NOTHING if check.consent or check.cancelled else Outcome.FAILED
        # RFC 8445 Section 7.2.5.2.1: from where the request went, to where it came from.
        asked = check.datagram
        if (datagram.source, datagram.destination) != (asked.destination, asked.source):
            return failed
        if response.message_class is MessageClass.SUCCESS:
            if response.get(XorMappedAddress) is None:
                return failed
            if not check.consent:
                self._tally.answered(check.pair)
            return Outcome.SUCCEEDED
        error = response.get(ErrorCode)
        if error is not None and error.code == FORBIDDEN and check.pair.valid:
            return Outcome.REVOKED
        if error is not None and error.code == ROLE_CONFLICT:
            self._role_conflicts += 1
            if self._role_conflicts > MAX_ROLE_CONFLICTS:
                return failed
            self._role.refused(check.role)
            self.trigger(check.pair)
            return Outcome.NOTHING
        return failed

    def next_timeout(self) -> float | None:
        slot = self.remote is not None and self.checklist.pending
        return least(self._checks.next_timeout(), self._next_slot_at if slot else None)
