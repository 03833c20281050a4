"""What an ICE agent tells its owner, besides Transmit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.core import Transmit
from knothole.engine.ice.pair import Pair
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate


@dataclass(frozen=True, slots=True)
class PairValid:
    """A check on this pair was answered: payload may flow (RFC 8445 Section 12.1)."""

    pair: Pair


@dataclass(frozen=True, slots=True)
class BestPairChanged:
    """Payload goes here from now on; None when there is no pair that it may go to."""

    pair: Pair | None


@dataclass(frozen=True, slots=True)
class Nominated:
    """Both agents agreed on this pair (RFC 8445 Section 8.1.1)."""

    pair: Pair


@dataclass(frozen=True, slots=True)
class ConsentLost:
    """The pair is no longer valid: nothing but checks may be sent on it (RFC 7675)."""

    pair: Pair


@dataclass(frozen=True, slots=True)
class RemoteCandidateDiscovered:
    """The peer checked us from an address that it had not told: peer-reflexive."""

    candidate: Candidate


@dataclass(frozen=True, slots=True)
class LocalCandidateDiscovered:
    """The peer sees ``base`` under an address that we did not know: peer-reflexive."""

    candidate: Candidate
    base: Address


@dataclass(frozen=True, slots=True)
class RoleChanged:
    """Both agents had the same role, and it was for us to change."""

    controlling: bool


@dataclass(frozen=True, slots=True)
class IceFailed:
    """No pair is valid and none is left to hope for; only an ICE restart helps."""

    reason: str


SessionOutput: TypeAlias = (
    Transmit
    | PairValid
    | Nominated
    | ConsentLost
    | RemoteCandidateDiscovered
    | LocalCandidateDiscovered
    | IceFailed
)

IceOutput: TypeAlias = SessionOutput | BestPairChanged | RoleChanged
