"""Standing candidates as ICE describes them: kind, foundation, priority (RFC 8445 Section 5.1)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.turn.client import Allocation
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind, candidate_priority


class Describer:
    """Makes candidates of addresses. A foundation, once given, stays (RFC 8445 Section 5.1.1.3)."""

    def __init__(self) -> None:
        self._foundations: dict[tuple[object, ...], str] = {}

    def candidates(
        self,
        bases: Sequence[Address],
        mappings: Sequence[tuple[Address, Address, Address]],
        relayed: Sequence[tuple[Address, Allocation]],
    ) -> tuple[LocalCandidate, ...]:
        """Host candidates of ``bases`` (best first), then what ``mappings`` (base, server, mapped
        address) and ``relayed`` addresses add."""
        return (
            *self._hosts(bases),
            *self._reflexive(bases, mappings),
            *self._relayed(relayed),
        )

    def _hosts(self, bases: Sequence[Address]) -> Iterator[LocalCandidate]:
        for rank, base in enumerate(bases):
            yield self._candidate(CandidateKind.HOST, base, base, rank, ())

    def _reflexive(
        self, bases: Sequence[Address], mappings: Sequence[tuple[Address, Address, Address]]
    ) -> Iterator[LocalCandidate]:
        seen: set[tuple[Address, Address]] = set()
        for base, server, mapped in mappings:
            # RFC 8445 Section 5.1.3: redundant when it is the base itself, or known already.
            if mapped == base or base not in bases or (base, mapped) in seen:
                continue
            seen.add((base, mapped))
            kind, rank = CandidateKind.SERVER_REFLEXIVE, bases.index(base)
            yield self._candidate(kind, mapped, base, rank, (server.host,), related=base)

    def _relayed(self, relayed: Sequence[tuple[Address, Allocation]]) -> Iterator[LocalCandidate]:
        for rank, (address, allocation) in enumerate(relayed):
            source = (allocation.server.host, allocation.transport)
            mapped = allocation.mapped_address
            kind = CandidateKind.RELAYED
            yield self._candidate(kind, address, address, rank, source, related=mapped)

    def _candidate(
        self,
        kind: CandidateKind,
        address: Address,
        base: Address,
        rank: int,
        source: tuple[object, ...],
        related: Address | None = None,
    ) -> LocalCandidate:
        # RFC 8445 Section 5.1.1.3: same type, base IP address, server and transport.
        key = (kind, base.host, *source)
        foundation = self._foundations.setdefault(key, str(len(self._foundations) + 1))
        priority = candidate_priority(kind, 65535 - rank)
        return LocalCandidate(
            Candidate(foundation, 1, "udp", priority, address, kind, related), base
        )
