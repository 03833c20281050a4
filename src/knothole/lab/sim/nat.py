"""A NAT with every behaviour that RFC 4787 names, deterministic for a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeAlias

from knothole.lab.sim.behaviour import (
    Collision,
    Dependence,
    FilterScope,
    Hairpinning,
    NatBehaviour,
    Pooling,
    Sharing,
)
from knothole.lab.sim.packet import Drop, Packet, Protocol
from knothole.lab.sim.ports import FIRST_UNPRIVILEGED, LAST_PORT
from knothole.wire.address import Address

Permissions: TypeAlias = dict[tuple[object, ...], float]
"""Filter key of a peer -> the moment at which its permission ends."""


@dataclass(slots=True, eq=False)
class Mapping:
    """One line of the translation table. It is dead from ``expires`` on, that moment included."""

    protocol: Protocol
    internal: Address
    external: Address
    peer: Address  # the first one, for which it was made
    key: tuple[object, ...]
    created: float
    expires: float
    answered: bool = False  # has let a packet in
    permissions: Permissions = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Other hosts behind the same NAT, of which only the ports they use up are seen.

    New mappings come at random moments, ``per_second`` on average, each kept alive for
    ``hold_seconds``; they are made at the moment at which they would have been, seen from the
    next packet that passes.
    """

    per_second: float
    hold_seconds: float = 60.0


class Nat:
    """One address translator: two directions, hairpinning between them, and a power switch.

    ``external`` are its addresses outside (either family; a packet gets one of its own family),
    ``rng`` the source of every random choice. Calls must come in the order of their ``now``.
    """

    def __init__(
        self,
        behaviour: NatBehaviour,
        external: Sequence[str],
        *,
        rng: Random,
        neighbours: Neighbours | None = None,
        now: float = 0.0,
    ) -> None:
        self.behaviour = behaviour
        self._external = list(external)
        self._rng = rng
        self._neighbours = neighbours
        self.reboot(now)

    @property
    def external(self) -> tuple[str, ...]:
        """The addresses outside."""
        return tuple(self._external)

    def reboot(self, now: float, external: Sequence[str] | None = None) -> None:
        """Forget every mapping, permission and port counter; come up with other addresses
        outside when ``external`` is given."""
        if external is not None:
            self._external = list(external)
        self._assigner = self.behaviour.ports.start(self._rng)
        self._by_key: dict[tuple[object, ...], Mapping] = {}
        self._index: dict[tuple[object, ...], list[Mapping]] = {}
        self._permissions: dict[tuple[Protocol, Address], Permissions] = {}
        self._strangers: dict[tuple[Protocol, Address, Address], float] = {}
        self._paired: dict[tuple[str, bool], str] = {}
        self._collided: dict[tuple[Protocol, Address], None] = {}
        self._next_neighbour = now
        if self._neighbours is not None:
            self._next_neighbour += self._rng.expovariate(self._neighbours.per_second)

    def mappings(self, now: float) -> list[Mapping]:
        """The living mappings, oldest first, those of the neighbours included."""
        self._serve_neighbours(now)
        return [mapping for mapping in self._by_key.values() if mapping.expires > now]

    def occupy(
        self, ports: Iterable[int], peer: Address, now: float, *, seconds: float = math.inf
    ) -> None:
        """A neighbour has these ports of the first external address towards ``peer`` from now on;
        where it comes too late, the older mapping keeps its port."""
        self._serve_neighbours(now)
        for port in ports:
            external = Address(self._external[0], port)
            if self._is_free(Protocol.UDP, external, peer, now):
                internal = Address("198.18.0.1", port)
                key = ("occupied", port, peer)
                self._add(Mapping(Protocol.UDP, internal, external, peer, key, now, now + seconds))

    def outbound(self, packet: Packet, now: float) -> Packet | Drop:
        """Translate a packet on its way out, making or refreshing the mapping it needs."""
        self._serve_neighbours(now)
        mapping = self._mapping_for(packet, now)
        if mapping is None:
            return Drop.NO_PORT
        if self.behaviour.outbound_refresh:
            mapping.expires = max(mapping.expires, now + self._lifetime(mapping, now))
        self._permit(mapping, packet.destination, now)
        return packet.from_(mapping.external)

    def inbound(self, packet: Packet, now: float) -> Packet | Drop:
        """Translate a packet on its way in, if a mapping and a permission let it."""
        self._serve_neighbours(now)
        users = self._living("external", packet.protocol, packet.destination, now=now)
        for mapping in reversed(users):
            if self._admits(mapping, packet.source, now):
                self._note_inbound(mapping, packet.source, now)
                return packet.to(mapping.internal)
        if self.behaviour.keeps_strangers:
            tuple_ = (packet.protocol, packet.destination, packet.source)
            self._strangers[tuple_] = now + self.behaviour.lifetime_seconds
        return Drop.FILTERED if users else Drop.NO_MAPPING

    def hairpin(self, packet: Packet, now: float) -> Packet | Drop:
        """Turn a packet round that came from inside and is meant for a mapped address.

        The filter always judges by the external source; ``Hairpinning`` says which source the
        receiver sees.
        """
        if self.behaviour.hairpinning is Hairpinning.OFF:
            return Drop.NO_HAIRPINNING
        out = self.outbound(packet, now)
        if isinstance(out, Drop):
            return out
        back = self.inbound(out, now)
        if isinstance(back, Packet) and self.behaviour.hairpinning is Hairpinning.INTERNAL_SOURCE:
            return back.from_(packet.source)
        return back

    # Mappings

    def _mapping_for(self, packet: Packet, now: float) -> Mapping | None:
        behaviour, internal, peer = self.behaviour, packet.source, packet.destination
        endpoint = (packet.protocol, internal)
        for dependence in (behaviour.mapping, behaviour.mapping_after_collision):
            if dependence is not None:
                mapping = self._by_key.get((*endpoint, dependence, *dependence.key(peer)))
                if mapping is not None and mapping.expires > now:
                    return mapping
        if not self._living("internal", *endpoint, now=now):
            self._permissions.pop(endpoint, None)
        quota = behaviour.mappings_per_host
        if quota is not None and len(self._living("host", internal.host, now=now)) >= quota:
            return None
        external = self._choose(packet.protocol, internal, peer, now)
        if external is None:
            return None
        dependence = behaviour.mapping
        if endpoint in self._collided and behaviour.mapping_after_collision is not None:
            dependence = behaviour.mapping_after_collision
        key = (*endpoint, dependence, *dependence.key(peer))
        mapping = Mapping(packet.protocol, internal, external, peer, key, now, now)
        mapping.expires = now + self._lifetime(mapping, now)
        self._add(mapping)
        return mapping

    def _add(self, mapping: Mapping) -> None:
        self._by_key[mapping.key] = mapping
        for place in self._places(mapping):
            self._index.setdefault(place, []).append(mapping)

    def _forget(self, mapping: Mapping) -> None:
        del self._by_key[mapping.key]
        for place in self._places(mapping):
            self._index[place].remove(mapping)
            if not self._index[place]:
                del self._index[place]

    def _places(self, mapping: Mapping) -> tuple[tuple[object, ...], ...]:
        return (
            ("external", mapping.protocol, mapping.external),
            ("internal", mapping.protocol, mapping.internal),
            ("host", mapping.internal.host),
        )

    def _living(self, *place: object, now: float) -> list[Mapping]:
        """The living mappings at a place, oldest first; the dead ones there are forgotten."""
        found = self._index.get(place, [])
        for mapping in [mapping for mapping in found if mapping.expires <= now]:
            self._forget(mapping)
        return list(self._index.get(place, ()))

    def _lifetime(self, mapping: Mapping, now: float) -> float:
        behaviour = self.behaviour
        if mapping.protocol is Protocol.TCP:
            return behaviour.tcp_lifetime_seconds
        well_known = behaviour.well_known_lifetime_seconds
        if well_known is not None and mapping.peer.port < FIRST_UNPRIVILEGED:
            return well_known
        two_way = behaviour.two_way_lifetime_seconds
        old = now - mapping.created > behaviour.two_way_after_seconds
        if two_way is not None and mapping.answered and old:
            return two_way
        return behaviour.lifetime_seconds

    # External endpoints

    def _choose(
        self, protocol: Protocol, internal: Address, peer: Address, now: float
    ) -> Address | None:
        behaviour = self.behaviour
        if behaviour.reuse_newest:
            for mapping in reversed(self._living("internal", protocol, internal, now=now)):
                if self._is_free(protocol, mapping.external, peer, now):
                    return mapping.external
        hosts = self._hosts_for(internal)
        if not hosts:
            return None
        best = True
        for port in self._ports(protocol, internal, hosts[0], now):
            elsewhere = best and behaviour.collision is Collision.OTHER_ADDRESS
            for host in hosts if elsewhere else hosts[:1]:
                if self._is_free(protocol, Address(host, port), peer, now):
                    return Address(host, port)
            if best and behaviour.collision is Collision.OVERRIDE:
                for mapping in self._living("external", protocol, Address(hosts[0], port), now=now):
                    self._forget(mapping)
                return Address(hosts[0], port)
            self._collided[(protocol, internal)] = None
            best = False
        return None

    def _ports(self, protocol: Protocol, internal: Address, host: str, now: float) -> Iterator[int]:
        """Ports to try, best first, those left out that parity or range forbid."""
        behaviour = self.behaviour
        candidates = self._assigner.candidates(internal.port)
        if behaviour.keep_contiguity:
            beside = self._beside(protocol, internal, host, now)
            candidates = itertools.chain(beside, candidates)
        for port in candidates:
            parity_kept = port % 2 == internal.port % 2
            range_kept = (port < FIRST_UNPRIVILEGED) == (internal.port < FIRST_UNPRIVILEGED)
            if (parity_kept or not behaviour.keep_parity) and (
                range_kept or not behaviour.keep_range
            ):
                yield port

    def _beside(
        self, protocol: Protocol, internal: Address, host: str, now: float
    ) -> Iterator[int]:
        """The ports next to those of the internal ports next to this one."""
        for step in (-1, 1):
            neighbour = Address(internal.host, internal.port + step)
            for mapping in self._living("internal", protocol, neighbour, now=now):
                port = mapping.external.port - step
                if mapping.external.host == host and 0 < port <= LAST_PORT:
                    yield port

    def _is_free(self, protocol: Protocol, external: Address, peer: Address, now: float) -> bool:
        if self._strangers.get((protocol, external, peer), -math.inf) > now:
            return False
        users = self._living("external", protocol, external, now=now)
        match self.behaviour.sharing:
            case Sharing.EXCLUSIVE:
                return not users
            case Sharing.PER_PEER:
                return all(mapping.peer != peer for mapping in users)
            case Sharing.OVERLOADING:
                return True

    def _hosts_for(self, internal: Address) -> list[str]:
        """The external addresses of the right family, in the order to try them."""
        family = [host for host in self._external if (":" in host) == internal.is_ipv6]
        if self.behaviour.pooling is Pooling.ARBITRARY:
            return self._rng.sample(family, len(family))
        if not family:
            return []
        pair = (internal.host, internal.is_ipv6)
        if pair not in self._paired:
            taken = sum(is_ipv6 == internal.is_ipv6 for _, is_ipv6 in self._paired)
            self._paired[pair] = family[taken % len(family)]
        chosen = self._paired[pair]
        return [chosen, *(host for host in family if host != chosen)]

    # Filtering

    def _permit(self, mapping: Mapping, peer: Address, now: float) -> None:
        lifetime = self.behaviour.filter_lifetime_seconds
        ends = math.inf if lifetime is None else now + lifetime
        self._permissions_of(mapping)[self.behaviour.filtering.key(peer)] = ends

    def _admits(self, mapping: Mapping, peer: Address, now: float) -> bool:
        filtering = self.behaviour.filtering
        if filtering is Dependence.ENDPOINT_INDEPENDENT:
            return True
        return self._permissions_of(mapping).get(filtering.key(peer), -math.inf) > now

    def _note_inbound(self, mapping: Mapping, peer: Address, now: float) -> None:
        mapping.answered = True
        if self.behaviour.inbound_refresh:
            mapping.expires = max(mapping.expires, now + self._lifetime(mapping, now))
            self._permit(mapping, peer, now)

    def _permissions_of(self, mapping: Mapping) -> Permissions:
        if self.behaviour.filter_scope is FilterScope.MAPPING:
            return mapping.permissions
        return self._permissions.setdefault((mapping.protocol, mapping.internal), {})

    # Neighbours

    def _serve_neighbours(self, now: float) -> None:
        neighbours = self._neighbours
        while neighbours is not None and self._next_neighbour <= now:
            at = self._next_neighbour
            self._next_neighbour += self._rng.expovariate(neighbours.per_second)
            # 198.18.0.0/15 is for benchmarks (RFC 2544): no simulated host has such an address.
            port = self._rng.randint(32768, 60999)
            internal = Address(f"198.18.{self._rng.randrange(256)}.1", port)
            peer = Address(f"198.19.{self._rng.randrange(256)}.1", 443)
            external = self._choose(Protocol.UDP, internal, peer, at)
            if external is not None:
                key = ("neighbour", at)
                expires = at + neighbours.hold_seconds
                self._add(Mapping(Protocol.UDP, internal, external, peer, key, at, expires))
