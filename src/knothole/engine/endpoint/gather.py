"""Candidates kept ready long before a call (the article: the server "already knows a bit").

For every base a STUN client keeps the mapping warm and knows the mapped address; relayed addresses
are held by :mod:`knothole.engine.endpoint.relays`. A call starts with what is on file here: nothing
is gathered at call time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.endpoint.candidates import Describer
from knothole.engine.endpoint.keepalive import UNKNOWN_SECONDS
from knothole.engine.endpoint.relays import (
    CloseTurnStream,
    OpenTurnStream,
    RelayedAddressesChanged,
    Relays,
    TurnServer,
)
from knothole.engine.ice.pair import LocalCandidate
from knothole.engine.portmap.mapper import GatewayInDoubt, PortMapper, PortMappingsChanged
from knothole.engine.stun.client import BindingClient, MappedAddressChanged, MappedAddressLearned
from knothole.engine.turn.client import RelayedDataReceived
from knothole.wire.address import Address, Transport
from knothole.wire.portmap.pcp import SERVER_PORT


@dataclass(frozen=True, slots=True)
class CandidatesChanged:
    """:attr:`Gatherer.candidates` is another list than before."""


GathererOutput: TypeAlias = (
    Transmit
    | CandidatesChanged
    | RelayedDataReceived
    | OpenTurnStream
    | CloseTurnStream
    | PortMappingsChanged
    | GatewayInDoubt
)


class Gatherer:
    """The standing candidates of one peer (an :class:`~knothole.engine.core.Engine`).

    :attr:`relays` is owned by it; commands are given to the gatherer.
    """

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._bases: tuple[Address, ...] = ()
        self._stun: tuple[Address, ...] = ()
        self._warm: frozenset[Address] = frozenset()
        self._bindings: dict[tuple[Address, Address], BindingClient] = {}
        self._ipv4_keepalive_seconds = UNKNOWN_SECONDS
        self._relays = Relays(random)
        self._mapper = PortMapper(random)
        self._describe = Describer()
        self._candidates: tuple[LocalCandidate, ...] = ()
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

    @property
    def mapper(self) -> PortMapper:
        """The port mappings, to look at."""
        return self._mapper

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
        self._ask_missing(now)
        self._relays.set_bases(bases, now)
        self._update_candidates()
        self._drain(now)

    def set_servers(self, stun: Sequence[Address], turn: Sequence[TurnServer], now: float) -> None:
        """Whom to ask for mapped addresses, and who relays, with credentials as they are now.

        The first STUN server of a family keeps the mapping warm, the others are only asked.
        """
        self._stun = tuple(stun)
        self._warm = frozenset({server.is_ipv6: server for server in reversed(self._stun)}.values())
        self._ask_missing(now)
        self._relays.set_servers(turn, now)
        self._drain(now)

    def map_ports(self, do: Callable[[PortMapper, float], None], now: float) -> None:
        """What io has found out about gateways: ``do`` tells the port mapper."""
        do(self._mapper, now)
        self._drain(now)

    def set_peers(self, peers: frozenset[Address], now: float) -> None:
        """These shall reach us over the relay and we them, and nobody else."""
        self._relays.set_peers(peers, now)
        self._drain(now)

    def stream_opened(self, local: Address, server: TurnServer, now: float) -> None:
        """The connection that OpenTurnStream asked for is there."""
        self._relays.stream_opened(local, server, now)
        self._drain(now)

    def stream_failed(self, server: TurnServer, now: float) -> None:
        """The connection that OpenTurnStream asked for cannot be made."""
        self._relays.stream_failed(server, now)
        self._drain(now)

    def stream_closed(self, local: Address, server: Address, now: float) -> None:
        """A connection to a relay is gone, and its allocation with it."""
        self._relays.stream_closed(local, server, now)
        self._drain(now)

    def set_keepalive(self, ipv4_seconds: float, now: float) -> None:
        """Keep IPv4 mappings warm at this pace from now on."""
        if ipv4_seconds != self._ipv4_keepalive_seconds:
            self._ipv4_keepalive_seconds = ipv4_seconds
            for (_, server), binding in self._bindings.items():
                if server in self._warm and not server.is_ipv6:
                    binding.set_keepalive(ipv4_seconds, now)
            self._drain(now)

    def payload_flows(self, bases: Collection[Address], now: float) -> None:
        """Payload keeps the mappings of these bases warm: what is due for that only is put off."""
        for (base, server), binding in self._bindings.items():
            timeout = binding.next_timeout()
            if base in bases and server in self._warm and timeout is not None and timeout <= now:
                binding.postpone(now)

    def refresh(self, now: float) -> None:
        """Ask all servers for our mapped addresses at once: the network may have changed."""
        for binding in self._bindings.values():
            binding.refresh(now)
        self._drain(now)

    def confirm(self, now: float) -> None:
        """Ask the relays whether our allocations still exist: they may have been restarted."""
        self._relays.confirm(now)
        self._drain(now)

    def send(self, datagram: Datagram, now: float) -> None:
        """Send by way of the relay: ``datagram.source`` is a relayed address of ours."""
        self._relays.send(datagram, now)
        self._drain(now)

    def is_relayed(self, address: Address) -> bool:
        """Whether ``address`` is a relayed address of ours."""
        return self._relays.is_relayed(address)

    def close(self, now: float) -> None:
        """Give allocations and port mappings back and stop."""
        self._relays.close(now)
        self._mapper.close(now)
        for binding in self._bindings.values():
            binding.close()
        self._bindings.clear()
        self._bases = self._stun = ()
        self._drain(now)

    # ------------------------------------------------------------------------- engine

    def knows(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` comes from a server of ours, so that it is for :meth:`receive`."""
        is_binding = (datagram.destination, datagram.source) in self._bindings
        return is_binding or self._relays.knows(datagram) or self._mapper.knows(datagram)

    def receive(self, datagram: Datagram, now: float) -> None:
        binding = self._bindings.get((datagram.destination, datagram.source))
        if binding is not None and datagram.transport is Transport.UDP:
            binding.receive(datagram, now)
        self._relays.receive(datagram, now)
        self._mapper.receive(datagram, now)
        self._drain(now)

    def handle_timeout(self, now: float) -> None:
        children: tuple[BindingClient | Relays | PortMapper, ...]
        children = (*self._bindings.values(), self._relays, self._mapper)
        for child in children:
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

    def _ask_missing(self, now: float) -> None:
        """Have one STUN client per base and server."""
        wanted = {
            (base, server): self._keepalive_seconds(server) if server in self._warm else None
            for base in self._bases
            for server in self._stun
            if base.is_ipv6 == server.is_ipv6
        }
        for ends, binding in tuple(self._bindings.items()):
            if ends not in wanted or binding.keepalive_seconds != wanted[ends]:
                self._bindings.pop(ends).close()
        for ends, keepalive_seconds in wanted.items():
            if ends not in self._bindings:
                self._bindings[ends] = BindingClient(
                    *ends, random=self._random, now=now, keepalive_seconds=keepalive_seconds
                )

    def _keepalive_seconds(self, server: Address) -> float:
        return UNKNOWN_SECONDS if server.is_ipv6 else self._ipv4_keepalive_seconds

    def _drain(self, now: float) -> None:
        for binding in self._bindings.values():
            for output in binding.outputs():
                match output:
                    case Transmit():
                        self._outputs.append(output)
                    case MappedAddressLearned():
                        self._update_candidates()
                    case MappedAddressChanged(base, server) if server in self._warm:
                        self._update_candidates()
                        self._relays.mapping_changed(base, server, now)
                        self._mapper.ask_again(now)
                    case _:
                        pass
        for relays_output in self._relays.outputs():
            if isinstance(relays_output, RelayedAddressesChanged):
                self._update_candidates()
            else:
                self._outputs.append(relays_output)
        for mapper_output in self._mapper.outputs():
            if isinstance(mapper_output, PortMappingsChanged):
                self._update_candidates()
            self._outputs.append(mapper_output)
        bindings = (binding.next_timeout() for binding in self._bindings.values())
        self._deadline = least(self._relays.next_timeout(), self._mapper.next_timeout(), *bindings)

    def _update_candidates(self) -> None:
        candidates = self._describe.candidates(
            self._bases,
            # Not those that were only asked once: the NAT may have forgotten what they saw.
            [
                (b.base, b.server, b.mapped)
                for b in self._bindings.values()
                if b.mapped and b.server in self._warm
            ]
            + [
                (each.base, Address(each.gateway, SERVER_PORT), each.external)
                for each in self._mapper.mappings
                if each.is_public
            ],
            self._relays.relayed,
        )
        if candidates != self._candidates:
            self._candidates = candidates
            self._outputs.append(CandidatesChanged())
