"""``knothole serve``: switchboard, STUN and TURN as one server, from configuration to the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from knothole.server.addresses import (
    advertised_host,
    discovery_partners,
    listening_addresses,
    machine_addresses,
    relay_addresses,
)
from knothole.server.link import MappedSeen, Message, Reached, RelayStart, TakeWebSocket
from knothole.server.reachability import WARN_SECONDS, Origin, Ports, Report, origin_of
from knothole.server.relay_link import RelayGone, RelayLink, make_relay_link
from knothole.wire.address import parse_address
from knothole.wire.server_url import ServerUrl

if TYPE_CHECKING:
    from knothole.server.certificate import ServerCertificate
    from knothole.server.config import ServerConfig
    from knothole.server.listener import Listener
    from knothole.server.rendezvous import Rendezvous
    from knothole.server.store import SqliteAccounts


class ServerError(Exception):
    """The server cannot start or go on; the text says why and what to do."""


class Server:
    """One server, within a running event loop.

    ``say`` gets now and then what kind of news there is ("reached", "warning") and a line.
    """

    def __init__(self, config: ServerConfig, say: Callable[[str, str], object]) -> None:
        relayed = config.relay_ports if config.allocations else None
        self.ports = Ports(config.port, config.also_listen, config.discovery_port, relayed)
        self._config = config
        self._report = Report(self.ports, say)
        self._secret = secrets.token_urlsafe(32)
        self._machine = machine_addresses()
        self._relay: RelayLink = make_relay_link(self._from_relay)
        self._rendezvous: Rendezvous | None = None
        self._listener: Listener | None = None
        self._store: SqliteAccounts | None = None
        self._warning: asyncio.TimerHandle | None = None
        self.advice = ""
        """What the operator should know of the address that clients use, when it was started."""

    async def start(self) -> ServerUrl:
        """Open every socket; the address that clients use. Raises ServerError."""
        try:
            # First of all: it imports what it needs while we import what we need.
            self._relay.spawn()
            return await self._start()
        except BaseException as error:
            await self.stop()
            if isinstance(error, RelayGone):
                raise ServerError(str(error)) from error
            raise

    async def run(self) -> None:
        """Serve until cancelled. Raises ServerError when the relay process ends by itself."""
        how = await self._relay.wait_gone()
        raise ServerError(f"{how}; there is no server without it: start the server again")

    async def stop(self) -> None:
        """Close everything; idempotent."""
        if self._warning is not None:
            self._warning.cancel()
        if self._listener is not None:
            await self._listener.close()
        if self._rendezvous is not None:
            await self._rendezvous.close()
        await self._relay.stop()
        if self._store is not None:
            self._store.close()
        self._listener = self._rendezvous = self._store = None

    async def _start(self) -> ServerUrl:
        from knothole.server.listener import Listener
        from knothole.server.rendezvous import Rendezvous
        from knothole.server.services import ServiceDesk

        config, relay = self._config, self._relay
        hosts = listening_addresses(config.hosts, self._machine)
        if not hosts:
            raise ServerError("this machine has no address to listen on")
        certificate = self._open_data()
        assert self._store is not None
        self._rendezvous = rendezvous = Rendezvous(
            accounts=self._store,
            server_pins=[certificate.key_hash],
            services=ServiceDesk(config, self._secret).services,
            context=certificate.context,
            invitations_needed=config.invitation_required,
            on_session=self._session_opened,
        )
        self._listener = Listener(
            websocket=lambda sock, remote: rendezvous.take(sock, remote, decrypted=False),
            turn=relay.take,
        )
        try:
            for port in (config.port, *config.also_listen):
                self._listener.listen(hosts, port)
        except OSError as error:
            raise ServerError(str(error.strerror)) from error
        await relay.start(self._relay_start(hosts, certificate))
        advertised = advertised_host(config.name, hosts, config.external)
        self.advice = _advice(advertised)
        return ServerUrl(
            host=advertised,
            port=config.port,
            tcp_ports=config.also_listen,
            pin=certificate.key_hash if certificate.pinned else None,
        )

    def _open_data(self) -> ServerCertificate:
        """The accounts and the certificate. Raises ServerError."""
        from knothole.server.certificate import (
            CertificateError,
            load_certificate,
            own_certificate,
        )
        from knothole.server.store import SqliteAccounts, StoreError

        config = self._config
        try:
            config.data.mkdir(parents=True, exist_ok=True)
            self._store = SqliteAccounts(config.data / "accounts.sqlite")
            if config.certificate is not None and config.key is not None:
                return load_certificate(config.certificate, config.key, pinned=False)
            return own_certificate(config.data)
        except CertificateError as error:
            raise ServerError(f"the TLS certificate cannot be used: {error}") from error
        except StoreError as error:
            raise ServerError(str(error)) from error
        except OSError as error:
            reason = f"{error.strerror}: {error.filename or config.data}"
            raise ServerError(f"the data folder cannot be used: {reason}") from error

    def _relay_start(self, hosts: tuple[str, ...], certificate: ServerCertificate) -> RelayStart:
        from knothole.server.services import REALM

        config = self._config
        return RelayStart(
            hosts=list(hosts),
            port=config.port,
            discovery_port=config.discovery_port,
            partners=discovery_partners(hosts, config.hosts, config.external),
            relay_hosts=relay_addresses(hosts, config.external),
            machine=list(self._machine),
            realm=REALM,
            secret=self._secret,
            relay_ports=config.relay_ports,
            allow_peers=[str(network) for network in config.allow_peers],
            deny_peers=[str(network) for network in config.deny_peers],
            allocations=config.allocations,
            allocations_per_user=config.allocations_per_user,
            chain=str(certificate.chain),
            key=str(certificate.key),
            classic_stun=config.classic_stun,
        )

    # ----------------------------------------------------------------- while it serves

    def _from_relay(self, message: Message, handed: socket.socket | None) -> None:
        rendezvous = self._rendezvous
        match message:
            case TakeWebSocket(remote) if handed is not None and rendezvous is not None:
                rendezvous.take(handed, remote, decrypted=True)
                return
            case MappedSeen(username, host, port) if rendezvous is not None:
                from knothole.server.services import session_of

                rendezvous.mapped_seen(session_of(username), parse_address(host, port))
            case Reached(way, origin):
                self._report.came(way, origin)
            case _:
                pass
        if handed is not None:
            with contextlib.suppress(OSError):
                handed.close()

    def _session_opened(self, host: str) -> None:
        """Some time after the first client from elsewhere, look what of its UDP has come."""
        if self._warning is None and self._is_elsewhere(host):
            loop = asyncio.get_running_loop()
            self._warning = loop.call_later(WARN_SECONDS, self._look)

    def _look(self) -> None:
        self._warning = None  # the next client to come has us look again
        if self._rendezvous is not None:
            self._report.look(sum(map(self._is_elsewhere, self._rendezvous.session_hosts)))

    def _is_elsewhere(self, host: str) -> bool:
        return origin_of(host, self._machine) is not Origin.MACHINE


def _advice(advertised: str) -> str:
    try:
        origin = origin_of(advertised, ())
    except ValueError:  # a host name
        return ""
    if origin is Origin.MACHINE:
        return f"{advertised} can be reached from this machine only; --host names another address"
    if origin is Origin.NETWORK:
        return (
            f"{advertised} is an address of a private network: if clients come from elsewhere, "
            "give the name or address that they see as `name` in the configuration file"
        )
    return ""
