"""One ICE session: from the exchange of credentials to the pair that carries payload."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.ice import events
from knothole.engine.ice.answer import AcceptedCheck, answer
from knothole.engine.ice.candidates import LocalCandidates, RemoteCandidates, may_pair
from knothole.engine.ice.check import Check
from knothole.engine.ice.checker import Checker, Outcome
from knothole.engine.ice.consent import Alarm, Consent
from knothole.engine.ice.credentials import IceCredentials
from knothole.engine.ice.early import EarlyChecks
from knothole.engine.ice.nominate import Nominator, pace_consent, ranked
from knothole.engine.ice.options import IceOptions
from knothole.engine.ice.pair import CandidatePair, LocalCandidate, PairState
from knothole.engine.ice.role import Role
from knothole.engine.ice.tally import Tally
from knothole.engine.ice.tcp import is_stream
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind
from knothole.wire.stun import Message, XorMappedAddress


class Session:
    """Everything that belongs to one pair of credentials (RFC 8445 Section 9: an ICE restart begins
    another). ``role``, ``locals_`` and ``tally`` are the agent's and outlive it.
    """

    def __init__(
        self,
        local: IceCredentials,
        role: Role,
        locals_: LocalCandidates,
        options: IceOptions,
        random: RandomBytes,
        tally: Tally,
    ) -> None:
        self.local = local
        self._role = role
        self._locals = locals_
        self._options = options
        self._random = random
        self._checker = Checker(local, role, options, random, tally)
        self._checklist = self._checker.checklist
        limits = options.remote_candidate_limit, options.peer_reflexive_limit
        self.remotes = RemoteCandidates(*limits, self._checklist.is_needed, options.continuous)
        self._nominator = Nominator(role, options)
        self._early = EarlyChecks()
        self._outputs: deque[events.SessionOutput] = deque()
        self._pac_ends_at = 0.0
        self._review_at: float | None = None
        self._revive_at: float | None = None
        self._ended = {"local": False, "remote": False}
        self._retired = False
        self.failed, self.heard_at = False, -math.inf

    @property
    def remote(self) -> IceCredentials | None:
        return self._checker.remote

    def valid_pairs(self) -> list[CandidatePair]:
        """Best first."""
        return ranked(self._checklist, self._role, self._options)

    def set_remote(self, credentials: IceCredentials, now: float) -> None:
        """Checks can be made from now on; those that came early count (RFC 8445 Section 7.3)."""
        self._checker.remote = credentials
        self._pac_ends_at = now + self._options.pac_seconds  # RFC 8863 Section 4
        for check in self._early.take():
            self._accept(check, now)
        self.advance(now)

    def local_added(self, added: LocalCandidate, now: float) -> None:
        """The agent has a new candidate: form pairs, or improve those of its base."""
        best = self._locals.best_of(added.base) or added
        for pair in self._checklist:
            if pair.base == added.base and not is_stream(pair.local):
                pair.local = best
                seen_as = pair.seen_as
                if seen_as and seen_as.candidate.address == added.candidate.address:
                    pair.seen_as = added
        self._checklist.reprioritize()
        for remote in self.remotes:
            # RFC 8445 Section 7.3.1.3: a peer-reflexive one is paired only where it was found.
            if remote.kind is not CandidateKind.PEER_REFLEXIVE:
                self._form(best, remote)
        self.advance(now)

    def stream_added(self, local: LocalCandidate, remote: Candidate, now: float) -> None:
        """A connection is open: one pair (RFC 6544), whatever else there is."""
        if not self._checklist.concluded:
            self._checklist.add(local, remote)
        self.advance(now)

    def add_remote(self, candidate: Candidate, now: float) -> None:
        """A candidate of the peer's, whenever it comes (RFC 8838 Section 11)."""
        if not self.remotes.add(candidate, now):
            return
        self._remove_forgotten()
        for pair in self._checklist:
            if pair.remote.address == candidate.address and not is_stream(pair.local):
                pair.remote = candidate
        self._checklist.reprioritize()
        for local in self._locals.bases():
            self._form(local, candidate)
        self.advance(now)

    def end_of_candidates(self, side: str, now: float) -> None:
        """``side`` is "local" or "remote": no more will come from there (RFC 8838 Section 13)."""
        self._ended[side] = True
        self.advance(now)

    def remove_base(self, base: Address, now: float) -> None:
        for pair in [pair for pair in self._checklist if pair.base == base]:
            self._remove(pair)
        self.advance(now)

    def role_changed(self, now: float) -> None:
        """New pair priorities (RFC 8445 Section 7.2.5.1), and checks that claim the new role."""
        self._checker.claim_role()
        self.advance(now)

    def retire(self) -> None:
        """A restart began another session: only keep what payload flows on until that is ready."""
        self._retired = True
        for pair in self._checklist:
            pair.nominating = False
        self._nominator = Nominator(self._role, self._options)
        self._review_at = None
        self._checker.stop_all(below=None)

    def confirm(self, now: float) -> None:
        """Ask for consent on the best pair ahead of time; between knotholes probe it, and the best
        relayed one with it."""
        pairs = self.valid_pairs()
        if not pairs:
            return
        if self._options.continuous:
            relayed = next((pair for pair in pairs[1:] if pair.relayed), None)
            for pair in filter(None, (pairs[0], relayed)):
                if pair.consent is not None and not pair.consent.probed:
                    self._checker.trigger(pair)
        elif pairs[0].consent is not None:
            pairs[0].consent.hasten(now)
        self.advance(now)

    def probe(self, now: float) -> None:
        """Check every pair worth it, from the start and at once; the valid ones first."""
        self._checker.recheck(now)
        self.advance(now)

    def is_authenticated(self, base: Address, remote: Address) -> bool:
        pair = self._checklist.get(base, remote)
        if pair is not None and (pair.checked_by_peer or pair.seen_as is not None):
            return True
        return (base, remote) in self._early

    def find_check(self, transaction_id: bytes) -> Check | None:
        return self._checker.find(transaction_id)

    def receive_request(self, request: Message, datagram: Datagram, now: float) -> None:
        """Answer a Binding request for our username fragment and draw the conclusions."""
        if self._locals.best_of(datagram.destination) is None:
            return
        reply = answer(request, datagram, self.local, self._role)
        self._outputs.append(Transmit(reply.response))
        if reply.accepted is not None and not self._retired:
            self._accept(reply.accepted, now)
            self.advance(now)

    def receive_response(
        self, check: Check, response: Message, datagram: Datagram, now: float
    ) -> None:
        """The answer to ``check``, which :meth:`find_check` found."""
        mapped = response.get(XorMappedAddress)
        match self._checker.judge(check, response, datagram):
            case Outcome.SUCCEEDED if mapped is not None:
                self._succeed(check, mapped.address, now)
            case Outcome.FAILED:
                self._fail(check)
            case Outcome.REVOKED:
                self._lose(check.pair, now)
            case _:
                pass
        self.advance(now)

    def handle_timeout(self, now: float) -> None:
        before = self.valid_pairs()
        for check, repeat in list(self._checker.due(now)):
            if repeat:
                self._outputs.append(Transmit(check.datagram))
            else:
                self._fail(check)
        for pair in before:
            self._refresh(pair, best=pair is before[0], now=now)
        self.advance(now)

    def next_timeout(self) -> float | None:
        watching = self._options.continuous
        return least(
            self._checker.next_timeout(),
            self._nominator.next_timeout(),
            self._review_at,
            *(pair.consent.next_timeout(watching) for pair in self._checklist if pair.consent),
        )

    def outputs(self) -> Iterator[events.SessionOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def advance(self, now: float) -> None:
        """Do what the last input made possible: nominate, set the pace of consent, send a check."""
        if self.remote is None:
            return
        if not self._retired:
            complete = all(self._ended.values())
            chosen = self._nominator.choose(self._checklist, now, complete)
            if chosen is not None:
                chosen.nominating = True
                self._checklist.trigger(chosen)
        pace_consent(self.valid_pairs(), self._checklist.concluded, self._options, now)
        self._outputs.extend(Transmit(datagram) for datagram in self._checker.send(now))
        if not self._retired:
            self._review(now)

    def _form(self, local: LocalCandidate, remote: Candidate) -> None:
        if not self._checklist.concluded and may_pair(local.base, remote.address):
            self._checklist.add(local, remote)

    def _accept(self, check: AcceptedCheck, now: float) -> None:
        """RFC 8445 Sections 7.3.1.3 to 7.3.1.5, put off until we have the peer's password."""
        if self.remote is None:
            self._early.keep(check)
            return
        local = self._locals.best_of(check.base)
        if check.remote_ufrag != self.remote.ufrag or local is None:
            return
        pair = self._checklist.get(check.base, check.source)
        if not is_stream(local):
            remote = self.remotes.get(check.source) or self._discover(check, now)
            pair = self._checklist.add_triggered(local, remote) if remote else None
        if not pair or pair.revoked:
            return
        pair.checked_by_peer = True
        if check.use_candidate and pair.valid:
            self._nominated(pair)
        elif check.use_candidate:
            pair.nominate_on_success = True
        if pair.consent is None or pair.consent.probed:
            self._checker.trigger(pair)

    def _discover(self, check: AcceptedCheck, now: float) -> Candidate | None:
        """A peer-reflexive remote candidate (RFC 8445 Section 7.3.1.3)."""
        found = self.remotes.discover(check.source, check.priority, now)
        if found is None:
            return None
        self._remove_forgotten()
        self._outputs.append(events.RemoteCandidateDiscovered(found))
        local = self._locals.best_of(check.base)
        if self._options.continuous and local and local.candidate.kind is CandidateKind.RELAYED:
            # The peer's mapping is new, and most NATs show the same one to everybody: our own
            # check to it opens our filter, with no need to be told.
            for other in self._locals.bases():
                if other.candidate.kind is not CandidateKind.RELAYED:
                    self._form(other, found)
        # The peer's mapping may have changed: then our best pair leads nowhere.
        best = next(iter(self.valid_pairs()), None)
        if self._options.continuous and best and best.consent and best.consent.is_stale(now):
            self._checker.trigger(best)
        return found

    def _succeed(self, check: Check, mapped: Address, now: float) -> None:
        """RFC 8445 Section 7.2.5.3."""
        pair, self.heard_at = check.pair, now
        if self._checklist.get(*pair.key) is not pair:
            return
        local = self._locals.find(mapped, pair.base)
        if local is None:
            local = self._locals.discover(mapped, pair.local, check.priority)
            self._outputs.append(events.LocalCandidateDiscovered(local.candidate, local.base))
        pair.seen_as = local
        if not check.repeated:
            pair.measured(now - check.sent_at)
        self._checklist.succeeded(pair)
        first = pair.consent is None
        if pair.consent is None:
            pair.consent = Consent(now, self._random)
        else:
            pair.consent.answered(now)
        best = next(iter(self.valid_pairs()))
        if best is not pair and best.consent is not None:
            best.consent.overtaken(now, best.rtt_seconds)
        if check.use_candidate or not pair.nominating:
            self._checker.stop(pair)
        if first:
            self.failed = False
            self._outputs.append(events.PairValid(pair.snapshot(self._role.controlling)))
        nominated = check.use_candidate if self._role.controlling else pair.nominate_on_success
        if nominated:
            self._nominated(pair)

    def _fail(self, check: Check) -> None:
        """RFC 8445 Section 7.2.5.2; a valid pair is given up when consent runs out."""
        pair = check.pair
        pair.nominate_on_success = False
        if pair.nominating and check.use_candidate:
            pair.nominating = False
            if not self._options.continuous:
                pair.consent = None
        if pair.consent is None:
            pair.state = PairState.FAILED
        elif pair.consent.probed and self._options.continuous:
            self._checklist.trigger(pair)

    def _nominated(self, pair: CandidatePair) -> None:
        pair.nominating = pair.nominate_on_success = False
        if pair.nominated:
            return
        pair.nominated = True
        self._outputs.append(events.Nominated(pair.snapshot(self._role.controlling)))
        self._checker.stop_all(below=pair if self._options.continuous else None)

    def _refresh(self, pair: CandidatePair, best: bool, now: float) -> None:
        """What time asks of a valid pair: consent, and doubt between knotholes."""
        consent = pair.consent
        if consent is None:
            return
        if consent.expired(now):
            self._lose(pair, now)
            return
        if self._options.continuous:
            match consent.alarm(now, pair.rtt_seconds):
                case Alarm.PROBE:
                    self._checker.trigger(pair)
                case Alarm.DOUBT if best:
                    self.probe(now)
                case _:
                    pass
        if consent.due(now) and not consent.probed:
            self._outputs.append(Transmit(self._checker.start(pair, now, consent=True)))

    def _lose(self, pair: CandidatePair, now: float) -> None:
        """Consent expired or was revoked."""
        # The standard's silent end of pairs that nomination left behind is no event.
        told = pair.nominated or not self._checklist.concluded
        snapshot = pair.snapshot(self._role.controlling)
        pair.consent = None
        pair.nominated = pair.nominating = False
        pair.state = PairState.FAILED
        pair.revoked = not self._options.continuous
        self._checker.drop(pair)
        if told:
            self._outputs.append(events.ConsentLost(snapshot))
        if self._options.continuous and not self.valid_pairs() and not self._retired:
            self._pac_ends_at = now + self._options.pac_seconds
            self.probe(now)

    def _remove_forgotten(self) -> None:
        for pair in list(self._checklist):
            if not is_stream(pair.local) and self.remotes.get(pair.remote.address) is None:
                self._remove(pair)

    def _remove(self, pair: CandidatePair) -> None:
        self._checker.drop(pair)
        self._checklist.remove(pair)
        if pair.valid:
            self._outputs.append(events.ConsentLost(pair.snapshot(self._role.controlling)))

    def _review(self, now: float) -> None:
        """Whether ICE failed: not before the PAC timer ends (RFC 8863), nor while there is hope."""
        self._review_at = None
        if self.failed or any(pair.valid or pair.unresolved for pair in self._checklist):
            return
        if self._checklist.concluded:
            self._give_up("consent was lost on the selected pair")
            return
        if self._options.continuous and self._checklist and now < self._pac_ends_at:
            if self._revive_at is None:
                self._revive_at = now + self._options.revive_after_seconds
            elif now >= self._revive_at:
                self._revive_at = None
                self.probe(now)
                return
            self._review_at = self._revive_at
            return
        patience = 0.0 if all(self._ended.values()) else self._options.pac_seconds
        gives_up_at = self._pac_ends_at + patience
        if now >= gives_up_at:
            self._give_up("no connectivity check was answered")
        else:
            self._review_at = gives_up_at

    def _give_up(self, reason: str) -> None:
        self.failed = True
        self._outputs.append(events.IceFailed(reason))
