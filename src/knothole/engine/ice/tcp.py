"""TCP candidates in an ICE agent: connections that are open already (RFC 6544).

Whoever owns the agent opens the connection by a simultaneous open and gives its two ends to
:meth:`~knothole.engine.ice.agent.IceAgent.add_stream`: one pair, which no other candidate pairs
with. Checks and payload on it are framed by the driver (RFC 4571).
"""

from __future__ import annotations

from typing import Final

from knothole.engine.ice.pair import LocalCandidate
from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind

SIMULTANEOUS_OPEN: Final = "so"

# Ours, in the order that RFC 6544 Section 4.2 wants: UDP first, so every direct pair over TCP comes
# after every direct pair over UDP and before every relayed one.
_TYPE_PREFERENCES: Final = {
    CandidateKind.HOST: 60,
    CandidateKind.PEER_REFLEXIVE: 55,
    CandidateKind.SERVER_REFLEXIVE: 50,
}
_OTHER_PREFERENCE: Final = 8191
_DIRECTION_PREFERENCES: Final = {True: 2, False: 6}  # `so` of a host candidate, and behind a NAT


def tcp_priority(kind: CandidateKind) -> int:
    """The priority of a ``so`` candidate, in the shape of RFC 8445 Section 5.1.2.1."""
    direction = _DIRECTION_PREFERENCES[kind is CandidateKind.HOST]
    local_preference = direction << 13 | _OTHER_PREFERENCE
    return _TYPE_PREFERENCES[kind] << 24 | local_preference << 8 | 255


def so_candidate(address: Address, base: Address) -> Candidate:
    """``address`` is where the peer is to aim at while we connect from ``base``."""
    kind = CandidateKind.HOST if address == base else CandidateKind.SERVER_REFLEXIVE
    related = None if kind is CandidateKind.HOST else base
    return Candidate(
        foundation="tcp" + kind.value,
        component=1,
        transport="tcp",
        priority=tcp_priority(kind),
        address=address,
        kind=kind,
        related=related,
        tcp_type=SIMULTANEOUS_OPEN,
    )


def is_stream(local: LocalCandidate) -> bool:
    """Whether what is sent from ``local`` travels on a connection."""
    return local.candidate.transport == "tcp"
