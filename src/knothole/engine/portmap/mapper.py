"""Port mappings of all our sockets: every gateway is asked by PCP and NAT-PMP at once.

UPnP needs HTTP and is io's; what comes of it is told here, so that all mappings are in one place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from knothole.engine.core import Datagram, RandomBytes, Transmit, least
from knothole.engine.portmap.epoch import Epoch
from knothole.engine.portmap.events import Changed, GatewayAged
from knothole.engine.portmap.mapping import (
    MappingAttempt,
    MappingProtocol,
    PortMapping,
)
from knothole.engine.portmap.natpmp import NatPmpClient
from knothole.engine.portmap.pcp import PcpClient
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.portmap import natpmp, pcp

_PCP_DRIFT: Final = 1 / 16  # RFC 6887 Section 8.5
_NAT_PMP_DRIFT: Final = 1 / 8  # RFC 6886 Section 3.6: 7/8 of the time elapsed

Ends: TypeAlias = tuple[Address, Address]
"""A base of ours and a gateway's address with the port of PCP."""


@dataclass(frozen=True, slots=True)
class PortMappingsChanged:
    """:attr:`PortMapper.mappings` or :attr:`PortMapper.attempts` is another list than before."""


@dataclass(frozen=True, slots=True)
class GatewayInDoubt:
    """A gateway may have forgotten what it gave: to be asked by UPnP too."""


PortMapperOutput: TypeAlias = Transmit | PortMappingsChanged | GatewayInDoubt


class PortMapper:
    """Asks, renews, deletes (an :class:`~knothole.engine.core.Engine`).

    A mapping that two protocols gave counts once in :attr:`mappings`.
    """

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._clients: dict[Ends, tuple[PcpClient | NatPmpClient, ...]] = {}
        self._epochs: dict[tuple[str, MappingProtocol], Epoch] = {}
        self._upnp: tuple[MappingAttempt, ...] = ()
        self._upnp_mappings: tuple[PortMapping, ...] = ()
        self._deadline: float | None = None
        self._outputs: deque[PortMapperOutput] = deque()

    @property
    def mappings(self) -> tuple[PortMapping, ...]:
        """What was granted and is not expired, of each base and external address one."""
        granted = [client.mapping for client in self._each() if client.mapping is not None]
        first: dict[tuple[Address, Address], PortMapping] = {}
        for mapping in (*granted, *self._upnp_mappings):
            first.setdefault((mapping.base, mapping.external), mapping)
        return tuple(first.values())

    @property
    def attempts(self) -> tuple[MappingAttempt, ...]:
        """How asking goes: each base, gateway and protocol."""
        asked = [
            MappingAttempt(
                client.protocol, client.base, client.gateway.host, client.progress, client.detail
            )
            for client in self._each()
        ]
        return (*asked, *self._upnp)

    # ------------------------------------------------------------------------ commands

    def set_routes(self, routes: Iterable[tuple[Address, str]], now: float) -> None:
        """Each base and the IP address of the gateway in front of it; others are given back."""
        wanted = {(base, Address(gateway, pcp.SERVER_PORT)) for base, gateway in routes}
        for ends in [ends for ends in self._clients if ends not in wanted]:
            self._drop(ends, now)
        for base, gateway in sorted(wanted - self._clients.keys()):
            clients: tuple[PcpClient | NatPmpClient, ...]
            clients = (PcpClient(base, gateway, self._random, now),)
            if not base.is_ipv6:
                clients += (NatPmpClient(base, gateway, now),)
            self._clients[base, gateway] = clients
        self._outputs.append(PortMappingsChanged())
        self._drain(now)

    def ask_again(self, now: float) -> None:
        """A gateway may have been restarted: ask all of them for what we had."""
        for client in self._each():
            client.ask_again(now)
        if self._clients:
            self._outputs.append(GatewayInDoubt())
        self._drain(now)

    def announced(self, gateway: str, payload: bytes, now: float) -> None:
        """A multicast announcement (RFC 6887 Section 14.1, RFC 6886 Section 3.2.1) from the
        address of one of our gateways."""
        clients = [client for client in self._each() if client.gateway.host == gateway]
        try:
            if payload[:1] == bytes((pcp.VERSION,)):
                epoch, protocol = pcp.decode_response(payload).epoch_seconds, MappingProtocol.PCP
            else:
                response = natpmp.decode_response(payload)
                epoch, protocol = response.epoch_seconds, MappingProtocol.NAT_PMP
        except MalformedMessage:
            return
        if clients and self._epoch(gateway, protocol).restarted(epoch, now):
            self.ask_again(now)
        self._drain(now)

    def set_upnp(self, mappings: Iterable[PortMapping], attempts: Iterable[MappingAttempt]) -> None:
        """What came of asking by UPnP."""
        self._upnp_mappings, self._upnp = tuple(mappings), tuple(attempts)
        self._outputs.append(PortMappingsChanged())

    def close(self, now: float) -> None:
        """Delete what was granted, and stop."""
        for ends in tuple(self._clients):
            self._drop(ends, now)
        self._upnp_mappings, self._upnp = (), ()
        self._deadline = None

    # ------------------------------------------------------------------------- engine

    def knows(self, datagram: Datagram) -> bool:
        """Whether ``datagram`` comes from a gateway of ours, so that it is for :meth:`receive`."""
        return (
            datagram.source.port == pcp.SERVER_PORT
            and (datagram.destination, datagram.source) in self._clients
        )

    def receive(self, datagram: Datagram, now: float) -> None:
        for client in self._clients.get((datagram.destination, datagram.source), ()):
            try:
                self._answered(client, datagram.payload, now)
            except MalformedMessage:
                continue  # the other protocol's, or nothing
        self._drain(now)

    def handle_timeout(self, now: float) -> None:
        for client in self._each():
            timeout = client.next_timeout()
            if timeout is not None and timeout <= now:
                client.handle_timeout(now)
        self._drain(now)

    def next_timeout(self) -> float | None:
        return self._deadline

    def outputs(self) -> Iterator[PortMapperOutput]:
        while self._outputs:
            yield self._outputs.popleft()

    # ------------------------------------------------------------------------- inside

    def _each(self) -> Iterator[PcpClient | NatPmpClient]:
        for clients in self._clients.values():
            yield from clients

    def _answered(self, client: PcpClient | NatPmpClient, payload: bytes, now: float) -> None:
        match client:
            case NatPmpClient():
                client.answered(natpmp.decode_response(payload), now)
            case PcpClient() if payload[:1] == bytes((natpmp.VERSION,)):
                match natpmp.decode_response(payload):
                    case natpmp.Refusal(_, natpmp.ResultCode.UNSUPPORTED_VERSION):
                        client.unsupported(now)
            case PcpClient():
                response = pcp.decode_response(payload)
                if isinstance(response, pcp.MapResponse):
                    client.answered(response, now)

    def _epoch(self, gateway: str, protocol: MappingProtocol) -> Epoch:
        drift = _PCP_DRIFT if protocol is MappingProtocol.PCP else _NAT_PMP_DRIFT
        return self._epochs.setdefault((gateway, protocol), Epoch(drift))

    def _drop(self, ends: Ends, now: float) -> None:
        for client in self._clients.pop(ends):
            client.close(now)
            self._outputs.extend(o for o in client.outputs() if isinstance(o, Transmit))

    def _drain(self, now: float) -> None:
        restarted: set[str] = set()
        answering: list[PcpClient | NatPmpClient] = []
        for client in self._each():
            for output in client.outputs():
                match output:
                    case Transmit():
                        self._outputs.append(output)
                    case Changed():
                        self._outputs.append(PortMappingsChanged())
                    case GatewayAged(epoch_seconds):
                        host = client.gateway.host
                        if self._epoch(host, client.protocol).restarted(epoch_seconds, now):
                            restarted.add(host)
                            answering.append(client)
        if restarted:
            self._outputs.append(GatewayInDoubt())
        for client in self._each():
            # The one that was answered has its mapping anew already.
            if client.gateway.host in restarted and client not in answering:
                client.ask_again(now)
        self._deadline = least(*(client.next_timeout() for client in self._each()))
