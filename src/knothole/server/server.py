"""``knothole serve``: switchboard, STUN and TURN as one server, from configuration to the end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from knothole.server.addresses import (
    advertised_host,
    discovery_partners,
    is_usable,
    listening_addresses,
    machine_addresses,
    relay_addresses,
)
from knothole.server.descriptors import too_few
from knothole.server.link import (
    Accelerated,
    MappedSeen,
    Message,
    Reached,
    RelayStart,
    TakeWebSocket,
)
from knothole.server.reachability import WARN_SECONDS, Origin, Ports, Report, origin_of
from knothole.server.relay_group import RelayGroup, usable_processes
from knothole.server.relay_link import RelayGone, RelayLink, make_relay_link
from knothole.server.whereabouts import Whereabouts, client_hosts, turn_uris, write_whereabouts
from knothole.wire.address import Address, parse_address
from knothole.wire.server_url import ServerUrl

if TYPE_CHECKING:
    from knothole.server.config import ServerConfig
    from knothole.server.control import ControlSocket, Reply, Request
    from knothole.server.listener import Listener
    from knothole.server.material import Material
    from knothole.server.metrics_endpoint import MetricsEndpoint
    from knothole.server.operation import Operation
    from knothole.server.rendezvous import Rendezvous
    from knothole.server.services import ServiceDesk
    from knothole.server.store import SqliteAccounts


class ServerError(Exception):
    """The server cannot start or go on; the text says why and what to do."""


class Server:
    """One server, within a running event loop.

    ``say`` gets now and then what kind of news there is ("reached", "warning", "accelerator") and a
    line.
    """

    def __init__(
        self,
        config: ServerConfig,
        say: Callable[[str, str], object],
        load: Callable[[], ServerConfig] | None = None,
    ) -> None:
        """``load`` reads the configuration anew, for a reload."""
        relayed = config.relay_ports if config.allocations else None
        self.ports = Ports(
            config.port,
            config.also_listen,
            config.discovery_port,
            relayed,
            relay_only=config.relay_only,
        )
        self._config = config
        self._say, self._load = say, load
        self._report = Report(self.ports, say)
        self._machine = machine_addresses()
        self._relay: RelayLink = make_relay_link(self._from_relay)
        self._rendezvous: Rendezvous | None = None
        self._listener: Listener | None = None
        self._store: SqliteAccounts | None = None
        self._control: ControlSocket | None = None
        self._metrics: MetricsEndpoint | None = None
        self._warning: asyncio.TimerHandle | None = None
        self.operation: Operation | None = None
        """What can be done with it while it serves; None before."""
        self.advice = ""
        """What the operator should know of the address that clients use, when it was started."""
        self.turn_uris: list[str] = []
        """By which clients of the relay reach it, when it was started."""

    @property
    def turn_addresses(self) -> list[str]:
        """``turn:HOST:PORT`` for each host by which clients of the relay reach it."""
        return [uri.partition("?")[0] for uri in self.turn_uris if uri.endswith("=udp")]

    async def start(self) -> ServerUrl | None:
        """Open every socket; the address of the switchboard if there is one. Raises ServerError."""
        try:
            self._use_processes()
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
        for closing in (self._metrics, self._control):
            if closing is not None:
                await closing.close()
        if self.operation is not None:
            self.operation.stop()
            self.operation = None
        if self._listener is not None:
            await self._listener.close()
        if self._rendezvous is not None:
            await self._rendezvous.close()
        await self._relay.stop()
        if self._store is not None:
            self._store.close()
        self._listener = self._rendezvous = self._store = self._control = self._metrics = None

    def _use_processes(self) -> None:
        """Have the relay be several processes, where that is wanted and of use."""
        config, processes = self._config, 1
        if config.relay_processes > 1:
            hosts = listening_addresses(config.hosts, self._machine)
            relay_hosts = relay_addresses(hosts, config.external, config.relay_hosts)
            processes, why = usable_processes(config, relay_hosts, self._machine)
            if processes > 1:
                self._relay = RelayGroup(self._from_relay, processes)
            if why:
                self._say("accelerator", why)
        lacking = too_few(config.allocations, processes)
        if lacking is not None:
            self._say("warning", lacking)

    async def _start(self) -> ServerUrl | None:
        from knothole.server.listener import Listener
        from knothole.server.operation import Operation

        config, relay = self._config, self._relay
        hosts = listening_addresses(config.hosts, self._machine)
        if not hosts:
            raise ServerError("this machine has no address to listen on")
        for host in config.relay_hosts:
            if not is_usable(host):
                raise ServerError(f"cannot relay from {host}: it is no address of this machine")
        self.turn_uris = turn_uris(client_hosts(config, hosts), config.port, config.also_listen)
        material = self._open_data()
        await self._open_control()
        desk = self._open_switchboard(material)
        self._listener = Listener(websocket=self._take_web_socket, turn=relay.take)
        try:
            for port in (config.port, *config.also_listen):
                self._listener.listen(hosts, port)
        except OSError as error:
            raise ServerError(str(error.strerror)) from error
        await relay.start(self._relay_start(hosts, material))
        self.operation = Operation(
            config,
            material,
            relay=relay,
            rendezvous=self._rendezvous,
            desk=desk,
            say=self._say,
            load=self._load,
            reached=self._report.reached,
        )
        if config.metrics is not None:
            await self._open_metrics(config.metrics, self.operation)
        advertised = advertised_host(config.name, hosts, config.external)
        self.advice = _advice(advertised)
        if config.relay_only:
            return None
        certificate = material.certificate
        return ServerUrl(
            host=advertised,
            port=config.port,
            tcp_ports=config.also_listen,
            pin=certificate.key_hash if certificate.pinned else None,
        )

    def _open_switchboard(self, material: Material) -> ServiceDesk | None:
        if self._store is None:  # the relay is all there is
            return None
        from knothole.server.rendezvous import Rendezvous
        from knothole.server.services import ServiceDesk

        certificate, desk = material.certificate, ServiceDesk(self._config, material.secrets[0])
        self._rendezvous = Rendezvous(
            accounts=self._store,
            server_pins=[certificate.key_hash],
            services=desk.services,
            context=certificate.context,
            invitations_needed=self._config.invitation_required,
            on_session=self._session_opened,
        )
        return desk

    def _open_data(self) -> Material:
        """The accounts, and what else the data folder holds. Raises ServerError."""
        from knothole.server.material import MaterialError, load_material
        from knothole.server.services import REALM
        from knothole.server.store import SqliteAccounts, StoreError

        config = self._config
        try:
            config.data.mkdir(parents=True, exist_ok=True)
            if not config.relay_only:
                self._store = SqliteAccounts(config.data / "accounts.sqlite")
            material = load_material(config)
            write_whereabouts(config.data, Whereabouts(REALM, self.turn_uris))
        except (StoreError, MaterialError) as error:
            raise ServerError(str(error)) from error
        except OSError as error:
            reason = f"{error.strerror}: {error.filename or config.data}"
            raise ServerError(f"the data folder cannot be used: {reason}") from error
        return material

    async def _open_control(self) -> None:
        from knothole.server.control import ControlSocket

        folder = self._config.data
        self._control = ControlSocket(self._carry_out)
        try:
            await self._control.open(folder)
        except FileExistsError as error:
            raise ServerError(f"another server runs with the data folder {folder}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            self._say("warning", f"`knothole server` cannot talk to this server: {reason}")

    async def _open_metrics(self, address: Address, operation: Operation) -> None:
        from knothole.server.metrics_endpoint import MetricsEndpoint

        self._metrics = MetricsEndpoint(operation.look)
        try:
            await self._metrics.open(address)
        except OSError as error:
            reason = error.strerror or str(error)
            raise ServerError(f"cannot listen on tcp {address} for metrics: {reason}") from error

    def _relay_start(self, hosts: tuple[str, ...], material: Material) -> RelayStart:
        from knothole.server.material import relay_settings
        from knothole.server.services import REALM

        config = self._config
        return RelayStart(
            hosts=list(hosts),
            port=config.port,
            discovery_port=config.discovery_port,
            partners=discovery_partners(hosts, config.hosts, config.external),
            relay_hosts=relay_addresses(hosts, config.external, config.relay_hosts),
            machine=list(self._machine),
            realm=REALM,
            relay_ports=config.relay_ports,
            settings=relay_settings(config, material),
            classic_stun=config.classic_stun,
            accelerator=config.accelerator and bool(config.allocations),
            mobility=config.mobility,
        )

    # ----------------------------------------------------------------- while it serves

    async def _carry_out(self, request: Request) -> Reply:
        from knothole.server.control import Reply
        from knothole.server.operation import NotChanged

        if self.operation is None:
            return Reply("the server is starting or ending", failed=True)
        try:
            return await self.operation.carry_out(request)
        except NotChanged as error:
            return Reply(str(error), failed=True)

    def _take_web_socket(self, sock: socket.socket, remote: tuple[str, int]) -> None:
        if self._rendezvous is None:
            sock.close()
        else:
            self._rendezvous.take(sock, remote, decrypted=False)

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
            case Accelerated(on, reason):
                self._say("accelerator", f"accelerator: {'on' if on else f'off: {reason}'}")
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
