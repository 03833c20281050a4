"""Which peers a relay serves (RFC 8656 Sections 10.2, 21.1.4, 21.2.2)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import ip_address, ip_network
from typing import Final

from knothole.wire.address import Address, parse_address
from knothole.wire.prohibited import IpNetwork, peer_prohibited

KNOWN_HOSTS: Final = 4096  # ours: hosts whose verdict is kept, about a megabyte


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """The operator's word: ranges opened and ranges closed beyond what is safe for everyone."""

    allowed: tuple[IpNetwork, ...] = ()
    denied: tuple[IpNetwork, ...] = ()


class PeerRules:
    """A policy on a server that knows its own addresses.

    ``relay_hosts`` are the hosts of its relayed addresses, ``server_addresses`` where it listens
    and whatever else reaches this machine. They are refused as peers unless the operator opens
    their range, with one exception: a relayed address of this server may be a peer, for two of its
    clients may call each other. ``inside_only`` are the hosts for which that is all there is:
    nothing is ever sent to them by a socket, nor believed when it comes from them by one.

    Raises ValueError for a wildcard among the addresses: it hides which ones are meant.
    """

    def __init__(
        self,
        policy: PeerPolicy,
        relay_hosts: Collection[str],
        server_addresses: Collection[Address],
    ) -> None:
        listeners = frozenset(parse_address(*address) for address in server_addresses)
        own_hosts = {*relay_hosts, *(address.host for address in listeners)}
        if not own_hosts.isdisjoint(("0.0.0.0", "::")):  # noqa: S104 - it is refused
            raise ValueError("0.0.0.0 and :: are no addresses of a server: name those that are")
        self.inside_only = frozenset(
            host
            for host in own_hosts
            if not any(ip_address(host) in network for network in policy.allowed)
        )
        self._own = (relay_hosts, server_addresses)
        self._relay_hosts = frozenset(relay_hosts)
        self._listeners = listeners
        denied = (*policy.denied, *(ip_network(host) for host in self.inside_only))
        # Permissions are renewed again and again, and rules never change.
        judge = partial(peer_prohibited, allowed=policy.allowed, denied=denied)
        self._prohibited = lru_cache(KNOWN_HOSTS)(judge)

    def under(self, policy: PeerPolicy) -> PeerRules:
        """Another policy on the same server."""
        return PeerRules(policy, *self._own)

    def host_refusal(self, host: str) -> str | None:
        """Why no permission is given for ``host``, or None when one is."""
        if host in self._relay_hosts:
            return None
        return self._prohibited(host)

    def is_relay_host(self, host: str) -> bool:
        """Whether relayed addresses of ours are there."""
        return host in self._relay_hosts

    def is_listener(self, peer: Address) -> bool:
        """Whether we listen for clients there: never a peer, or messages would go round in us."""
        return peer in self._listeners

    def refusal(self, peer: Address) -> str | None:
        """Why ``peer`` gets no channel, or None when it does."""
        if self.is_listener(peer):
            return f"{peer} is this server"
        return self.host_refusal(peer.host)
