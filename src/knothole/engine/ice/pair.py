"""Candidate pairs: what is checked, and the value that tells the outside about one."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from knothole.engine.ice.consent import Consent
from knothole.wire.address import Address, Transport
from knothole.wire.candidate import Candidate, CandidateKind


class PairState(enum.Enum):
    """RFC 8445 Section 6.1.2.6."""

    FROZEN = enum.auto()
    WAITING = enum.auto()
    IN_PROGRESS = enum.auto()
    SUCCEEDED = enum.auto()
    FAILED = enum.auto()


@dataclass(frozen=True, slots=True)
class LocalCandidate:
    """A candidate of ours and the base it is sent from (a relayed candidate is its own base)."""

    candidate: Candidate
    base: Address


@dataclass(frozen=True, slots=True)
class Pair:
    """A valid pair as the agent tells of it. Two with the same ends are equal.

    Payload goes from ``base`` to ``remote.address``; ``local`` is the candidate that the peer sees
    it come from. ``rtt_seconds`` is None until a round trip was measured cleanly.
    """

    base: Address
    remote_address: Address
    local: Candidate = field(compare=False)
    remote: Candidate = field(compare=False)
    priority: int = field(compare=False)
    nominated: bool = field(compare=False)
    rtt_seconds: float | None = field(compare=False)

    @property
    def transport(self) -> Transport:
        """What carries it between the ends, or to our relay's address."""
        return Transport.TCP if self.local.transport == "tcp" else Transport.UDP

    @property
    def relayed(self) -> bool:
        """Whether a TURN server stands between the ends, ours or the peer's."""
        return CandidateKind.RELAYED in (self.local.kind, self.remote.kind)

    def __str__(self) -> str:
        local, remote = self.local.kind.value, self.remote.kind.value
        return f"{self.base} ({local}) - {self.remote_address} ({remote})"


@dataclass(slots=True, eq=False)
class CandidatePair:
    """One line of a checklist, keyed by base and remote address (RFC 8445 Section 6.1.2.4).

    ``local`` is the candidate that was paired; after a success ``seen_as`` is the one whose address
    the peer saw (RFC 8445 Section 7.2.5.3.2), and the pair is in the valid list while ``consent``
    is not None.
    """

    local: LocalCandidate
    remote: Candidate
    state: PairState = PairState.FROZEN
    priority: int = 0
    seen_as: LocalCandidate | None = None
    consent: Consent | None = None
    rtt_seconds: float | None = None
    nominated: bool = False
    nominating: bool = False  # controlling: the next check carries USE-CANDIDATE
    nominate_on_success: bool = False  # controlled: USE-CANDIDATE came before our own success
    checked_by_peer: bool = False
    revoked: bool = False  # RFC 7675 Section 5.1: these credentials are spent on this 5-tuple

    @property
    def base(self) -> Address:
        return self.local.base

    @property
    def key(self) -> tuple[Address, Address]:
        return self.local.base, self.remote.address

    @property
    def transport(self) -> Transport:
        return Transport.TCP if self.local.candidate.transport == "tcp" else Transport.UDP

    @property
    def foundation(self) -> tuple[str, str]:
        return self.local.candidate.foundation, self.remote.foundation

    @property
    def valid(self) -> bool:
        return self.consent is not None

    @property
    def unresolved(self) -> bool:
        """Whether this pair may still become valid by itself."""
        return self.state in (PairState.FROZEN, PairState.WAITING, PairState.IN_PROGRESS)

    @property
    def doubted(self) -> bool:
        return self.consent is not None and self.consent.doubted

    @property
    def relayed(self) -> bool:
        local = self.seen_as or self.local
        return CandidateKind.RELAYED in (local.candidate.kind, self.remote.kind)

    def valid_priority(self, controlling: bool) -> int:
        """The priority of the valid pair, whose local candidate is the one the peer saw."""
        local = self.seen_as or self.local
        return pair_priority(local.candidate.priority, self.remote.priority, controlling)

    def measured(self, seconds: float) -> None:
        """Take one clean round trip into the average (RFC 6298 Section 2: alpha = 1/8)."""
        known = self.rtt_seconds
        self.rtt_seconds = seconds if known is None else known + (seconds - known) / 8

    def snapshot(self, controlling: bool) -> Pair:
        return Pair(
            self.base,
            self.remote.address,
            (self.seen_as or self.local).candidate,
            self.remote,
            self.valid_priority(controlling),
            self.nominated,
            self.rtt_seconds,
        )


def pair_priority(local: int, remote: int, controlling: bool) -> int:
    """RFC 8445 Section 6.1.2.3: 2^32*MIN(G,D) + 2*MAX(G,D) + (G>D?1:0)."""
    g, d = (local, remote) if controlling else (remote, local)
    return (min(g, d) << 32) + 2 * max(g, d) + (1 if g > d else 0)


def check_priority(candidate: Candidate) -> int:
    """The PRIORITY attribute: the candidate's, were it peer-reflexive (RFC 8445 Section 7.1.1).

    That of a TCP candidate stays, so that TCP remains behind UDP."""
    if candidate.transport == "tcp":
        return candidate.priority
    return CandidateKind.PEER_REFLEXIVE.type_preference << 24 | candidate.priority & 0xFFFFFF
