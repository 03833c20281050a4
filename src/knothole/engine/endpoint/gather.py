"""Candidates kept ready long before a call (the article: the server "already knows a bit").

For every base a STUN client keeps the mapping warm and knows the mapped address; one TURN
allocation per address family is held at the relay, over UDP where UDP gets out and over a stream
otherwise. A call starts with what is on file here: nothing is gathered at call time.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.endpoint.candidates import Describer
from knothole.engine.endpoint.knock import knock
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.stun.client import BindingClient, MappedAddressChanged, MappedAddressLearned
from knothole.engine.turn.client import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    RelayedDataReceived,
)
from knothole.engine.turn.credentials import Credentials
from knothole.wire.address import Address, Transport
from knothole.wire.prohibited import peer_prohibited
from knothole.wire.stun import AddressFamily

KEEPALIVE_SECONDS: Final = 12.0
"""Ours: Linux forgets a UDP mapping 30 s after the last packet; two keepalives may be lost."""

STREAM_AFTER_SECONDS: Final = 0.7
"""Ours: no relayed address over UDP after so long, and a stream to the relay is opened as well."""

ALLOCATE_AGAIN_SECONDS: Final = 3.0
"""Ours: between attempts at an allocation that failed or was lost."""

FAMILY_NOT_SUPPORTED: Final = 440  # RFC 8656 Section 19


@dataclass(frozen=True, slots=True)
class TurnServer:
    """A relay, resolved. ``server_name`` is what a TLS certificate is checked against, "" for the
    switchboard itself, whose key is pinned."""

    address: Address
    transport: Transport
    credentials: Credentials
    server_name: str = ""


@dataclass(frozen=True, slots=True)
class CandidatesChanged:
    """:attr:`Gatherer.candidates` is another list than before."""


@dataclass(frozen=True, slots=True)
class OpenTurnStream:
    """Open a TCP or TLS connection to this relay, then call :meth:`Gatherer.stream_opened`."""

    server: TurnServer


@dataclass(frozen=True, slots=True)
class CloseTurnStream:
    """The connection from ``local`` to ``server`` is not needed any more."""

    local: Address
    server: Address


GathererOutput: TypeAlias = (
    Transmit | CandidatesChanged | RelayedDataReceived | OpenTurnStream | CloseTurnStream
)


class _Timer(enum.Enum):
    ALLOCATE = enum.auto()
    STREAM = enum.auto()


class Gatherer:
    """The standing candidates of one peer (an :class:`~knothole.engine.core.Engine`)."""

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._bases: tuple[Address, ...] = ()
        self._stun: tuple[Address, ...] = ()
        self._warm: frozenset[Address] = frozenset()
        self._turn: tuple[TurnServer, ...] = ()
        self._bindings: dict[tuple[Address, Address], BindingClient] = {}
        self._allocations: dict[tuple[Address, Address], Allocation] = {}
        self._relayed: dict[Address, Allocation] = {}
        self._streams: dict[tuple[Address, Address], TurnServer] = {}
        self._only_ipv6: set[Address] = set()
        self._opening_stream = False
        self._streams_failed = 0
        self._describe = Describer()
        self._candidates: tuple[LocalCandidate, ...] = ()
        self._timers: Timers[_Timer] = Timers()
        self._deadline: float | None = None  # asked for at every datagram, so kept ready
        self._outputs: deque[GathererOutput] = deque()

    @property
    def candidates(self) -> tuple[LocalCandidate, ...]:
        """What we can be reached at, best first."""
        return self._candidates

    @property
    def udp_works(self) -> bool:
        """Whether a STUN server has answered over UDP."""
        return any(binding.mapped is not None for binding in self._bindings.values())

    def mapped_addresses(self) -> dict[Address, dict[Address, Address]]:
        """What each server sees each base as: base -> server -> mapped address."""
        seen: dict[Address, dict[Address, Address]] = {}
        for (base, server), binding in self._bindings.items():
            if binding.mapped is not None:
                seen.setdefault(base, {})[server] = binding.mapped
        return seen

    # ------------------------------------------------------------------------ commands

    def set_bases(self, bases: Sequence[Address], now: float) -> None:
        """The UDP sockets there are, best first."""
        self._bases = tuple(bases)
        self._arrange(now)

    def set_servers(self, stun: Sequence[Address], turn: Sequence[TurnServer], now: float) -> None:
        """Whom to ask for mapped addresses, and who relays, with credentials as they are now.
        The first STUN server of a family keeps the mapping warm, the others are only asked."""
        self._stun, self._turn = tuple(stun), tuple(turn)
        self._warm = frozenset({server.is_ipv6: server for server in reversed(self._stun)}.values())
        for relay in turn:
            for (_, address), allocation in self._allocations.items():
                if address == relay.address:
                    allocation.set_credentials(relay.credentials, now)
        self._arrange(now)

    def stream_opened(self, local: Address, server: TurnServer, now: float) -> None:
        """The connection that OpenTurnStream asked for is there."""
        self._opening_stream = False
        self._streams[local, server.address] = server
        self._allocate(local, server, now)
        self._drain(now)

    def stream_failed(self, server: TurnServer, now: float) -> None:
        """The connection that OpenTurnStream asked for cannot be made."""
        self._opening_stream = False
        self._streams_failed += 1
        self._timers.arm(_Timer.STREAM, now + ALLOCATE_AGAIN_SECONDS)
        self._drain(now)

    def stream_closed(self, local: Address, server: Address, now: float) -> None:
        """A connection to a relay is gone, and its allocation with it."""
        self._streams.pop((local, server), None)
        self._drop_allocation(local, server)
        self._arrange(now)

    def refresh(self, now: float) -> None:
        """Ask all servers for our mapped addresses at once: the network may have changed."""
        for binding in self._bindings.values():
            binding.refresh(now)
        self._drain(now)

    def confirm(self, now: float) -> None:
        """Ask the relays whether our allocations still exist: they may have been restarted."""
        for allocation in self._allocations.values():
            allocation.refresh(now)
        self._drain(now)

    def reach(self, peers: Iterable[Address], now: float) -> None:
        """Let ``peers`` reach us over the relay, and us them, until :meth:`release`."""
        for peer in peers:
            for relayed, allocation in self._relayed.items():
                if self.relayable(relayed, peer):
                    allocation.bind_channel(peer, now)
        self._drain(now)

    def release(self, peers: Iterable[Address], now: float) -> None:
        """The line to ``peers`` is over: nothing more is refreshed for them."""
        wanted = tuple(peers)
        for allocation in self._relayed.values():
            for peer in wanted:
                allocation.release(peer, now)
        self._drain(now)

    def relayable(self, relayed: Address, peer: Address) -> bool:
        """Whether asking the relay for ``peer`` makes sense: same family, a public address."""
        if relayed.is_ipv6 != peer.is_ipv6:
            return False
        allowed_scope = peer_prohibited(relayed.host) is not None  # a lab or LAN relay: let it say
        return allowed_scope or peer_prohibited(peer.host) is None

    def send(self, datagram: Datagram, now: float) -> None:
        """Send by way of the relay: ``datagram.source`` is a relayed address of ours."""
        allocation = self._relayed.get(datagram.source)
        if allocation is not None and self.relayable(datagram.source, datagram.destination):
            allocation.send(datagram.destination, datagram.payload, datagram.segment_size, now)
            self._drain(now)

    def is_relayed(self, address: Address) -> bool:
        return address in self._relayed

    def close(self, now: float) -> None:
        """Give the allocations back and stop."""
        for allocation in self._allocations.values():
            allocation.close(now)
            self._outputs.extend(o for o in allocation.outputs() if isinstance(o, Transmit))
        self._allocations.clear()
        self._relayed.clear()
        for binding in self._bindings.values():
            binding.close()
        self._bindings.clear()
        self._timers.clear()
        self._deadline = None

    # ------------------------------------------------------------------------- engine

    def knows(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` comes from a server of ours, so that it is for :meth:`receive`."""
        key = (datagram.destination, datagram.source)
        return key in self._allocations or key in self._bindings

    def receive(self, datagram: Datagram, now: float) -> None:
        key = (datagram.destination, datagram.source)
        binding = self._bindings.get(key)
        if binding is not None and datagram.transport is Transport.UDP:
            binding.receive(datagram, now)
        allocation = self._allocations.get(key)
        if allocation is not None:
            allocation.receive(datagram, now)
        self._drain(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.ALLOCATE:
                    self._arrange(now)
                case _Timer.STREAM:
                    self._open_stream()
        for child in self._children():
            timeout = child.next_timeout()
            if timeout is not None and timeout <= now:
                child.handle_timeout(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return self._deadline

    def outputs(self) -> Iterator[GathererOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ------------------------------------------------------------------------- inside

    def _children(self) -> tuple[BindingClient | Allocation, ...]:
        return (*self._bindings.values(), *self._allocations.values())

    def _arrange(self, now: float) -> None:
        """Have one STUN client per base and server, one UDP allocation per family."""
        wanted = {
            (base, server)
            for base in self._bases
            for server in self._stun
            if base.is_ipv6 == server.is_ipv6
        }
        for key in [key for key in self._bindings if key not in wanted]:
            self._bindings.pop(key).close()
        for key in sorted(wanted - self._bindings.keys()):
            keepalive = KEEPALIVE_SECONDS if key[1] in self._warm else None
            self._bindings[key] = BindingClient(
                *key, random=self._random, now=now, keepalive_seconds=keepalive
            )
        for base, server_address in list(self._allocations):
            if base not in self._bases and (base, server_address) not in self._streams:
                self._drop_allocation(base, server_address)
        for server in self._turn:
            if server.transport is Transport.UDP and not self._has_udp_allocation(server.address):
                towards = self._base_towards(server.address)
                if towards is not None:
                    self._allocate(towards, server, now)
        if self._turn and not self._relayed and not self._timers.is_armed(_Timer.STREAM):
            self._timers.arm(_Timer.STREAM, now + STREAM_AFTER_SECONDS)
        self._drain(now)

    def _has_udp_allocation(self, server: Address) -> bool:
        return any(
            address.is_ipv6 == server.is_ipv6 and key not in self._streams
            for key in self._allocations
            for address in (key[1],)
        )

    def _base_towards(self, server: Address) -> Address | None:
        return next((base for base in self._bases if base.is_ipv6 == server.is_ipv6), None)

    def _allocate(self, local: Address, server: TurnServer, now: float) -> None:
        self._allocations[local, server.address] = Allocation(
            local=local,
            server=server.address,
            transport=server.transport,
            credentials=server.credentials,
            random=self._random,
            now=now,
            # IPv4 wherever it can be had: relayed addresses of two families do not pair.
            family=AddressFamily.IPV6 if server.address in self._only_ipv6 else None,
        )

    def _drop_allocation(self, local: Address, server: Address) -> None:
        allocation = self._allocations.pop((local, server), None)
        if allocation is not None and allocation.relayed_address is not None:
            self._relayed.pop(allocation.relayed_address, None)
            self._update_candidates()

    def _open_stream(self) -> None:
        if self._relayed or self._opening_stream or self._streams:
            return
        streams = [server for server in self._turn if server.transport is not Transport.UDP]
        if streams:
            self._opening_stream = True
            # Another one after each failure: only one of the ports may be open to us.
            self._outputs.append(OpenTurnStream(streams[self._streams_failed % len(streams)]))

    def _drain(self, now: float) -> None:
        for binding in tuple(self._bindings.values()):
            for output in binding.outputs():
                if isinstance(output, Transmit):
                    self._outputs.append(output)
                elif isinstance(output, MappedAddressLearned):
                    self._update_candidates()
                elif isinstance(output, MappedAddressChanged) and binding.server in self._warm:
                    self._mapping_changed(output.base, now)
        for key, allocation in tuple(self._allocations.items()):
            for turn_output in allocation.outputs():
                match turn_output:
                    case Transmit() | RelayedDataReceived():
                        self._outputs.append(turn_output)
                    case Allocated(relayed):
                        self._relayed[relayed] = allocation
                        own = [relay.address for relay in self._turn if not relay.server_name]
                        self._outputs.extend(knock(allocation, relayed, own, self._random))
                        self._timers.disarm(_Timer.STREAM)
                        self._update_candidates()
                    case AllocationFailed(code) | AllocationLost(code):
                        if code == FAMILY_NOT_SUPPORTED and key[1] not in self._only_ipv6:
                            self._only_ipv6.add(key[1])
                            self._allocation_over(key, now, again=now)
                        else:
                            self._allocation_over(key, now, again=now + ALLOCATE_AGAIN_SECONDS)
                    case _:
                        pass
        self._deadline = least(self._timers.next(), *(c.next_timeout() for c in self._children()))

    def _mapping_changed(self, base: Address, now: float) -> None:
        """The relay knows us by the 5-tuple that is no more: a new allocation at once."""
        self._update_candidates()
        stale = [key for key in self._allocations if key[0] == base and key not in self._streams]
        for key in stale:
            self._drop_allocation(*key)
        if stale:
            self._timers.arm(_Timer.ALLOCATE, now)

    def _allocation_over(self, key: tuple[Address, Address], now: float, again: float) -> None:
        self._drop_allocation(*key)
        if key in self._streams:
            del self._streams[key]
            self._outputs.append(CloseTurnStream(*key))
        self._timers.arm(_Timer.ALLOCATE, again)
        if not self._timers.is_armed(_Timer.STREAM):
            self._timers.arm(_Timer.STREAM, now + STREAM_AFTER_SECONDS)

    def _update_candidates(self) -> None:
        candidates = self._describe.candidates(
            self._bases,
            # Not those that were only asked once: the NAT may have forgotten what they saw.
            [
                (b.base, b.server, b.mapped)
                for b in self._bindings.values()
                if b.mapped and b.server in self._warm
            ],
            list(self._relayed.items()),
        )
        if candidates != self._candidates:
            self._candidates = candidates
            self._outputs.append(CandidatesChanged())
