"""The server's configuration: a TOML file, overridden by the command line, checked at the start.

Every mistake is one error that names the file, the key and the reason. Unknown keys are mistakes:
a misspelt limit must not silently be no limit.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Final

import msgspec

DEFAULT_PORT: Final = 3478  # RFC 8489 Section 8.1: stun, udp and tcp
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
Network = IPv4Network | IPv6Network


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the file, the key and the reason."""


class _Tls(msgspec.Struct, forbid_unknown_fields=True):
    certificate: str = ""
    key: str = ""


class _Relay(msgspec.Struct, forbid_unknown_fields=True):
    """``external`` are the addresses the outside knows us by, where a 1:1 NAT stands in front."""

    external: list[str] = []
    first_port: Port = 49152  # RFC 8656 Section 7.2: the dynamic range
    last_port: Port = 65535
    allow_peers: list[str] = []
    deny_peers: list[str] = []
    allocations: Annotated[int, msgspec.Meta(ge=0)] = 10_000
    allocations_per_user: Annotated[int, msgspec.Meta(ge=1)] = 16


class OtherTurn(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Another TURN server (coturn, say) whose shared secret lies in ``secret_file``."""

    uris: list[str]
    secret_file: str
    realm: str = ""


class _Accounts(msgspec.Struct, forbid_unknown_fields=True):
    invitation_required: bool = False


class _File(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    host: list[str] = []
    port: Port = DEFAULT_PORT
    also_listen: list[Port] = []
    data: str = ""
    name: str = ""
    discovery_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 3479
    tls: _Tls = msgspec.field(default_factory=_Tls)
    relay: _Relay = msgspec.field(default_factory=_Relay)
    turn: list[OtherTurn] = []
    accounts: _Accounts = msgspec.field(default_factory=_Accounts)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """A checked configuration.

    ``hosts`` are the addresses to listen on (empty: all of this machine), ``port`` the one number
    for udp and tcp, ``also_listen`` further TCP ports, ``name`` the host that the printed address
    names, ``discovery_port`` the second UDP port of RFC 5780 (0: none).
    """

    hosts: tuple[str, ...] = ()
    port: int = DEFAULT_PORT
    also_listen: tuple[int, ...] = ()
    data: Path = Path()
    name: str = ""
    discovery_port: int = 3479
    certificate: Path | None = None
    key: Path | None = None
    external: tuple[str, ...] = ()
    relay_ports: tuple[int, int] = (49152, 65535)
    allow_peers: tuple[Network, ...] = ()
    deny_peers: tuple[Network, ...] = ()
    allocations: int = 10_000
    allocations_per_user: int = 16
    other_turn: tuple[OtherTurn, ...] = field(default=())
    other_turn_secrets: tuple[bytes, ...] = field(default=(), repr=False)
    invitation_required: bool = False


def load_config(
    file: Path | None,
    *,
    hosts: tuple[str, ...] = (),
    port: int | None = None,
    also_listen: tuple[int, ...] = (),
    data: Path,
) -> ServerConfig:
    """The configuration of ``file`` (None: the defaults) with the command line's values on top.

    Raises ConfigError.
    """
    content = _read(file) if file else _File()
    where = f"{file}: " if file else ""
    given_hosts = hosts or tuple(content.host)
    _addresses(where, "host", given_hosts)
    _addresses(where, "relay.external", content.relay.external)
    relay = content.relay
    if relay.first_port > relay.last_port:
        raise ConfigError(
            f"{where}relay.first-port {relay.first_port} is above relay.last-port {relay.last_port}"
        )
    if bool(content.tls.certificate) != bool(content.tls.key):
        raise ConfigError(f"{where}tls.certificate and tls.key go together: one of them is missing")
    chosen_port = content.port if port is None else port
    if content.discovery_port == chosen_port:
        raise ConfigError(f"{where}discovery-port {chosen_port} is the same as port")
    return ServerConfig(
        hosts=given_hosts,
        port=chosen_port,
        also_listen=also_listen or tuple(content.also_listen),
        data=Path(content.data) if content.data else data,
        name=content.name,
        discovery_port=content.discovery_port,
        certificate=_file(where, "tls.certificate", content.tls.certificate),
        key=_file(where, "tls.key", content.tls.key),
        external=tuple(relay.external),
        relay_ports=(relay.first_port, relay.last_port),
        allow_peers=_networks(where, "relay.allow-peers", relay.allow_peers),
        deny_peers=_networks(where, "relay.deny-peers", relay.deny_peers),
        allocations=relay.allocations,
        allocations_per_user=relay.allocations_per_user,
        other_turn=tuple(content.turn),
        other_turn_secrets=tuple(
            _secret(where, f"turn[{i}].secret-file", t.secret_file)
            for i, t in enumerate(content.turn)
        ),
        invitation_required=content.accounts.invitation_required,
    )


def _read(file: Path) -> _File:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    try:
        return msgspec.convert(_kebab(tomllib.loads(text)), _File)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {_say(str(error))}") from error


def _kebab(tree: object, depth: int = 0) -> object:
    """Keys below the top are written with dashes as well; the structs have underscores."""
    if isinstance(tree, dict):
        return {
            (key.replace("-", "_") if depth else key): _kebab(value, depth + 1)
            for key, value in tree.items()
        }
    if isinstance(tree, list):
        return [_kebab(item, depth) for item in tree]
    return tree


def _say(reason: str) -> str:
    """msgspec says "... - at `$.relay.first_port`": put the key first, as it is written."""
    text, _, place = reason.partition(" - at `$.")
    key = place.rstrip("`").replace("_", "-")
    return f"{key}: {text}" if key else text


def _addresses(where: str, key: str, hosts: tuple[str, ...] | list[str]) -> None:
    for host in hosts:
        try:
            ip_address(host)
        except ValueError as error:
            raise ConfigError(f"{where}{key}: {host!r} is not an IP address") from error


def _networks(where: str, key: str, texts: list[str]) -> tuple[Network, ...]:
    try:
        return tuple(ip_network(text) for text in texts)
    except ValueError as error:
        raise ConfigError(f"{where}{key}: {error}") from error


def _file(where: str, key: str, name: str) -> Path | None:
    if not name:
        return None
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{where}{key}: there is no file {name}")
    return path


def _secret(where: str, key: str, name: str) -> bytes:
    path = _file(where, key, name)
    if path is None:
        raise ConfigError(f"{where}{key}: is missing")
    secret = path.read_bytes().strip()
    if len(secret) < 8:
        raise ConfigError(f"{where}{key}: the secret in {name} is shorter than 8 characters")
    return secret
