"""Candidates in one call: what the other side knows of ours, and what we know of theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from knothole.engine.endpoint.history import CandidateCount
from knothole.engine.endpoint.privacy import only_relayed
from knothole.engine.ice.agent import IceAgent
from knothole.engine.ice.pair import LocalCandidate
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind, decode_candidate, encode_candidate
from knothole.wire.malformed import MalformedMessage
from knothole.wire.signal.values import MAX_CANDIDATES


class CandidateExchange:
    """Feeds the ICE agent of a call, once there is one (RFC 8838: in any order, at any time).

    With ``relay_only`` neither the agent nor the other side learns of any other candidate.
    """

    def __init__(self, locals_: tuple[LocalCandidate, ...], *, relay_only: bool = False) -> None:
        self._relay_only = relay_only
        self._locals = self._allowed(locals_)
        self._told: set[str] = set()
        self._ice: IceAgent | None = None
        self._bases: set[Address] = set()
        self._used: Address | None = None
        self._found: list[LocalCandidate] = []
        self._told_us: set[Address] = set()  # by the other side, not only by the server

    @property
    def locals(self) -> tuple[LocalCandidate, ...]:
        """Our standing candidates."""
        return self._locals

    @property
    def remotes(self) -> frozenset[Address]:
        """Where the other side may be: what it told and the agent kept, and where payload goes."""
        candidates = () if self._ice is None else self._ice.remote_candidates
        used = () if self._used is None else (self._used,)
        return frozenset((*(candidate.address for candidate in candidates), *used))

    @property
    def named(self) -> tuple[Candidate, ...]:
        """The candidates that the other side told itself; what is on file is the server's word."""
        candidates = () if self._ice is None else self._ice.remote_candidates
        return tuple(each for each in candidates if each.address in self._told_us)

    def counts(self) -> tuple[tuple[CandidateCount, ...], tuple[CandidateCount, ...]]:
        """How many candidates of each kind are ours, and the other side's."""
        theirs = () if self._ice is None else self._ice.remote_candidates
        return _counts(each.candidate for each in self._locals), _counts(theirs)

    def tell_all(self) -> tuple[str, ...]:
        """Our candidates, for an offer or an answer."""
        lines = self._lines()
        self._told.update(lines)
        return lines

    def tell_new(self) -> tuple[str, ...]:
        """Those of ours that the other side does not know, for a trickle (RFC 8838)."""
        lines = self._lines()
        self._told.intersection_update(lines)
        fresh = tuple(line for line in lines if line not in self._told)
        self._told.update(fresh)
        return fresh

    def forget_told(self) -> None:
        """What was told may have been lost: it is new again."""
        self._told.clear()

    def begin(self, ice: IceAgent, now: float) -> None:
        """An agent, with other credentials than the one before: it learns our candidates, and the
        other side's come anew."""
        self._ice = ice
        self._bases.clear()
        self._told_us.clear()
        self._used = None
        self._give(ice, now)

    def set_locals(self, locals_: tuple[LocalCandidate, ...], now: float) -> None:
        """Our candidates are these now."""
        self._locals = self._allowed(locals_)
        if self._ice is not None:
            self._give(self._ice, now)

    def add_found(self, found: LocalCandidate, now: float) -> None:
        """A further socket, on which the other side was heard: it knows, and is not told."""
        assert self._ice is not None
        self._found.append(found)
        self._ice.add_local_candidate(found.candidate, found.base, now)

    def add_remotes(self, lines: Iterable[str], now: float, *, on_file: bool = False) -> bool:
        """Candidates that the other side told, or the server has ``on_file``; True when
        :attr:`remotes` has become another."""
        assert self._ice is not None
        before = self.remotes
        for line in lines:
            try:
                candidate = decode_candidate(line)
            except MalformedMessage:
                continue  # RFC 8839 Section 5.1: what is not understood is ignored
            if candidate.transport == "udp" and candidate.kind is not CandidateKind.PEER_REFLEXIVE:
                self._ice.add_remote_candidate(candidate, now)
                if not on_file:
                    self._told_us.add(candidate.address)
        self._told_us.intersection_update(each.address for each in self._ice.remote_candidates)
        return self.remotes != before

    def use(self, remote: Address | None) -> bool:
        """Payload goes to ``remote``, which nobody may have told of: it is peer-reflexive then.
        True when :attr:`remotes` has become another."""
        before, self._used = self.remotes, remote
        return self.remotes != before

    def _allowed(self, locals_: tuple[LocalCandidate, ...]) -> tuple[LocalCandidate, ...]:
        return only_relayed(locals_) if self._relay_only else locals_

    def _give(self, ice: IceAgent, now: float) -> None:
        bases = {local.base for local in self._locals}
        for gone in sorted(self._bases - bases):
            ice.remove_local_base(gone, now)
        self._bases = bases
        for local in self._locals:
            ice.add_local_candidate(local.candidate, local.base, now)
        kept = (*self._locals, *self._found)
        ice.retain_local_candidates({(each.candidate.address, each.base) for each in kept})

    def _lines(self) -> tuple[str, ...]:
        return tuple(encode_candidate(each.candidate) for each in self._locals[:MAX_CANDIDATES])


def _counts(candidates: Iterable[Candidate]) -> tuple[CandidateCount, ...]:
    kinds = Counter((each.kind.value, each.address.is_ipv6) for each in candidates)
    return tuple(CandidateCount(*kind, count) for kind, count in kinds.items())
