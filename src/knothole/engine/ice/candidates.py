"""The two candidate sets of an agent, bounded where the peer can make them grow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from knothole.engine.ice.pair import LocalCandidate
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind

COMPONENT: Final = 1  # one data stream with one component: what QUIC needs

DISCOVERY_INTERVAL_SECONDS: Final = 2.0
"""Ours: after the first so many, one peer-reflexive candidate in this time. Where both NATs map by
address and port and neither filters by port, every check comes from a new port and is checked in
turn from another: without a limit both ends chase each other for ever, at the pace of Ta."""


class LocalCandidates:
    """Our candidates; they outlive an ICE restart as long as their base does."""

    def __init__(self) -> None:
        self._candidates: list[LocalCandidate] = []

    def add(self, candidate: Candidate, base: Address) -> LocalCandidate | None:
        """The new candidate, or None when it is redundant (RFC 8445 Section 5.1.3).

        A peer-reflexive candidate gives way to a gathered one of the same address and base.
        Raises ValueError for a candidate this agent has no use for: not UDP, not component 1.
        """
        if candidate.transport != "udp" or candidate.component != COMPONENT:
            raise ValueError("this agent has one component, over UDP")
        added = LocalCandidate(candidate, base)
        twin = self.find(candidate.address, base)
        if twin is not None:
            gathered = twin.candidate.kind is not CandidateKind.PEER_REFLEXIVE
            if gathered and twin.candidate.priority >= candidate.priority:
                return None
            self._candidates.remove(twin)
        self._candidates.append(added)
        return added

    def remove_base(self, base: Address) -> bool:
        """Forget what is sent from ``base``; whether there was anything."""
        kept = [each for each in self._candidates if each.base != base]
        gone = len(kept) < len(self._candidates)
        self._candidates = kept
        return gone

    def find(self, address: Address, base: Address) -> LocalCandidate | None:
        for each in self._candidates:
            if each.candidate.address == address and each.base == base:
                return each
        return None

    def best_of(self, base: Address) -> LocalCandidate | None:
        """The gathered candidate that pairs from ``base`` are made of: the highest priority."""
        found = [
            each
            for each in self._candidates
            if each.base == base and each.candidate.kind is not CandidateKind.PEER_REFLEXIVE
        ]
        return max(found, key=lambda each: each.candidate.priority, default=None)

    def bases(self) -> Iterator[LocalCandidate]:
        """One candidate for each base (RFC 8445 Section 6.1.2.4: reflexive ones are replaced)."""
        for base in dict.fromkeys(each.base for each in self._candidates):
            best = self.best_of(base)
            if best is not None:
                yield best

    def discover(self, address: Address, base: LocalCandidate, priority: int) -> LocalCandidate:
        """The peer saw us at ``address``: a peer-reflexive candidate (RFC 8445 7.2.5.3.1).

        Only the latest such address of a base is kept.
        """
        self._candidates = [
            each
            for each in self._candidates
            if each.base != base.base or each.candidate.kind is not CandidateKind.PEER_REFLEXIVE
        ]
        found = LocalCandidate(
            Candidate(
                foundation="P" + base.candidate.foundation[:31],
                component=COMPONENT,
                transport="udp",
                priority=priority,
                address=address,
                kind=CandidateKind.PEER_REFLEXIVE,
                related=base.base,
            ),
            base.base,
        )
        self._candidates.append(found)
        return found


class RemoteCandidates:
    """What the peer told us and what its checks showed, at most so many of each."""

    def __init__(self, limit: int, peer_reflexive_limit: int) -> None:
        self._limit = limit
        self._peer_reflexive_limit = peer_reflexive_limit
        self._candidates: dict[Address, Candidate] = {}
        self._count = 0
        self._discoveries_paid_at = 0.0

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    def get(self, address: Address) -> Candidate | None:
        return self._candidates.get(address)

    def add(self, candidate: Candidate) -> bool:
        """Take a signalled candidate; False when it is redundant, unusable or one too many.

        It replaces a peer-reflexive one of the same address (RFC 8445 Section 7.3.1.3: "will signal
        the actual foundation").
        """
        known = self._candidates.get(candidate.address)
        signalled = [each for each in self if each.kind is not CandidateKind.PEER_REFLEXIVE]
        if (
            not usable(candidate)
            or len(signalled) >= self._limit
            or (known is not None and known.kind is not CandidateKind.PEER_REFLEXIVE)
        ):
            return False
        self._candidates[candidate.address] = candidate
        return True

    def discover(
        self, address: Address, priority: int, needed: Callable[[Address], bool], now: float
    ) -> Candidate | None:
        """The peer checked us from ``address``: a peer-reflexive candidate.

        When there are too many the oldest that is not ``needed`` is forgotten. None when all are,
        or when they come too fast (:data:`DISCOVERY_INTERVAL_SECONDS`).
        """
        paid_at = max(self._discoveries_paid_at, now) + DISCOVERY_INTERVAL_SECONDS
        if paid_at > now + self._peer_reflexive_limit * DISCOVERY_INTERVAL_SECONDS:
            return None
        found = [each for each in self if each.kind is CandidateKind.PEER_REFLEXIVE]
        if len(found) >= self._peer_reflexive_limit:
            spare = next((each.address for each in found if not needed(each.address)), None)
            if spare is None:
                return None
            del self._candidates[spare]
        self._discoveries_paid_at = paid_at
        self._count += 1
        candidate = Candidate(
            foundation=f"p{self._count}",
            component=COMPONENT,
            transport="udp",
            priority=priority,
            address=address,
            kind=CandidateKind.PEER_REFLEXIVE,
        )
        while any(each.foundation == candidate.foundation for each in self):
            candidate = replace(candidate, foundation=candidate.foundation + "p")
        self._candidates[address] = candidate
        return candidate


def usable(candidate: Candidate) -> bool:
    """Whether checks may be sent to a signalled candidate at all."""
    ip = ip_address(candidate.address.host)
    return (
        candidate.transport == "udp"
        and candidate.component == COMPONENT
        and candidate.address.port > 0
        and not ip.is_multicast
        and not ip.is_unspecified
        and candidate.address.host != "255.255.255.255"
    )


def may_pair(local: Address, remote: Address) -> bool:
    """Same family, and IPv6 link-local only with its like (RFC 8445 Section 6.1.2.2)."""
    ours, theirs = ip_address(local.host), ip_address(remote.host)
    if ours.version != theirs.version:
        return False
    return ours.version == 4 or ours.is_link_local == theirs.is_link_local
