"""A port mapping by UPnP (WANIPConnection): found, asked for, renewed, deleted.

The library that speaks it is imported in a thread, and only when a gateway has answered a search.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Final, Protocol

from knothole.engine.portmap.mapping import (
    MappingAttempt,
    MappingProtocol,
    PortMapping,
    Progress,
)
from knothole.io.ssdp import find_description
from knothole.wire.address import Address, parse_address

if TYPE_CHECKING:
    from async_upnp_client.profiles.igd import IgdDevice

    from knothole.io.upnp_http import GatewayRequester

log = logging.getLogger(__name__)

LEASE_SECONDS: Final = 1200
"""Ours: a UPnP gateway does not tell that it was restarted, so it is asked every ten minutes."""

BEGIN_AFTER_SECONDS: Final = 1.0
"""Ours: the library takes 0.3 s of a core to import, which the first call shall have."""

ATTEMPT_SECONDS: Final = 15.0  # ours: to find, to read the description, to get a mapping
DELETE_SECONDS: Final = 1.0  # ours: so long leaving may take
PAUSES: Final = (5.0, 30.0, 120.0)
"""Ours: after a failure it is tried again so much later; a router starts UPnP after the network."""

OTHER_PORTS: Final = 3  # ours: tried when the port that we have is taken outside
CONFLICT: Final = 718  # WANIPConnection:1 Section 2.4.16, ConflictInMappingEntry
ONLY_PERMANENT: Final = 725  # ibid., OnlyPermanentLeasesSupported
_ANYBODY: Final = IPv4Address("0.0.0.0")  # noqa: S104  no socket's address
"""The wildcard of NewRemoteHost: as this the library takes it, and gateways do."""


class Refused(Exception):
    """The gateway will not; the text says why."""


class Igd(Protocol):
    """What is asked of the device, so that tests have another."""

    async def external_host(self) -> str: ...
    async def add(self, base: Address, port: int, lease_seconds: int) -> int | None:
        """None, or the error code of the refusal."""

    async def leads_to(self, base: Address, port: int) -> bool:
        """Whether ``port`` is mapped to ``base`` already."""

    async def delete(self, port: int) -> None: ...
    async def close(self) -> None: ...


class UpnpMapper:
    """Keeps one mapping for ``base``; ``changed`` is called after every change of its state."""

    def __init__(
        self,
        base: Address,
        gateway: str,
        changed: Callable[[], None],
        *,
        find: Callable[[str, str], Awaitable[Igd | None]] | None = None,
        begin_after_seconds: float = BEGIN_AFTER_SECONDS,
    ) -> None:
        """Starts within a running event loop; the last two are replaced in tests."""
        self.attempt = MappingAttempt(MappingProtocol.UPNP, base, gateway, Progress.ASKING)
        self.mapping: PortMapping | None = None
        self._base = base
        self._gateway = gateway
        self._changed = changed
        self._find = find or find_igd
        self._igd: Igd | None = None
        self._lease_seconds = LEASE_SECONDS
        self._expires_at = 0.0
        self._begin_after_seconds = begin_after_seconds
        self._again = asyncio.Event()
        self._task = asyncio.create_task(self._keep())

    def ask_again(self) -> None:
        """The gateway may have forgotten."""
        self._again.set()

    async def close(self) -> None:
        """Delete the mapping, if that is possible within a second, and stop."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        igd, mapping = self._igd, self.mapping
        self._igd = self.mapping = None
        if igd is None:
            return
        try:
            with contextlib.suppress(Exception):  # it expires by itself
                async with asyncio.timeout(DELETE_SECONDS):
                    if mapping is not None:
                        await igd.delete(mapping.external.port)
        finally:
            await igd.close()

    # ------------------------------------------------------------------------- inside

    async def _keep(self) -> None:
        failures = 0
        await asyncio.sleep(self._begin_after_seconds)
        while True:
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    await self._map()
                failures = 0
                wait: float | None = LEASE_SECONDS / 2
            except Exception as error:  # the device's fault, whatever it made the library raise
                log.debug("UPnP: %s: %s", type(error).__name__, error)
                await self._failed(error)
                wait = self._pause(failures)
                failures += 1
            self._again.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._again.wait()
                    failures = 0

    async def _map(self) -> None:
        if self._igd is None:
            self._igd = await self._find(self._base.host, self._gateway)
        if self._igd is None:
            raise TimeoutError
        host = str(IPv4Address(await self._igd.external_host()))
        wished = self.mapping.external.port if self.mapping else self._base.port
        external = parse_address(host, await self._add(self._igd, wished))
        self._expires_at = asyncio.get_running_loop().time() + LEASE_SECONDS
        self._tell(
            PortMapping(MappingProtocol.UPNP, self._base, self._gateway, external, LEASE_SECONDS),
            Progress.GRANTED,
        )

    async def _add(self, igd: Igd, wished: int) -> int:
        """Have a mapping from ``wished``, or else from another port; the port."""
        base = self._base
        ports = [wished, *(1024 + secrets.randbelow(64512) for _ in range(OTHER_PORTS))]
        error: int | None = None
        for port in ports:
            error = await igd.add(base, port, self._lease_seconds)
            if error == ONLY_PERMANENT:
                self._lease_seconds = 0
                error = await igd.add(base, port, 0)
            if error is None:
                return port
            if error != CONFLICT:
                break
            if await igd.leads_to(base, port):  # PCP or NAT-PMP were quicker
                return port
        raise Refused(f"error {error}")

    async def _failed(self, error: Exception) -> None:
        igd, self._igd = self._igd, None
        if igd is not None:
            await igd.close()
        if isinstance(error, Refused):
            self._tell(None, Progress.REFUSED, str(error))
        elif self.mapping is None or self._expires_at <= asyncio.get_running_loop().time():
            self._tell(None, Progress.SILENT)

    def _pause(self, failures: int) -> float | None:
        """Until when it is tried again; None: until somebody says so."""
        if failures < len(PAUSES):
            return PAUSES[failures]
        return None if self.mapping is None else PAUSES[-1]

    def _tell(self, mapping: PortMapping | None, progress: Progress, detail: str = "") -> None:
        attempt = replace(self.attempt, progress=progress, detail=detail)
        if (mapping, attempt) != (self.mapping, self.attempt):
            self.mapping, self.attempt = mapping, attempt
            self._changed()


async def find_igd(host: str, gateway: str) -> Igd | None:
    """The UPnP device that ``gateway`` is, or None. Raises what the library raises."""
    url = await find_description(host, gateway)
    if url is None:
        return None
    await asyncio.to_thread(_import)  # a third of a second: the event loop goes on meanwhile
    from async_upnp_client.client_factory import UpnpFactory
    from async_upnp_client.profiles.igd import IgdDevice

    from knothole.io.upnp_http import GatewayRequester

    requester = GatewayRequester(host, gateway)
    try:
        device = await UpnpFactory(requester, non_strict=True).async_create_device(url)
        return _LibraryIgd(IgdDevice(device, None), requester)
    except BaseException:
        await requester.close()
        raise


def _import() -> None:
    for name in ("client_factory", "profiles.igd"):
        importlib.import_module(f"async_upnp_client.{name}")
    importlib.import_module("knothole.io.upnp_http")
    # It warns, with addresses, of what GatewayRequester refuses anyway.
    logging.getLogger("async_upnp_client").setLevel(logging.ERROR)


class _LibraryIgd:
    """A device as async-upnp-client has it."""

    def __init__(self, device: IgdDevice, requester: GatewayRequester) -> None:
        self._device = device
        self._requester = requester

    async def external_host(self) -> str:
        host = await self._device.async_get_external_ip_address()
        if not host:
            raise Refused("no external address")
        return host

    async def add(self, base: Address, port: int, lease_seconds: int) -> int | None:
        from async_upnp_client.exceptions import UpnpActionError

        try:
            await self._device.async_add_port_mapping(
                _ANYBODY,
                port,
                "UDP",
                base.port,
                IPv4Address(base.host),
                True,
                "knothole",
                timedelta(seconds=lease_seconds),
            )
        except UpnpActionError as error:
            return error.error_code or 0
        return None

    async def leads_to(self, base: Address, port: int) -> bool:
        from async_upnp_client.exceptions import UpnpActionError

        try:
            entry = await self._device.async_get_specific_port_mapping_entry(_ANYBODY, port, "UDP")
        except UpnpActionError:
            return False
        if entry is None or entry.internal_port is None:
            return False
        return (str(entry.internal_client), entry.internal_port) == tuple(base)

    async def delete(self, port: int) -> None:
        await self._device.async_delete_port_mapping(_ANYBODY, port, "UDP")

    async def close(self) -> None:
        await self._requester.close()
