"""The plan of one call: chosen when both ends' terms are known, carried out until a path is direct.

Everything beyond ordinary checks begins here, and only towards a vouched host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, Transmit
from knothole.engine.endpoint.events import CloseSockets, OpenSockets
from knothole.engine.endpoint.history import Answered, FactsKnown, GaveUp, History, PlanChosen
from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.ice.stray import is_check_for
from knothole.engine.predict.plan import Plan, choose_plan
from knothole.engine.predict.vouched import VouchedHost, vouch
from knothole.engine.punch.attempt import Attempt, is_tried
from knothole.engine.punch.means import Close, Means, Note, Open, Tell
from knothole.engine.punch.way_out import WayOut
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind, candidate_priority
from knothole.wire.signal.plans import Move, PlanTerms
from knothole.wire.stun import looks_like_stun

MAX_FOUND: Final = 8
"""Ours: further sockets that the peer was heard on become candidates, at most so many. Where our
NAT lets any port in, some of them answer from a port that the peer's does not let in."""

FOUND_PREFERENCE: Final = 1024  # ours: a standing socket that works too is preferred

PunchingOutput: TypeAlias = Transmit | OpenSockets | CloseSockets | Move


class Punching:
    """What one call does beyond ordinary checks (an :class:`~knothole.engine.core.Engine`).

    With ``relay_only`` that is nothing, and nothing is told of us.
    """

    def __init__(
        self, call_id: bytes, way_out: WayOut, history: History, *, relay_only: bool = False
    ) -> None:
        self._relay_only = relay_only
        self._call_id = call_id
        self._way_out = way_out
        self._history = history
        self._ours: PlanTerms | None = None
        self._theirs: PlanTerms | None = None
        self._observed: tuple[str, ...] = ()
        self._agreed = False
        self._plan: Plan | None = None
        self._attempt: Attempt | None = None
        self._found: list[Address] = []
        self._sockets: set[Address] = set()  # those that only this call has
        self._direct = False
        self._outputs: deque[PunchingOutput] = deque()

    def offer_terms(self) -> PlanTerms | None:
        """Our terms, for an offer or an answer: these count for the whole call."""
        self._ours = None if self._relay_only else self._way_out.terms
        return self._ours

    def has(self, base: Address) -> bool:
        """Whether this is a further socket of this call."""
        return base in self._sockets

    @property
    def shows_host(self) -> bool:
        """Whether the server may vouch for our address to the other end: without it no plan."""
        return self._way_out.makes_plans and not self._relay_only

    def report_changed(self, now: float) -> None:
        """More is known of our NAT: the other end learns of it. A plan that is being carried out
        stays what it is, but may spare sockets."""
        terms = None if self._relay_only else self._way_out.terms
        if terms is None or terms == self._ours:
            return
        self._ours = terms
        attempt = self._attempt
        if attempt is None or not (self._direct or attempt.is_over):
            self._outputs.append(terms)
        if attempt is not None:
            attempt.learned(terms)
            self._drain(now)

    def agree(self, theirs: PlanTerms | None, observed: Iterable[str]) -> None:
        """The other end's terms, and where the server sees it: the call is answered."""
        self._theirs = self._theirs or theirs
        self._observed, self._agreed = tuple(observed), True

    def consider(
        self,
        ice: IceAgent,
        locals_: Sequence[LocalCandidate],
        named: Sequence[Candidate],
        now: float,
    ) -> None:
        """Begin the attempt, if there is something to attempt and it is time. ``named`` are the
        candidates that the other end told under its seal: no others make a target."""
        if self._relay_only or not self._agreed or self._direct or self._attempt is not None:
            return
        plan = choose_plan(self._ours, self._theirs)
        if plan != self._plan:
            self._plan = plan
            ours, other = (
                None if each is None else each.nat for each in (self._ours, self._theirs)
            )
            self._history.note(FactsKnown(ours, other), now)
            step = PlanChosen(plan.kind.value, plan.reason, plan.odds, plan.better)
            self._history.note(step, now)
        if not is_tried(plan):
            return
        vouched = vouch(named, self._observed, private=self._way_out.private)
        means = None if vouched is None else self._means(ice, locals_, named, vouched)
        if means is not None:
            self._attempt = Attempt(plan, means, now)
            self._drain(now)

    def heard(self, move: Move, now: float) -> None:
        """What the peer says of its part."""
        if self._attempt is None:
            if isinstance(move, PlanTerms):
                self._theirs = move
        elif not self._direct:
            self._attempt.heard(move, now)
            self._drain(now)

    def opened(self, bases: Sequence[Address], now: float) -> None:
        """Further sockets that were asked for."""
        if self._attempt is None:
            self._outputs.append(CloseSockets(tuple(bases)))
            return
        self._sockets.update(bases)
        self._attempt.opened(bases, now)
        self._drain(now)

    def lost(self, base: Address) -> None:
        """A further socket is gone."""
        self._sockets.discard(base)
        if base in self._found:
            self._found.remove(base)
        elif self._attempt is not None:
            self._attempt.lost(base)

    def receive(self, datagram: Datagram, ice: IceAgent, now: float) -> LocalCandidate | None:
        """A datagram. The candidate that a further socket is from now on, if this was a check of
        the peer's to it: the first proof that there is a way to it."""
        if datagram.destination not in self._sockets or not looks_like_stun(datagram.payload):
            return None
        if self._attempt is not None:
            self._attempt.receive(datagram, now)
            self._drain(now)
        base = datagram.destination
        if base in self._found or len(self._found) == MAX_FOUND:
            return None
        if not is_check_for(datagram, ice.local_credentials):
            return None
        self._found.append(base)
        if self._attempt is not None:
            self._attempt.keep(base)
        self._history.note(Answered("a further socket", datagram.source), now)
        preference = FOUND_PREFERENCE - len(self._found)
        priority = candidate_priority(CandidateKind.HOST, preference)
        foundation = f"further{len(self._found)}"
        candidate = Candidate(foundation, 1, "udp", priority, base, CandidateKind.HOST)
        return LocalCandidate(candidate, base)

    def path_changed(self, direct: bool, now: float) -> None:
        """Whether payload travels directly now: then the attempt has come to its end."""
        self._direct = direct
        if direct and self._attempt is not None and not self._attempt.is_over:
            self._attempt.end(self._found)
            self._drain(now)

    def end(self) -> None:
        """The call is over: all further sockets are closed."""
        if self._attempt is not None:
            self._attempt.end(())
            self._attempt = None
        if self._sockets:
            self._outputs.append(CloseSockets(tuple(self._sockets)))
            self._sockets.clear()
        self._direct = True

    def handle_timeout(self, now: float) -> None:
        attempt = self._attempt
        if attempt is None:
            return
        was_over = attempt.is_over
        attempt.handle_timeout(now)
        if attempt.is_over and not (was_over or self._direct):
            self._history.note(GaveUp(f"the plan {attempt.plan.kind.value} found no way"), now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return None if self._attempt is None else self._attempt.next_timeout()

    def outputs(self) -> Iterator[PunchingOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    def _means(
        self,
        ice: IceAgent,
        locals_: Sequence[LocalCandidate],
        named: Sequence[Candidate],
        vouched: VouchedHost,
    ) -> Means | None:
        """None while we have no socket that is seen outside."""
        assert self._ours is not None
        assert self._theirs is not None
        seen = sorted(
            (
                each
                for each in locals_
                if each.candidate.kind is not CandidateKind.RELAYED
                and not each.candidate.address.is_ipv6
            ),
            key=lambda each: each.candidate.kind is CandidateKind.HOST,
        )
        targets = sorted(
            (each for each in named if each.address.host == vouched.host),
            key=lambda each: -each.priority,
        )
        if not seen:
            return None
        return Means(
            ice=ice,
            ledger=self._way_out.ledger,
            vouched=vouched,
            base=seen[0].base,
            ports={each.candidate.address.port: each.base for each in reversed(seen)},
            targets=[each.address.port for each in targets],
            server=next((s for s in self._way_out.servers if not s.is_ipv6), None),
            ours=self._ours,
            theirs=self._theirs,
            random=self._way_out.random,
        )

    def _drain(self, now: float) -> None:
        if self._attempt is None:
            return
        for output in self._attempt.outputs():
            match output:
                case Open(host, count):
                    self._outputs.append(OpenSockets(self._call_id, host, count))
                case Close(bases):
                    self._sockets.difference_update(bases)
                    self._outputs.append(CloseSockets(bases))
                case Tell(move):
                    self._outputs.append(move)
                case Note(step):
                    self._history.note(step, now)
                case Transmit():
                    self._outputs.append(output)
