"""Where the TURN server is: its URIs, kept in a file for whoever makes credentials."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from knothole.peer.files import replace_file
from knothole.server.addresses import best_of_each_family
from knothole.server.config import ServerConfig
from knothole.wire.address import Transport
from knothole.wire.turn_uri import format_server_uri

FILE_NAME: Final = "turn.json"


class Whereabouts(msgspec.Struct, frozen=True):
    """What a client of the relay needs besides credentials (RFC 7065 URIs)."""

    realm: str
    uris: list[str]


class NoWhereabouts(Exception):
    """They are not on file; the text says what to do."""


def client_hosts(config: ServerConfig, listening: Sequence[str]) -> tuple[str, ...]:
    """By which hosts clients reach this server: the operator's word, else the widest addresses."""
    if config.name:
        return (config.name,)
    if config.external:
        return config.external
    return tuple(listening) if config.hosts else best_of_each_family(listening)


def turn_uris(hosts: Sequence[str], port: int, also_listen: Sequence[int]) -> list[str]:
    """The URIs of the TURN server on ``hosts``: UDP first, then TLS, which gets out where little
    does, then TCP."""
    ways = [
        (port, Transport.UDP),
        *((each, Transport.TLS) for each in (port, *also_listen)),
        (port, Transport.TCP),
    ]
    return [format_server_uri(host, port, transport) for port, transport in ways for host in hosts]


def write_whereabouts(folder: Path, whereabouts: Whereabouts) -> None:
    """Raises OSError."""
    replace_file(folder / FILE_NAME, msgspec.json.encode(whereabouts) + b"\n")


def read_whereabouts(folder: Path) -> Whereabouts:
    """What the server wrote when it was started last. Raises NoWhereabouts."""
    try:
        return msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=Whereabouts)
    except FileNotFoundError as error:
        raise NoWhereabouts(f"There is no server's data in {folder}: start it first.") from error
    except OSError as error:
        raise NoWhereabouts(f"{error.filename} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise NoWhereabouts(f"{folder / FILE_NAME} is damaged: start the server again.") from error
