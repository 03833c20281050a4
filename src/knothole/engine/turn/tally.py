"""What a TURN server has relayed, dropped and answered since it began: totals without names."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from knothole.engine.turn.server_allocation import ServerAllocation
from knothole.wire.address import Address, Transport
from knothole.wire.stun import Method

_NAMES: Final = {int(method): method.name.lower().replace("_", "-") for method in Method}


class Drop(enum.StrEnum):
    """Why something came to nothing, without a word."""

    MALFORMED = "malformed"
    NO_ALLOCATION = "no-allocation"
    NO_CHANNEL = "no-channel"
    NO_PERMISSION = "no-permission"
    FORBIDDEN = "forbidden"
    """From or to an address of our own."""
    TOO_LONG = "too-long"
    OVER_LIMIT = "over-limit"
    """Beyond what an allocation may relay in a second."""
    UNPROVEN = "unproven"
    """An answer that was not sent, to a source that gets too many and may be forged."""


@dataclass(slots=True)
class Flow:
    """So many datagrams, and so many octets of payload: of theirs, and of streams to peers."""

    datagrams: int = 0
    octets: int = 0

    def add(self, datagrams: int, octets: int) -> None:
        self.datagrams += datagrams
        self.octets += octets


@dataclass(slots=True)
class Flows:
    """Both directions. Between two clients of one server a datagram is in both."""

    to_peers: Flow = field(default_factory=Flow)
    to_clients: Flow = field(default_factory=Flow)


class Usage(NamedTuple):
    """What one owner has now; octets of payload as long as those allocations have been there."""

    allocations: int
    to_peers: int
    to_clients: int


@dataclass(slots=True)
class Tally:
    """Of the ``allocations`` by relayed address, and of what they have done.

    ``by_us`` went through this process in datagrams, ``by_kernel`` did not, ``by_tcp`` went to and
    from peers by TCP, where there are no datagrams. ``answers`` are counted by method
    and error code, 0 for a success."""

    allocations: Mapping[Address, ServerAllocation]
    by_us: Flows = field(default_factory=Flows)
    by_kernel: Flows = field(default_factory=Flows)
    by_tcp: Flows = field(default_factory=Flows)
    dropped: Counter[Drop] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)

    def flows(self, by_kernel: bool) -> Flows:
        return self.by_kernel if by_kernel else self.by_us

    def answered(self, method: int, code: int = 0) -> None:
        """A request of one of TURN's methods was answered."""
        self.answers[_NAMES[method], code] += 1

    def kinds(self) -> Counter[tuple[Transport, bool]]:
        """Relayed addresses there are by the client's transport, and whether they are IPv6."""
        return Counter(
            (each.five_tuple.transport, each.relayed.is_ipv6) for each in self.allocations.values()
        )

    def usage(self) -> dict[str, Usage]:
        """What each owner has, and has had relayed by it."""
        found: dict[str, Usage] = {}
        for allocation in self.allocations.values():
            owner = allocation.requester.owner
            before = found.get(owner, Usage(0, 0, 0))
            found[owner] = Usage(
                before.allocations + 1,
                before.to_peers + allocation.to_peers,
                before.to_clients + allocation.to_client,
            )
        return found
