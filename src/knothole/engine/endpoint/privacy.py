"""To whom our addresses are shown: relay-only calls, and what is told in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final, Protocol

from knothole.engine.ice.pair import LocalCandidate
from knothole.wire.address import Address
from knothole.wire.candidate import CandidateKind

# RFC 8839 Section 5.1: an agent that does not want to reveal the related address sets it to
# "0.0.0.0" or "::" and the port to 9.
UNTOLD_IPV4: Final = Address("0.0.0.0", 9)  # noqa: S104  nothing is bound to it
UNTOLD_IPV6: Final = Address("::", 9)


class Discretion(Protocol):
    """Who is shown no address of ours but a relay's. Asked at the beginning of every call."""

    def relay_only(self, name: str, incoming: bool) -> bool:
        """Whether the call with ``name`` goes by a relay only."""

    @property
    def nothing_on_file(self) -> bool:
        """Whether the server keeps no candidates of ours for callers."""


class Open:
    """Everybody whose call is taken may see our addresses."""

    nothing_on_file = False

    def relay_only(self, name: str, incoming: bool) -> bool:
        return False


def only_relayed(candidates: Iterable[LocalCandidate]) -> tuple[LocalCandidate, ...]:
    """The relayed ones of ``candidates``, without the mapped address behind them."""
    return tuple(
        LocalCandidate(
            dataclasses.replace(
                each.candidate, related=UNTOLD_IPV6 if each.base.is_ipv6 else UNTOLD_IPV4
            ),
            each.base,
        )
        for each in candidates
        if each.candidate.kind is CandidateKind.RELAYED
    )
