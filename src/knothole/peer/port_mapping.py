"""Port mappings on real networks: which gateways there are, UPnP, and what gateways announce."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.portmap.mapper import PortMapper
from knothole.io.announcements import Announcements
from knothole.io.gateways import default_gateways, gateway_of_each
from knothole.io.upnp import UpnpMapper
from knothole.wire.address import Address
from knothole.wire.server_url import ServerUrl

ENVIRONMENT: Final = "KNOTHOLE_PORT_MAPPING"
"""``off`` there forbids asking any gateway for anything."""

Command: TypeAlias = Callable[[Callable[[float], None]], None]


def may_map(server: ServerUrl) -> bool:
    """Whether gateways may be asked: not for a server on this very machine, nor against the
    environment."""
    here = server.host in ("localhost", "::1") or server.host.startswith("127.")
    return not here and os.environ.get(ENVIRONMENT) != "off"


class PortMapping:
    """Tells the endpoint its gateways, and does the part of the work that is no engine's."""

    def __init__(self, endpoint: Endpoint, command: Command) -> None:
        """Starts within a running event loop. ``command`` gives the endpoint a command."""
        self._endpoint = endpoint
        self._command = command
        self._upnp: dict[tuple[Address, str], UpnpMapper] = {}
        self._announcements = Announcements(self._heard)
        self._changing = asyncio.Lock()
        self._closed = False

    async def set_bases(self, bases: Sequence[Address]) -> None:
        """Ask the gateways in front of these sockets, and no others any more."""
        async with self._changing:
            gateways = await asyncio.to_thread(default_gateways)
            of_host = await asyncio.to_thread(
                gateway_of_each, [base.host for base in bases], gateways
            )
            if self._closed:
                return
            routes = [(base, of_host[base.host]) for base in bases if base.host in of_host]
            self._tell(lambda mapper, now: mapper.set_routes(routes, now))
            self._announcements.set_gateways(of_host.values(), of_host)
            wanted = {(base, gateway) for base, gateway in routes if not base.is_ipv6}
            gone = self._upnp.keys() - wanted
            for base, gateway in sorted(wanted - self._upnp.keys()):
                self._upnp[base, gateway] = UpnpMapper(base, gateway, self._upnp_changed)
            await self._close_upnp(gone)  # last: what begins after a close nobody would end

    def ask_again(self) -> None:
        """The gateway may have been restarted. PCP and NAT-PMP have noticed by themselves."""
        for mapper in self._upnp.values():
            mapper.ask_again()

    async def close(self) -> None:
        """Delete what UPnP gave; the endpoint does so for the others."""
        self._closed = True
        self._announcements.close()
        await self._close_upnp(tuple(self._upnp))

    # ------------------------------------------------------------------------- inside

    def _heard(self, gateway: str, payload: bytes) -> None:
        self._tell(lambda mapper, now: mapper.announced(gateway, payload, now))

    def _upnp_changed(self) -> None:
        mappings = [each.mapping for each in self._upnp.values() if each.mapping is not None]
        attempts = [each.attempt for each in self._upnp.values()]
        self._tell(lambda mapper, now: mapper.set_upnp(mappings, attempts))

    def _tell(self, do: Callable[[PortMapper, float], None]) -> None:
        self._command(lambda now: self._endpoint.map_ports(do, now))

    async def _close_upnp(self, ends: Iterable[tuple[Address, str]]) -> None:
        closing = [self._upnp.pop(each) for each in tuple(ends)]
        with contextlib.suppress(Exception):
            await asyncio.gather(*(mapper.close() for mapper in closing))
        if closing:
            self._upnp_changed()
