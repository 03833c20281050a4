"""The one address that may get more than the ordinary candidates: vouched for by both words.

The peer names its addresses in sealed candidates, which the server cannot read; the server says
where the peer's connections to it come from, which the peer cannot choose. Only an address in both
is probed, so neither a lying peer nor a lying server alone can make us scan a third host
(docs/protocol/plans.md Section 5).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from knothole.wire.address import Address
from knothole.wire.candidate import Candidate, CandidateKind
from knothole.wire.prohibited import peer_prohibited

_KEY: Final = object()


class VouchedHost:
    """An IPv4 address of a peer in a call; only :func:`vouch` makes one."""

    __slots__ = ("host",)

    def __init__(self, host: str, *, key: object) -> None:
        if key is not _KEY:
            raise TypeError("an address is vouched for by both words, or not at all: see vouch()")
        self.host: Final = host

    def at(self, port: int) -> Address:
        """This host at a port."""
        return Address(self.host, port)

    def __repr__(self) -> str:
        return f"VouchedHost({self.host!r})"


def vouch(
    named: Iterable[Candidate], observed: Iterable[str], *, private: bool = False
) -> VouchedHost | None:
    """The address that the peer ``named`` and the server ``observed``; None when there is none.

    Of several the one with the best candidate. Only public unicast addresses, unless ``private``
    allows others for a network of one's own. Relayed candidates name the relay, not the peer.
    """
    seen = frozenset(observed)
    fitting = [
        candidate
        for candidate in named
        if candidate.address.host in seen
        and not candidate.address.is_ipv6
        and candidate.kind is not CandidateKind.RELAYED
        and (private or peer_prohibited(candidate.address.host) is None)
    ]
    best = max(fitting, key=lambda candidate: candidate.priority, default=None)
    return None if best is None else VouchedHost(best.address.host, key=_KEY)
