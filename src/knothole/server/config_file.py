"""The server's TOML file as values, and where in it a key stands."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

DEFAULT_PORT: Final = 3478  # RFC 8489 Section 18.6: stun, udp and tcp
LEAST_RELAY_PORT: Final = 1024  # RFC 8656 Section 7.2: not "in the range 0 - 1023"
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
RelayPort = Annotated[int, msgspec.Meta(ge=LEAST_RELAY_PORT, le=65535)]


MAX_PROCESSES: Final = 16  # ours: each has a socket to each other one, and its share of the quotas


class ConfigError(ValueError):
    """The configuration cannot be used; the text names the place, the key and the reason."""


class UsageError(ConfigError):
    """It is the command line that cannot be used."""


class TlsTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """``[tls]``: PEM files of a certificate that clients verify as usual."""

    certificate: str = ""
    key: str = ""


class RelayTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """``[relay]``. ``host``: where relayed addresses are. ``external``: the addresses the outside
    knows us by, behind a 1:1 NAT."""

    host: list[str] = []
    external: list[str] = []
    first_port: RelayPort = 49152  # RFC 8656 Section 7.2: the dynamic range
    last_port: RelayPort = 65535
    allow_peers: list[str] = []
    deny_peers: list[str] = []
    allocations: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 10_000
    allocations_per_user: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 16
    secret_file: str = ""
    mobility: bool = False
    allocations_per_network: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    max_megabits: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 1000
    max_datagrams: Annotated[int, msgspec.Meta(ge=0, le=100_000_000)] = 200_000
    new_peers_per_minute: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 60
    accelerator: Literal["auto", "off"] = "auto"
    alternates: Annotated[list[str], msgspec.Meta(max_length=2)] = []
    processes: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROCESSES)] = 1


class OtherTurnTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """One ``[[turn]]``: another TURN server (coturn, say) and the secret it shares with us."""

    uris: Annotated[list[str], msgspec.Meta(min_length=1, max_length=8)]
    secret_file: str
    realm: Annotated[str, msgspec.Meta(max_length=128)] = ""


class UserTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """One ``[[user]]`` of the relay; the file holds the password and nothing else."""

    name: Annotated[str, msgspec.Meta(max_length=100)]
    password_file: str


class OauthTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """One ``[[oauth]]``: a key that an authorization server seals tokens for us with (RFC 7635)."""

    kid: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]
    key_file: str
    server_name: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


class AccountsTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """``[accounts]``"""

    invitation_required: bool = False


class MetricsTable(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """``[metrics]``: where figures for Prometheus are; none by default."""

    listen: str = ""


class ConfigFile(msgspec.Struct, forbid_unknown_fields=True, rename="kebab"):
    """The whole file, every key with its default."""

    host: list[str] = []
    port: Port = DEFAULT_PORT
    also_listen: Annotated[list[Port], msgspec.Meta(max_length=8)] = []
    data: str = ""
    name: str = ""
    discovery_port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    classic_stun: bool = False
    relay_only: bool = False
    tls: TlsTable = msgspec.field(default_factory=TlsTable)
    relay: RelayTable = msgspec.field(default_factory=RelayTable)
    turn: Annotated[list[OtherTurnTable], msgspec.Meta(max_length=8)] = []
    user: Annotated[list[UserTable], msgspec.Meta(max_length=100)] = []
    oauth: Annotated[list[OauthTable], msgspec.Meta(max_length=16)] = []
    accounts: AccountsTable = msgspec.field(default_factory=AccountsTable)
    metrics: MetricsTable = msgspec.field(default_factory=MetricsTable)


class Source:
    """Where a configuration came from: says which line of the file a key stands on."""

    def __init__(self, path: Path | None) -> None:
        """Reads the file. Raises ConfigError."""
        self._path = path
        self._text = ""
        if path is not None:
            try:
                self._text = path.read_text(encoding="utf-8")
            except OSError as error:
                raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
            except UnicodeDecodeError as error:
                raise ConfigError(f"{path}: is not UTF-8 text") from error

    @property
    def folder(self) -> Path:
        """What relative paths in the file are relative to."""
        return self._path.parent if self._path is not None else Path()

    def parse(self) -> ConfigFile:
        """The file's values, the defaults where there is no file. Raises ConfigError."""
        try:
            return msgspec.convert(tomllib.loads(self._text), ConfigFile)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{self._path}: not valid TOML: {error}") from error
        except msgspec.ValidationError as error:
            key, reason = _explain(str(error))
            raise self.error(key, reason) from error

    def error(self, key: str, reason: str) -> ConfigError:
        """The error for a ``key`` written as ``table.key`` or ``table[0].key``."""
        if self._path is None:
            return ConfigError(f"{key}: {reason}")
        line = _line_of(self._text, key)
        place = f"{self._path}, line {line}" if line else f"{self._path}"
        return ConfigError(f"{place}: {key}: {reason}" if key else f"{place}: {reason}")


_UNKNOWN: Final = re.compile(r"Object contains unknown field `(.*)`")
_MISSING: Final = re.compile(r"Object missing required field `(.*)`")
_HEADER: Final = re.compile(r"\s*\[(\[?)\s*([A-Za-z0-9_.\s-]+?)\s*\]")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=")


def _explain(said: str) -> tuple[str, str]:
    """msgspec says "... - at `$.relay.first-port`": the key and the reason."""
    text, _, place = said.partition(" - at `$")
    key = place.rstrip("`").lstrip(".")
    for pattern, reason in ((_UNKNOWN, "there is no such key"), (_MISSING, "is missing")):
        found = pattern.fullmatch(text)
        if found:
            return f"{key}.{found[1]}".lstrip("."), reason
    return key, text[:1].lower() + text[1:].replace("`", "")


def _line_of(text: str, key: str) -> int | None:
    """The line of ``key``, else of the table it would stand in; None when neither is there."""
    table, tables, found, length = "", Counter[str](), None, 0
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = header[2]
            if header[1]:  # an array of tables has one header each
                tables[table] += 1
                table = f"{table}[{tables[table] - 1}]"
            path = table
        elif assigned := _KEY.match(line):
            path = f"{table}.{assigned[1]}".lstrip(".")
        else:
            continue
        matches = key == path or key.startswith((f"{path}.", f"{path}["))
        if matches and len(path) > length:
            found, length = number, len(path)
    return found
