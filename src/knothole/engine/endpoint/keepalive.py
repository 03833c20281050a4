"""How often the mapping towards the STUN server is kept warm: as seldom as it lets us."""

from __future__ import annotations

from typing import Final

from knothole.wire.nat import Dependence, NatReport

UNKNOWN_SECONDS: Final = 12.0
"""Ours: Linux forgets a UDP mapping 30 s after the last packet; two keepalives may be lost."""

MARGIN_SECONDS: Final = (
    3.0  # ours: half the lifetime, so that one may be lost, and time to ask again
)
MOST_SECONDS: Final = 57.0
"""Ours: half of the two minutes that a mapping should live at least (RFC 4787, REQ-5), and the
margin. What was seen to live longer may be another box's doing tomorrow."""

LEAST_SECONDS: Final = 4.0  # ours: below, the keepalives would be the traffic


def keepalive_seconds(report: NatReport | None) -> float:
    """The period of keepalives behind the NAT of ``report`` (for IPv4)."""
    if report is None or report.lifetime_seconds is None:
        return UNKNOWN_SECONDS
    return min(max(report.lifetime_seconds / 2 - MARGIN_SECONDS, LEAST_SECONDS), MOST_SECONDS)


def payload_keeps_mapping(report: NatReport | None) -> bool:
    """Whether payload to anybody keeps alive what the STUN server sees: one mapping is for all."""
    return report is not None and report.mapping is Dependence.ENDPOINT_INDEPENDENT
