"""The agent's knobs, and the two settings that are used: with anyone, and between knotholes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class IceOptions:
    """Times in seconds. The defaults are the standard's, safe with any other agent.

    ``continuous`` says that the peer is a knothole too: checks for a better pair go on after
    nomination, payload follows the best pair at any time, a pair that falls silent is doubted
    within half a second, and lost pairs may be won back with the same credentials
    (docs/protocol/ice.md says where that leaves the RFCs).
    """

    # RFC 8445 Section 14.2: "SHOULD use a default Ta value, 50 ms"; both use the higher value.
    ta_seconds: float = 0.05
    # RFC 8445 Section 14.3: "MUST NOT use an RTO value smaller than 500 ms".
    rto_seconds: float = 0.5
    # RFC 8489 Section 6.2.1: the RTO doubles without limit, Rc = 7 transmissions, Rm = 16.
    rto_limit_seconds: float = 60.0
    transmissions: int = 7
    final_wait_rtos: int = 16
    # RFC 8445 Section 6.1.2.5: "The default limit of candidate pairs ... is 100".
    pair_limit: int = 100
    # RFC 8445 Section 19.5.1: "agents MAY limit the number of candidates they will accept".
    remote_candidate_limit: int = 64
    peer_reflexive_limit: int = 16
    # RFC 8863 Section 4: "equal to the agent's connectivity check transaction timeout ... 39.5
    # seconds".
    pac_seconds: float = 39.5
    # Ours: how long a better pair is waited for once there is a valid one (RFC 8445 Section 8.1.1
    # leaves it open). A direct pair may still be beaten by a host pair, a relayed one by a hole
    # that needs a few more tries.
    nominate_direct_after_seconds: float = 0.5
    nominate_relayed_after_seconds: float = 3.0
    # RFC 7675 Section 5.1: "a default interval of 5 seconds", "MUST NOT ... less than 4 seconds";
    # spare pairs are asked at twice the period and a bit, twice within the 30 s of consent.
    consent_interval_seconds: float = 5.0
    spare_interval_seconds: float = 12.0
    spare_pairs: int = 3
    # Ours, with ``continuous``: how soon a round in which every pair failed is begun again.
    revive_after_seconds: float = 1.0
    continuous: bool = False


STANDARD: Final = IceOptions()
"""With agents of other people."""

BETWEEN_KNOTHOLES: Final = IceOptions(
    # RFC 8445 Section 14.2: no two transactions within 5 ms. Both ends know this value.
    ta_seconds=0.005,
    # Ours: an offer has 32 at most; when more are trickled the oldest that lead nowhere go.
    remote_candidate_limit=40,
    # Ours, below the RFC's 500 ms: a lost check costs a tenth of a second. The interval stops
    # doubling at 0.8 s, so that a hole which opens late is found.
    rto_seconds=0.1,
    rto_limit_seconds=0.8,
    transmissions=16,
    final_wait_rtos=10,
    continuous=True,
)
"""Both ends run this code, and the offer says so."""
