"""How much one user, one allocation and all of them may take (RFC 8656 Section 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from knothole.engine.rate import Rate

DEFAULT_LIFETIME: Final = 600  # RFC 8656 Section 6: "600 seconds (10 minutes)"
GREATEST_LIFETIME: Final = 3600  # RFC 8656 Section 7.2: "no more than 3600 seconds (1 hour)"
LEAST_RESERVATION: Final = 30  # RFC 8656 Section 7.2: "for at least 30 seconds"
GREATEST_NONCE_LIFETIME: Final = 3600  # RFC 8656 Section 5: "at least once every hour"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server grants at most. Times are in seconds."""

    allocations: int = 8192
    allocations_per_user: int = 32  # ours: some devices, each with IPv4, IPv6, UDP and TLS
    permissions_per_allocation: int = 128  # ours: every candidate of a dozen peers
    channels_per_allocation: int = 128
    peer_connections_per_allocation: int = 32  # ours, of a TCP allocation: a descriptor each
    max_lifetime: int = GREATEST_LIFETIME
    reservation: float = LEAST_RESERVATION
    nonce_lifetime: float = GREATEST_NONCE_LIFETIME
    detached: float = 60.0  # ours: how long a client whose connection broke has to come by another
    # Ours: a carrier's NAT has hundreds of callers in one /24, a home none. Ten networks can fill
    # a server, one cannot, under however many names.
    allocations_per_network: int = 1000
    # Ours: a gigabit line's worth of large datagrams, or four of them of audio's; 0: no limit.
    datagrams_per_second: float = 200_000
    octets_per_second: float = 125_000_000
    # Ours: hosts that a user may newly name as peers. A call has a dozen, a scan of a network does
    # not end there.
    new_peers: Rate = Rate(128, 1)
    # Ours: bytes that go to one source network (a /24, a /56) beyond what came from there, before
    # anything is proven. 2 Mbit/s are of no use to who forges sources, and 3000 challenges a second
    # more than a carrier's NAT ever wants.
    unproven: Rate = Rate(1_048_576, 262_144)

    def __post_init__(self) -> None:
        if self.max_lifetime < DEFAULT_LIFETIME:
            raise ValueError(f"a max_lifetime under {DEFAULT_LIFETIME} s: RFC 8656 Section 7.2")
        if self.reservation < LEAST_RESERVATION:
            raise ValueError(f"a reservation under {LEAST_RESERVATION} s: RFC 8656 Section 7.2")
        if not 0 < self.nonce_lifetime <= GREATEST_NONCE_LIFETIME:
            raise ValueError("a nonce_lifetime that is not within an hour: RFC 8656 Section 5")

    def lifetime(self, requested: int | None) -> int:
        """The lifetime that a request for ``requested`` seconds gets (RFC 8656 Section 7.2)."""
        return max(min(requested or 0, self.max_lifetime), DEFAULT_LIFETIME)


class Holder(NamedTuple):
    """In whose quotas a relayed address counts: those of ``owner``, and of the ``network`` that
    the client asked from, where a new name changes nothing."""

    owner: str
    network: str


class Quota:
    """Counts relayed addresses: all of them, each user's and each network's."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._total = 0
        self._per_user: dict[str, int] = {}
        self._per_network: dict[str, int] = {}

    def is_at_limit(
        self, holder: Holder, wanted: int = 1, given_back: Holder | None = None
    ) -> bool:
        """Whether ``holder`` may not have ``wanted`` more, once one of ``given_back`` is back."""
        owner, network = holder
        of_user = self._per_user.get(owner, 0) + wanted
        of_network = self._per_network.get(network, 0) + wanted
        if given_back is not None:
            of_user -= given_back.owner == owner
            of_network -= given_back.network == network
        limits = self.limits
        return of_user > limits.allocations_per_user or of_network > limits.allocations_per_network

    def is_full(self, wanted: int = 1) -> bool:
        return self._total + wanted > self.limits.allocations

    def take(self, holder: Holder) -> None:
        self._total += 1
        owner, network = holder
        self._per_user[owner] = self._per_user.get(owner, 0) + 1
        self._per_network[network] = self._per_network.get(network, 0) + 1

    def give_back(self, holder: Holder) -> None:
        self._total -= 1
        for counter, key in (
            (self._per_user, holder.owner),
            (self._per_network, holder.network),
        ):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
