"""Our allocations on relays: one per address family over UDP, or one over a stream instead."""

from __future__ import annotations

import enum
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Timers, Transmit, least
from knothole.engine.endpoint.knock import knock
from knothole.engine.endpoint.relay_streams import StreamRace, TurnServer
from knothole.engine.turn.client import (
    Allocated,
    Allocation,
    AllocationFailed,
    AllocationLost,
    RelayedDataReceived,
)
from knothole.wire.address import Address, Transport
from knothole.wire.prohibited import peer_prohibited
from knothole.wire.stun import AddressFamily

__all__ = [
    "CloseTurnStream",
    "OpenTurnStream",
    "RelayedAddressesChanged",
    "Relays",
    "RelaysOutput",
    "TurnServer",
]

STREAM_AFTER_SECONDS: Final = 0.3
"""Ours: no relayed address over UDP after so long, and a stream to a relay is opened as well. Two
round trips make an allocation; on a longer line the stream is given back when it was not needed."""

ALLOCATE_AGAIN_SECONDS: Final = 3.0
"""Ours: between attempts at an allocation that failed or was lost."""

TRY_ALTERNATE: Final = 300  # RFC 8656 Section 19
FAMILY_NOT_SUPPORTED: Final = 440  # RFC 8656 Section 19

Ends: TypeAlias = tuple[Address, Address]
"""Our address and the relay's: with the transport, what RFC 8656 Section 2 calls the 5-tuple."""


@dataclass(frozen=True, slots=True)
class RelayedAddressesChanged:
    """:attr:`Relays.relayed` is another list than before."""


@dataclass(frozen=True, slots=True)
class OpenTurnStream:
    """Open a TCP or TLS connection to this relay, then call :meth:`Relays.stream_opened`, or
    :meth:`Relays.stream_failed`."""

    server: TurnServer


@dataclass(frozen=True, slots=True)
class CloseTurnStream:
    """The connection from ``local`` to ``server`` is not needed any more."""

    local: Address
    server: Address


RelaysOutput: TypeAlias = (
    Transmit | RelayedDataReceived | RelayedAddressesChanged | OpenTurnStream | CloseTurnStream
)


class _Timer(enum.Enum):
    ALLOCATE = enum.auto()
    STREAM = enum.auto()


class Relays:
    """Allocates before anybody calls (an :class:`~knothole.engine.core.Engine`)."""

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._bases: tuple[Address, ...] = ()
        self._servers: tuple[TurnServer, ...] = ()
        self._failures: Counter[tuple[Address, Transport]] = Counter()
        self._only_ipv6: set[Address] = set()
        self._allocations: dict[Ends, Allocation] = {}
        self._relayed: dict[Address, Allocation] = {}
        self._streams: dict[Ends, TurnServer] = {}
        self._race = StreamRace()
        self._sent_on: dict[Address, Address] = {}  # by 300: whither -> by whom
        self._peers: frozenset[Address] = frozenset()
        self._timers: Timers[_Timer] = Timers()
        self._outputs: deque[RelaysOutput] = deque()

    @property
    def relayed(self) -> tuple[tuple[Address, Allocation], ...]:
        """The relayed addresses with their allocations, those over UDP first."""
        return tuple(
            sorted(self._relayed.items(), key=lambda each: each[1].transport is not Transport.UDP)
        )

    # ------------------------------------------------------------------------ commands

    def set_bases(self, bases: Sequence[Address], now: float) -> None:
        """The UDP sockets there are, best first."""
        self._bases = tuple(bases)
        for ends in tuple(self._allocations):
            if ends[0] not in self._bases and ends not in self._streams:
                self._drop(ends)
        self._allocate_missing(now)

    def set_servers(self, servers: Sequence[TurnServer], now: float) -> None:
        """The relays there are, UDP first, with credentials as they are now."""
        self._servers = tuple(servers)
        for server in servers:
            for (_, address), allocation in self._allocations.items():
                if server.address in (address, self._sent_on.get(address)):
                    allocation.set_credentials(server.credentials, now)
        known = {server.address for server in servers}
        for key in [key for key in self._failures if key[0] not in known]:
            del self._failures[key]
        self._only_ipv6.intersection_update(known)
        self._allocate_missing(now)

    def set_peers(self, peers: frozenset[Address], now: float) -> None:
        """These shall reach us over the relay and we them, and nobody else."""
        before, self._peers = self._peers, peers
        for relayed, allocation in self._relayed.items():
            for peer in sorted(before - peers):
                allocation.release(peer, now)
            self._bind(relayed, allocation, sorted(peers - before), now)
        self._tidy(now)
        self._drain(now)

    def mapping_changed(self, base: Address, server: Address, now: float) -> None:
        """``server`` sees ``base`` as another address: the 5-tuple of an allocation there is no
        more. Another relay may still know us."""
        for ends in [ends for ends in self._allocations if ends[0] == base]:
            if ends[1] == server:
                self._drop(ends)
            else:
                self._allocations[ends].refresh(now)
        self._allocate_missing(now)

    def confirm(self, now: float) -> None:
        """Ask whether our allocations still exist: the relays may have been restarted."""
        for allocation in self._allocations.values():
            allocation.refresh(now)
        self._drain(now)

    def stream_opened(self, local: Address, server: TurnServer, now: float) -> None:
        """The connection that OpenTurnStream asked for is there: with the first one it is kept,
        unless UDP was quicker."""
        self._race.opened(server)
        if self._streams or self._relayed or not self._servers:
            self._outputs.append(CloseTurnStream(local, server.address))
            return
        self._streams[local, server.address] = server
        self._allocate(local, server, now)
        self._drain(now)

    def stream_failed(self, server: TurnServer, now: float) -> None:
        """The connection that OpenTurnStream asked for cannot be made."""
        self._failures[server.address, server.transport] += 1
        self._race.failed(server, now)
        self._open_streams(now)
        if not self._race.is_on and not self._streams:
            self._timers.arm(_Timer.STREAM, now + ALLOCATE_AGAIN_SECONDS)

    def stream_closed(self, local: Address, server: Address, now: float) -> None:
        """A connection to a relay is gone, and its allocation with it."""
        if (local, server) in self._streams:
            del self._streams[local, server]
            self._drop((local, server))
            self._allocate_missing(now)

    def send(self, datagram: Datagram, now: float) -> None:
        """Send by way of the relay: ``datagram.source`` is a relayed address of ours."""
        allocation = self._relayed.get(datagram.source)
        if allocation is not None and _relayable(datagram.source, datagram.destination):
            allocation.send(datagram.destination, datagram.payload, datagram.segment_size, now)
            self._drain(now)

    def is_relayed(self, address: Address) -> bool:
        return address in self._relayed

    def close(self, now: float) -> None:
        """Give the allocations back and stop."""
        for allocation in self._allocations.values():
            allocation.close(now)
            self._outputs.extend(o for o in allocation.outputs() if isinstance(o, Transmit))
        self._outputs.extend(CloseTurnStream(*ends) for ends in sorted(self._streams))
        self._allocations.clear()
        self._relayed.clear()
        self._streams.clear()
        self._race.stop()
        self._servers = ()
        self._timers.clear()

    # ------------------------------------------------------------------------- engine

    def knows(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` comes from a relay of ours, so that it is for :meth:`receive`."""
        return (datagram.destination, datagram.source) in self._allocations

    def receive(self, datagram: Datagram, now: float) -> None:
        allocation = self._allocations.get((datagram.destination, datagram.source))
        if allocation is not None:
            allocation.receive(datagram, now)
            self._drain(now)

    def handle_timeout(self, now: float) -> None:
        for timer in self._timers.pop_expired(now):
            match timer:
                case _Timer.ALLOCATE:
                    self._allocate_missing(now)
                case _Timer.STREAM:
                    self._begin_race(now)
        self._open_streams(now)
        for allocation in tuple(self._allocations.values()):
            timeout = allocation.next_timeout()
            if timeout is not None and timeout <= now:
                allocation.handle_timeout(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return least(
            self._timers.next(),
            self._race.next_timeout(),
            *(a.next_timeout() for a in self._allocations.values()),
        )

    def outputs(self) -> Iterator[RelaysOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ------------------------------------------------------------------------- inside

    def _allocate_missing(self, now: float) -> None:
        """Have one allocation over UDP for each family, and after a while one over a stream."""
        for is_ipv6 in (False, True):
            base = next((base for base in self._bases if base.is_ipv6 is is_ipv6), None)
            server = self._next_server(is_ipv6)
            if base is not None and server is not None and not self._has_udp(is_ipv6):
                self._allocate(base, server, now)
        if self._servers and not self._relayed and not self._timers.is_armed(_Timer.STREAM):
            self._timers.arm(_Timer.STREAM, now + STREAM_AFTER_SECONDS)
        self._drain(now)

    def _has_udp(self, is_ipv6: bool) -> bool:
        return any(
            ends[1].is_ipv6 is is_ipv6 and ends not in self._streams for ends in self._allocations
        )

    def _next_server(self, is_ipv6: bool) -> TurnServer | None:
        """The relay to ask over UDP: of those that failed least often, the first."""
        servers = (
            server
            for server in self._servers
            if server.transport is Transport.UDP and server.address.is_ipv6 is is_ipv6
        )
        return min(servers, key=self._failures_of, default=None)

    def _failures_of(self, server: TurnServer) -> int:
        return self._failures[server.address, server.transport]

    def _allocate(
        self,
        local: Address,
        server: TurnServer,
        now: float,
        sent_on_by: Sequence[Address] = (),
    ) -> None:
        self._allocations[local, server.address] = Allocation(
            local=local,
            server=server.address,
            transport=server.transport,
            credentials=server.credentials,
            random=self._random,
            now=now,
            # IPv4 wherever it can be had: relayed addresses of two families do not pair.
            family=AddressFamily.IPV6 if server.address in self._only_ipv6 else None,
            redirected_by=sent_on_by,
        )

    def _drop(self, ends: Ends) -> None:
        """Forget an allocation that the relay has forgotten, or cannot be told of any more."""
        allocation = self._allocations.pop(ends, None)
        if allocation is not None and allocation.relayed_address is not None:
            self._relayed.pop(allocation.relayed_address, None)
            self._outputs.append(RelayedAddressesChanged())

    def _begin_race(self, now: float) -> None:
        if self._relayed or self._race.is_on or self._streams:
            return
        streams = [server for server in self._servers if server.transport is not Transport.UDP]
        # Those first that have failed least: only one of the ports may be open to us.
        self._race.begin(sorted(streams, key=self._failures_of), now)

    def _open_streams(self, now: float) -> None:
        self._outputs.extend(OpenTurnStream(server) for server in self._race.due(now))

    def _tidy(self, now: float) -> None:
        """UDP is back, and no line needs the stream: give it up."""
        if self._peers or not any(a.transport is Transport.UDP for a in self._relayed.values()):
            return
        for ends in sorted(self._streams):
            self._allocations[ends].close(now)
            outputs = tuple(self._allocations[ends].outputs())
            self._outputs.extend(output for output in outputs if isinstance(output, Transmit))
            self._drop(ends)
            self._outputs.append(CloseTurnStream(*ends))
        self._streams.clear()

    def _bind(
        self, relayed: Address, allocation: Allocation, peers: Sequence[Address], now: float
    ) -> None:
        for peer in peers:
            if _relayable(relayed, peer):
                allocation.bind_channel(peer, now)

    def _drain(self, now: float) -> None:
        for ends, allocation in tuple(self._allocations.items()):
            for output in allocation.outputs():
                match output:
                    case Transmit() | RelayedDataReceived():
                        self._outputs.append(output)
                    case Allocated(relayed):
                        self._allocated(relayed, allocation, now)
                    case AllocationFailed(code) as failed if code == TRY_ALTERNATE:
                        self._send_on(ends, failed, now)
                    case AllocationFailed(code) | AllocationLost(code):
                        self._allocation_over(ends, code, now)
                    case _:
                        pass

    def _allocated(self, relayed: Address, allocation: Allocation, now: float) -> None:
        self._relayed[relayed] = allocation
        self._failures.pop((allocation.server, allocation.transport), None)
        self._timers.disarm(_Timer.STREAM)
        self._race.stop()
        own = [server.address for server in self._servers if not server.server_name]
        self._outputs.extend(knock(allocation, relayed, own, self._random))
        self._outputs.append(RelayedAddressesChanged())
        self._bind(relayed, allocation, sorted(self._peers), now)
        self._outputs.extend(o for o in allocation.outputs() if isinstance(o, Transmit))
        self._tidy(now)

    def _send_on(self, ends: Ends, failed: AllocationFailed, now: float) -> None:
        """Try Alternate (RFC 8656 Section 7.4): once, over the same transport and with the same
        credentials. A server that we were sent to sends us no further."""
        local, address = ends
        alternate = failed.alternate_server
        server = self._streams.get(ends) or next(
            (s for s in self._servers if (s.address, s.transport) == (address, Transport.UDP)), None
        )
        already = alternate is not None and (local, alternate) in self._allocations
        if alternate is None or server is None or already or address in self._sent_on:
            self._allocation_over(ends, TRY_ALTERNATE, now)
            return
        self._sent_on[alternate] = address
        other = replace(
            server, address=alternate, server_name=failed.alternate_domain or server.server_name
        )
        self._drop(ends)
        if self._streams.pop(ends, None) is None:
            self._allocate(local, other, now, sent_on_by=(address,))
            self._drain(now)
        else:
            self._outputs.append(CloseTurnStream(*ends))
            self._race.begin([other], now)
            self._open_streams(now)

    def _allocation_over(self, ends: Ends, code: int | None, now: float) -> None:
        allocation = self._allocations[ends]
        self._drop(ends)
        if self._streams.pop(ends, None) is not None:
            self._outputs.append(CloseTurnStream(*ends))
        if code == FAMILY_NOT_SUPPORTED and ends[1] not in self._only_ipv6:
            self._only_ipv6.add(ends[1])
            self._timers.arm(_Timer.ALLOCATE, now)
            return
        # What we were sent to has failed: so has the server that sent us there.
        asked = self._sent_on.pop(ends[1], ends[1])
        self._failures[asked, allocation.transport] += 1
        self._timers.arm(_Timer.ALLOCATE, now + ALLOCATE_AGAIN_SECONDS)
        if not self._timers.is_armed(_Timer.STREAM):
            self._timers.arm(_Timer.STREAM, now + STREAM_AFTER_SECONDS)


def _relayable(relayed: Address, peer: Address) -> bool:
    """Whether asking the relay for ``peer`` makes sense: same family, a public address."""
    if relayed.is_ipv6 != peer.is_ipv6:
        return False
    allowed_scope = peer_prohibited(relayed.host) is not None  # a lab or LAN relay: let it say
    return allowed_scope or peer_prohibited(peer.host) is None
