"""The two candidate sets of an agent, bounded where the peer can make them grow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.ice.stray import STRAY_PRIORITY
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind

COMPONENT: Final = 1  # one data stream with one component: what QUIC needs

DISCOVERY_INTERVAL_SECONDS: Final = 2.0
"""Ours: after the first so many, one peer-reflexive candidate in this time. Where both NATs map by
address and port and neither filters by port, every check comes from a new port and is checked in
turn from another: without a limit both ends chase each other for ever, at the pace of Ta. The same
holds for signalled candidates that take an older one's place: the peer is not to make us check the
whole internet (RFC 8445 Section 19.5.1)."""

REPLACEMENTS_AT_ONCE: Final = 16  # ours: four changes of a peer's network


STRAY_LIMIT: Final = 4
"""Ours: a scan of the peer's may come in from hundreds of ports at once where our NAT lets it; so
many of them are enough, and the others leave room for checks of its candidates."""


class LocalCandidates:
    """Our candidates; they outlive an ICE restart as long as their base does.

    ``streams`` are connections that are open: our end of each, and what is at the other.
    """

    def __init__(self) -> None:
        self._candidates: list[LocalCandidate] = []
        self.streams: list[tuple[LocalCandidate, Candidate]] = []

    def add_stream(self, local: LocalCandidate, remote: Candidate) -> None:
        """A connection from ``local``; no other candidate has its base."""
        self._candidates.append(local)
        self.streams.append((local, remote))

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

    def retain(self, gathered: Collection[tuple[Address, Address]]) -> None:
        """Forget what was gathered before and is not among these addresses and bases."""
        self._candidates = [
            each
            for each in self._candidates
            if each.candidate.kind is CandidateKind.PEER_REFLEXIVE
            or each.candidate.transport == "tcp"
            or (each.candidate.address, each.base) in gathered
        ]

    def remove_base(self, base: Address) -> bool:
        """Forget what is sent from ``base``; whether there was anything."""
        kept = [each for each in self._candidates if each.base != base]
        gone = len(kept) < len(self._candidates)
        self.streams = [each for each in self.streams if each[0].base != base]
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
        """One candidate for each UDP base (RFC 8445 Section 6.1.2.4: reflexive ones are
        replaced)."""
        udp = (each.base for each in self._candidates if each.candidate.transport == "udp")
        for base in dict.fromkeys(udp):
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
                transport=base.candidate.transport,
                priority=priority,
                address=address,
                kind=CandidateKind.PEER_REFLEXIVE,
                related=base.base,
                tcp_type=base.candidate.tcp_type,
            ),
            base.base,
        )
        self._candidates.append(found)
        return found


class _Pace:
    """``burst`` at once, then one in ``DISCOVERY_INTERVAL_SECONDS``."""

    def __init__(self, burst: int) -> None:
        self._burst = burst
        self._paid_at = 0.0

    def allows(self, now: float) -> bool:
        paid_at = max(self._paid_at, now) + DISCOVERY_INTERVAL_SECONDS
        if paid_at > now + self._burst * DISCOVERY_INTERVAL_SECONDS:
            return False
        self._paid_at = paid_at
        return True


class RemoteCandidates:
    """What the peer told us and what its checks showed, at most so many of each.

    With ``keeps_newest`` the peer is a knothole, which has one base for each of its IP addresses: a
    new address of the same kind and foundation is where the old one was mapped before, and takes
    its place unless that is still ``needed``. When there are too many the oldest goes.
    """

    def __init__(
        self,
        limit: int,
        peer_reflexive_limit: int,
        needed: Callable[[Address], bool],
        keeps_newest: bool = False,
    ) -> None:
        self._limit = limit
        self._peer_reflexive_limit = peer_reflexive_limit
        self._needed = needed
        self._keeps_newest = keeps_newest
        self._candidates: dict[Address, Candidate] = {}
        self._count = 0
        self._discoveries = _Pace(peer_reflexive_limit)
        self._replacements = _Pace(REPLACEMENTS_AT_ONCE)

    def __iter__(self) -> Iterator[Candidate]:
        return iter(self._candidates.values())

    def get(self, address: Address) -> Candidate | None:
        return self._candidates.get(address)

    def signalled(self) -> list[Candidate]:
        """What the peer told, oldest first."""
        return [each for each in self if each.kind is not CandidateKind.PEER_REFLEXIVE]

    def add(self, candidate: Candidate, now: float) -> bool:
        """Take a signalled candidate; False when it is redundant, unusable or one too many.

        It replaces a peer-reflexive one of the same address (RFC 8445 Section 7.3.1.3: "will signal
        the actual foundation").
        """
        known = self._candidates.get(candidate.address)
        if not usable(candidate) or (
            known is not None and known.kind is not CandidateKind.PEER_REFLEXIVE
        ):
            return False
        spare = self._replaced_by(candidate) if self._keeps_newest else None
        if spare is None and len(self.signalled()) >= self._limit:
            return False
        if spare is not None:
            if not self._replacements.allows(now):
                return False
            del self._candidates[spare]
        self._candidates[candidate.address] = candidate
        return True

    def discover(self, address: Address, priority: int, now: float) -> Candidate | None:
        """The peer checked us from ``address``: a peer-reflexive candidate.

        When there are too many the oldest that is not needed is forgotten. None when all are,
        or when they come too fast (:data:`DISCOVERY_INTERVAL_SECONDS`).
        """
        found = [each for each in self if each.kind is CandidateKind.PEER_REFLEXIVE]
        strays = sum(each.priority == STRAY_PRIORITY for each in found)
        if priority == STRAY_PRIORITY and strays >= STRAY_LIMIT:
            return None
        is_full = len(found) >= self._peer_reflexive_limit
        spare = self._spare(found) if is_full else None
        if (is_full and spare is None) or not self._discoveries.allows(now):
            return None
        if spare is not None:
            del self._candidates[spare]
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

    def _replaced_by(self, candidate: Candidate) -> Address | None:
        signalled = self.signalled()
        same = [
            each
            for each in signalled
            if (each.kind, each.foundation) == (candidate.kind, candidate.foundation)
        ]
        spare = self._spare(same)
        is_full = len(signalled) >= self._limit
        return self._spare(signalled) if spare is None and is_full else spare

    def _spare(self, candidates: list[Candidate]) -> Address | None:
        return next((each.address for each in candidates if not self._needed(each.address)), None)


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
