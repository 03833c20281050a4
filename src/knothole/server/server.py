"""``knothole serve``: switchboard, STUN and TURN as one server, from configuration to the end."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import socket
import time
from collections.abc import Callable
from typing import Final

from knothole.engine.turn.credentials import rest_credentials
from knothole.server.addresses import listening_addresses, relay_addresses
from knothole.server.certificate import ServerCertificate, own_certificate
from knothole.server.config import ConfigError, ServerConfig
from knothole.server.link import MappedSeen, Message, Reached, RelayStart, TakeWebSocket
from knothole.server.listener import Listener
from knothole.server.relay_link import RelayGone, RelayLink, make_relay_link
from knothole.server.rendezvous import Rendezvous
from knothole.server.store import SqliteAccounts, StoreError
from knothole.wire.address import Address, Transport
from knothole.wire.server_url import ServerUrl
from knothole.wire.signal.messages import Services
from knothole.wire.signal.values import TurnService
from knothole.wire.turn_uri import SELF_HOST, format_server_uri

CREDENTIAL_SECONDS: Final = 6 * 3600  # ours: renewed over the signalling well before
REALM: Final = "knothole"

REACHED_TEXT: Final = {
    "udp": "udp {port}: reached from outside",
    "discovery": "udp {discovery}: reached from outside (NAT discovery)",
    "relay-range": "udp {first}-{last}: reached from outside (relayed addresses)",
}


class ServerError(Exception):
    """The server cannot start or go on; the text says why and what to do."""


class Server:
    """One server. ``say`` gets a line for the operator, now and then."""

    def __init__(self, config: ServerConfig, say: Callable[[str], None]) -> None:
        self._config = config
        self._say = say
        self._secret = secrets.token_urlsafe(32)
        self._rendezvous: Rendezvous | None = None
        self._listener: Listener | None = None
        self._relay: RelayLink | None = None
        self._store: SqliteAccounts | None = None
        self._reached: set[str] = set()
        self.url: ServerUrl | None = None

    async def start(self) -> ServerUrl:
        """Open every socket; the address that clients use. Raises ServerError."""
        try:
            return await self._start()
        except (OSError, RelayGone, ConfigError, StoreError) as error:
            await self.stop()
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise ServerError(text) from error

    async def run(self) -> None:
        """Serve until cancelled. Raises ServerError when the relay process dies."""
        assert self._relay is not None
        await self._relay.wait_gone()
        raise ServerError("the relay process has ended: see its message above, then start again")

    async def stop(self) -> None:
        """Close everything; idempotent."""
        if self._listener is not None:
            await self._listener.close()
        if self._rendezvous is not None:
            await self._rendezvous.close()
        if self._relay is not None:
            await self._relay.stop()
        if self._store is not None:
            self._store.close()
        self._listener = self._rendezvous = self._relay = self._store = None

    async def _start(self) -> ServerUrl:
        config = self._config
        hosts = listening_addresses(config.hosts)
        config.data.mkdir(parents=True, exist_ok=True)
        certificate = self._certificate()
        key_hash = hashlib.sha256(certificate.public_key_info()).digest()
        self._store = SqliteAccounts(config.data / "accounts.sqlite")
        self._rendezvous = Rendezvous(
            accounts=self._store,
            server_pins=[key_hash],
            services=self._services,
            context=certificate.context(),
            invitations_needed=config.invitation_required,
        )
        self._relay = make_relay_link(self._from_relay)
        rendezvous, relay = self._rendezvous, self._relay
        self._listener = Listener(
            websocket=lambda sock, remote: rendezvous.take(sock, remote, decrypted=False),
            turn=relay.take,
        )
        for port in (config.port, *config.also_listen):
            self._listener.listen(hosts, port)
        await relay.start(self._relay_start(hosts, certificate))
        advertised = config.name or next(iter(relay_addresses(hosts, config.external)))
        self.url = ServerUrl(
            host=advertised,
            port=config.port,
            tcp_ports=config.also_listen,
            pin=key_hash if certificate.pinned else None,
        )
        return self.url

    def ports_to_open(self) -> list[str]:
        """What a firewall in front must let in, one line each."""
        config = self._config
        first, last = config.relay_ports
        tcp = ", ".join(str(port) for port in (config.port, *config.also_listen))
        lines = [
            f"udp {config.port}: needed (STUN, TURN)",
            f"tcp {tcp}: needed (switchboard; relay where UDP is blocked)",
        ]
        if config.discovery_port:
            lines.append(f"udp {config.discovery_port}: better NAT diagnosis")
        lines.append(f"udp {first}-{last}: relaying to other people's programs")
        return lines

    def _certificate(self) -> ServerCertificate:
        if self._config.certificate is not None and self._config.key is not None:
            certificate = ServerCertificate(
                self._config.certificate, self._config.key, pinned=False
            )
            try:
                certificate.context()
            except (OSError, ValueError) as error:
                raise ConfigError(f"tls.certificate and tls.key: {error}") from error
            return certificate
        return own_certificate(self._config.data)

    def _relay_start(self, hosts: tuple[str, ...], certificate: ServerCertificate) -> RelayStart:
        config = self._config
        return RelayStart(
            hosts=list(hosts),
            port=config.port,
            discovery_port=config.discovery_port,
            relay_hosts=relay_addresses(hosts, config.external),
            realm=REALM,
            secret=self._secret,
            relay_ports=config.relay_ports,
            allow_peers=[str(network) for network in config.allow_peers],
            deny_peers=[str(network) for network in config.deny_peers],
            allocations=config.allocations,
            allocations_per_user=config.allocations_per_user,
            chain=str(certificate.chain),
            key=str(certificate.key),
        )

    def _services(self, session_id: str, name: str) -> Services:
        """STUN and TURN for one session: short-lived credentials in the REST style."""
        config = self._config
        own = [
            format_server_uri(SELF_HOST, config.port, Transport.UDP),
            *(
                format_server_uri(SELF_HOST, port, Transport.TLS)
                for port in (config.port, *config.also_listen)
            ),
            format_server_uri(SELF_HOST, config.port, Transport.TCP),
        ]
        turn = [self._service(own, self._secret, session_id, REALM)]
        for other, secret in zip(config.other_turn, config.other_turn_secrets, strict=True):
            turn.append(self._service(other.uris, secret.decode(), session_id, other.realm))
        stun = [f"stun:{SELF_HOST}:{config.port}"]
        return Services(turn=tuple(turn), stun=tuple(stun))

    def _service(self, uris: list[str], secret: str, session_id: str, realm: str) -> TurnService:
        credentials = rest_credentials(secret, session_id, CREDENTIAL_SECONDS, time.time())
        return TurnService(
            uris=tuple(uris),
            username=credentials.username,
            password=credentials.password,
            realm=realm,
            lifetime_seconds=CREDENTIAL_SECONDS,
        )

    def _from_relay(self, message: Message, handed: socket.socket | None) -> None:
        rendezvous = self._rendezvous
        match message:
            case TakeWebSocket(remote) if handed is not None and rendezvous is not None:
                rendezvous.take(handed, remote, decrypted=True)
                return
            case MappedSeen(username, host, port) if rendezvous is not None:
                session_id = username.partition(":")[2]
                rendezvous.mapped_seen(session_id, Address(host, port))
            case Reached(what) if what not in self._reached:
                self._reached.add(what)
                first, last = self._config.relay_ports
                self._say(
                    REACHED_TEXT[what].format(
                        port=self._config.port,
                        discovery=self._config.discovery_port,
                        first=first,
                        last=last,
                    )
                )
            case _:
                pass
        if handed is not None:
            with contextlib.suppress(OSError):
                handed.close()
