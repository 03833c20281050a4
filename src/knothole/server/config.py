"""The server's configuration: a TOML file, overridden by the command line, checked at the start.

Every mistake is one error that names the file, the line, the key and the reason. Unknown keys are
mistakes: a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from knothole.engine.turn.tokens import TokenKey
from knothole.server.config_addresses import read_address, read_alternates
from knothole.server.config_file import (
    DEFAULT_PORT,
    ConfigError,
    ConfigFile,
    Source,
    UsageError,
)
from knothole.server.config_processes import read_relay_processes
from knothole.server.config_users import RelayUser, read_oauth, read_users
from knothole.server.turn_secret import FILE_NAME as SECRET_FILE
from knothole.server.turn_secret import SecretError, load_secrets
from knothole.wire.address import Address
from knothole.wire.malformed import MalformedMessage
from knothole.wire.server_url import InvalidServerUrl, ServerUrl, parse_server_url
from knothole.wire.turn_uri import parse_server_uri

__all__ = ["ConfigError", "OtherTurn", "ServerConfig", "UsageError", "load_config"]

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class OtherTurn:
    """Another TURN server and the secret that its short-lived credentials are made of."""

    uris: tuple[str, ...]
    secret: bytes = field(repr=False)
    realm: str = ""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A checked configuration; addresses are in canonical text.

    ``hosts`` are the addresses to listen on (empty: all of this machine), ``port`` the one number
    for udp and tcp, ``also_listen`` further TCP ports, ``name`` the host that the printed address
    names, ``discovery_port`` the second UDP port of RFC 5780 (0: none), ``external`` what the
    outside knows us by, at most one of each family. ``relay_hosts`` are the local addresses that
    relayed addresses are on (empty: the best of ``hosts``). No ``allocations``: no relaying here.
    ``secret_file`` holds what TURN credentials are made of, ``users`` have some for good,
    ``oauth`` opens the tokens of another server.
    ``classic_stun``: clients of RFC 3489 are answered. ``mobility``: allocations follow their
    clients to other addresses. ``relay_only``: there is no switchboard, and there are no accounts.
    ``accelerator``: the kernel relays what it can, where it lets us; ``relay_processes``: how many
    relay where it does not.
    """

    data: Path
    hosts: tuple[str, ...] = ()
    port: int = DEFAULT_PORT
    also_listen: tuple[int, ...] = ()
    name: str = ""
    discovery_port: int = DEFAULT_PORT + 1
    certificate: Path | None = None
    key: Path | None = None
    external: tuple[str, ...] = ()
    relay_hosts: tuple[str, ...] = ()
    relay_ports: tuple[int, int] = (49152, 65535)
    allow_peers: tuple[Network, ...] = ()
    deny_peers: tuple[Network, ...] = ()
    allocations: int = 10_000
    allocations_per_user: int = 16
    secret_file: Path | None = None
    allocations_per_network: int = 1000
    max_megabits: int = 1000
    max_datagrams: int = 200_000
    new_peers_per_minute: int = 60
    alternates: tuple[Address, ...] = ()
    other_turn: tuple[OtherTurn, ...] = ()
    users: tuple[RelayUser, ...] = ()
    oauth: tuple[TokenKey, ...] = ()
    invitation_required: bool = False
    classic_stun: bool = False
    mobility: bool = False
    relay_only: bool = False
    accelerator: bool = True
    metrics: Address | None = None
    relay_processes: int = 1

    @property
    def secrets_path(self) -> Path:
        """Where the TURN secret is: a file of the operator's, else one in the data folder."""
        return self.secret_file or self.data / SECRET_FILE


def load_config(
    file: Path | None,
    *,
    default_data: Path,
    data: Path | None = None,
    hosts: tuple[str, ...] = (),
    port: int | None = None,
    also_listen: tuple[int, ...] = (),
    classic_stun: bool = False,
    relay_only: bool = False,
    relay_hosts: tuple[str, ...] = (),
    allow_peers: tuple[str, ...] = (),
    accelerator: bool = True,
    relay_processes: int | None = None,
) -> ServerConfig:
    """The configuration of ``file`` (None: the defaults) with the command line's values on top.

    What ``allow_peers`` names is allowed besides the file's. ``default_data`` is the data folder
    when neither names one. Raises ConfigError; UsageError when it is the command line that is
    wrong.
    """
    source = Source(file)
    content = source.parse()
    _check_command_line(hosts, port, also_listen)
    chosen_hosts = _addresses(source, "host", hosts or content.host, usage=bool(hosts))
    chosen_port = content.port if port is None else port
    relay = content.relay
    if relay.first_port > relay.last_port:
        reason = f"{relay.first_port} is above relay.last-port {relay.last_port}"
        raise source.error("relay.first-port", reason)
    certificate, key = _certificate(source, content)
    external = _external(source, relay.external)
    return ServerConfig(
        data=data or (source.folder / content.data if content.data else default_data),
        hosts=chosen_hosts,
        port=chosen_port,
        also_listen=_further_ports(source, content, chosen_port, also_listen),
        name=_name(source, content.name),
        discovery_port=_discovery_port(source, content, chosen_port),
        certificate=certificate,
        key=key,
        external=external,
        relay_hosts=_relay_hosts(source, relay.host, relay_hosts, external),
        relay_ports=(relay.first_port, relay.last_port),
        allow_peers=(
            *_networks(source, "relay.allow-peers", relay.allow_peers),
            *_networks(source, "--allow-peer", allow_peers, usage=True),
        ),
        deny_peers=_networks(source, "relay.deny-peers", relay.deny_peers),
        allocations=relay.allocations,
        allocations_per_user=relay.allocations_per_user,
        secret_file=_secret_file(source, relay.secret_file),
        allocations_per_network=relay.allocations_per_network,
        max_megabits=relay.max_megabits,
        max_datagrams=relay.max_datagrams,
        new_peers_per_minute=relay.new_peers_per_minute,
        alternates=read_alternates(source, relay.alternates),
        other_turn=_other_turn(source, content),
        users=read_users(source, content),
        oauth=read_oauth(source, content),
        invitation_required=content.accounts.invitation_required,
        metrics=_metrics(source, content.metrics.listen),
        classic_stun=classic_stun or content.classic_stun,
        mobility=relay.mobility,
        relay_only=relay_only or content.relay_only,
        accelerator=accelerator and relay.accelerator == "auto",
        relay_processes=read_relay_processes(source, relay, relay_processes),
    )


def _check_command_line(
    hosts: tuple[str, ...], port: int | None, also_listen: tuple[int, ...]
) -> None:
    given = [("--port", port)] if port is not None else []
    for option, number in (*given, *(("--also-listen", each) for each in also_listen)):
        if number is not None and not 1 <= number <= 65535:
            raise UsageError(f"{option}: {number} is not a port number (1-65535)")


def _addresses(
    source: Source, key: str, hosts: tuple[str, ...] | list[str], *, usage: bool = False
) -> tuple[str, ...]:
    def error(reason: str) -> ConfigError:
        option = f"--{key.replace('.', '-')}"
        return UsageError(f"{option}: {reason}") if usage else source.error(key, reason)

    found: dict[str, None] = {}
    for host in hosts:
        try:
            ip = ip_address(host)
        except ValueError:
            raise error(f"{host!r} is not an IP address") from None
        if ip.is_multicast:
            raise error(f"{host} is a multicast address")
        if ip.is_link_local:
            raise error(f"{host} is good on one link only; name an address that clients can reach")
        found[str(ip)] = None
    return tuple(found)


def _external(source: Source, hosts: list[str]) -> tuple[str, ...]:
    key = "relay.external"
    found = _addresses(source, key, hosts)
    if any(ip_address(host).is_unspecified for host in found):
        raise source.error(key, "name the address itself, not all of them")
    if len({ip_address(host).version for host in found}) < len(found):
        raise source.error(key, "more than one address of a family")
    return found


def _relay_hosts(
    source: Source, hosts: list[str], given: tuple[str, ...], external: tuple[str, ...]
) -> tuple[str, ...]:
    found = _addresses(source, "relay.host", given or hosts, usage=bool(given))
    versions = [ip_address(host).version for host in found]
    reason = ""
    if any(ip_address(host).is_unspecified for host in found):
        reason = "name the address itself, not all of them"
    elif any(versions.count(ip_address(host).version) > 1 for host in external):
        reason = "more than one address of a family, and relay.external is the outside of which?"
    if reason:
        raise (
            UsageError(f"--relay-host: {reason}") if given else source.error("relay.host", reason)
        )
    return found


def _further_ports(
    source: Source, content: ConfigFile, port: int, given: tuple[int, ...]
) -> tuple[int, ...]:
    chosen = given or tuple(content.also_listen)
    if port in chosen:
        reason = f"{port} is listened on already: it is the port itself"
        raise (
            UsageError(f"--also-listen: {reason}") if given else source.error("also-listen", reason)
        )
    if len(chosen) > 8:  # what an address of a server may name (wire/server_url)
        raise UsageError("--also-listen: at most 8 further ports")
    return tuple(dict.fromkeys(chosen))


def _discovery_port(source: Source, content: ConfigFile, port: int) -> int:
    """The next port unless the file says another: 3479 beside 3478."""
    if content.discovery_port is None:
        return port + 1 if port < 65535 else port - 1
    if content.discovery_port == port:
        raise source.error("discovery-port", f"{port} is the server's port already")
    return content.discovery_port


def _name(source: Source, name: str) -> str:
    """As it will stand in the printed address, so that clients can read that."""
    if not name:
        return ""
    bracketed = f"[{name}]" if ":" in name else name
    try:
        url = parse_server_url(f"knothole://{bracketed}:{DEFAULT_PORT}")
    except InvalidServerUrl as error:
        raise source.error("name", str(error)) from error
    if url != ServerUrl(url.host, DEFAULT_PORT):
        raise source.error("name", f"{name!r} is neither a host name nor an IP address")
    return url.host


def _networks(
    source: Source, key: str, texts: list[str] | tuple[str, ...], *, usage: bool = False
) -> tuple[Network, ...]:
    try:
        return tuple(_network(text) for text in texts)
    except ValueError as error:
        raise (UsageError(f"{key}: {error}") if usage else source.error(key, str(error))) from error


def _network(text: str) -> Network:
    """Raises ValueError for what is none, and for what says less than it seems to."""
    network = ip_network(text)
    if isinstance(network, IPv6Network):
        if "%" in text:
            raise ValueError(f"{text} has a scope: peers have none")
        if network.prefixlen >= 96 and network.network_address.ipv4_mapped is not None:
            raise ValueError(f"{text} are IPv4 addresses: write them as such")
    return network


def _certificate(source: Source, content: ConfigFile) -> tuple[Path | None, Path | None]:
    tls = content.tls
    if not tls.certificate and not tls.key:
        return None, None
    if not tls.key:
        raise source.error("tls.key", "is missing beside tls.certificate")
    if not tls.certificate:
        raise source.error("tls.certificate", "is missing beside tls.key")
    for key, name in (("tls.certificate", tls.certificate), ("tls.key", tls.key)):
        _read(source, key, name)
    return source.folder / tls.certificate, source.folder / tls.key


def _secret_file(source: Source, name: str) -> Path | None:
    if not name:
        return None
    try:
        load_secrets(source.folder / name)
    except SecretError as error:
        raise source.error("relay.secret-file", str(error)) from error
    return source.folder / name


def _metrics(source: Source, text: str) -> Address | None:
    return read_address(source, "metrics.listen", text) if text else None


def _other_turn(source: Source, content: ConfigFile) -> tuple[OtherTurn, ...]:
    servers = []
    for number, table in enumerate(content.turn):
        for text in table.uris:
            try:
                parse_server_uri(text)
            except MalformedMessage as error:
                raise source.error(f"turn[{number}].uris", str(error)) from error
            if text[:4].lower() != "turn":
                reason = f"{text!r} is not of a TURN server (turn: or turns:)"
                raise source.error(f"turn[{number}].uris", reason)
        key = f"turn[{number}].secret-file"
        if not table.secret_file:
            raise source.error(key, "is missing")
        secret = _read(source, key, table.secret_file).strip()
        if len(secret) < 8:
            reason = f"the secret in {table.secret_file} is shorter than 8 characters"
            raise source.error(key, reason)
        servers.append(OtherTurn(tuple(table.uris), secret, table.realm))
    return tuple(servers)


def _read(source: Source, key: str, name: str) -> bytes:
    try:
        return (source.folder / name).read_bytes()
    except OSError as error:
        raise source.error(key, f"{name} cannot be read: {error.strerror}") from error
