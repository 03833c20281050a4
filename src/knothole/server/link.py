"""How the rendezvous process and the relay process talk: typed messages and handed-over sockets.

Rendezvous and relay run in processes of their own, so that a busy relay never delays a ring. The
two ends of a Unix socket pair carry msgpack messages, one a packet; a TCP connection travels as a
descriptor (SCM_RIGHTS). The first message to the relay is its configuration: secrets never stand
on a command line.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

MAX_PACKET: Final = 65_536
MAX_DESCRIPTORS: Final = 1


class RelayStart(msgspec.Struct, tag="start", frozen=True):
    """Serve these sockets. ``hosts`` are concrete addresses, ``secret`` makes TURN credentials.

    ``relay_hosts`` are the hosts that relayed addresses name, each with the address of this machine
    that it is: another one where a 1:1 NAT stands in front.
    """

    hosts: list[str]
    port: int
    discovery_port: int
    relay_hosts: dict[str, str]
    realm: str
    secret: str
    relay_ports: tuple[int, int]
    allow_peers: list[str]
    deny_peers: list[str]
    allocations: int
    allocations_per_user: int
    chain: str
    key: str


class TakeTurn(msgspec.Struct, tag="turn", frozen=True):
    """A TCP connection (descriptor beside it) whose client speaks STUN or TURN, in TLS or not."""

    remote: tuple[str, int]


class RelayReady(msgspec.Struct, tag="ready", frozen=True):
    """All sockets are bound."""


class RelayFailed(msgspec.Struct, tag="failed", frozen=True):
    """The relay cannot start."""

    reason: str


class MappedSeen(msgspec.Struct, tag="mapped", frozen=True):
    """The session with this TURN user name was seen at this address (the article's quick test)."""

    username: str
    host: str
    port: int


class Reached(msgspec.Struct, tag="reached", frozen=True):
    """Something from outside reached ``what``: "udp", "discovery" or "relay-range"."""

    what: str


class TakeWebSocket(msgspec.Struct, tag="websocket", frozen=True):
    """A connection (descriptor beside it) that turned out to be HTTP inside TLS without ALPN."""

    remote: tuple[str, int]


Message: TypeAlias = (
    RelayStart | TakeTurn | RelayReady | RelayFailed | MappedSeen | Reached | TakeWebSocket
)

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


class Link:
    """One end of the pair. ``on_message`` gets a message and the socket that came with it."""

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message, socket.socket | None], None],
        on_closed: Callable[[], None],
    ) -> None:
        self._socket = sock
        self._on_message = on_message
        self._on_closed = on_closed
        self._closed = False
        sock.setblocking(False)
        asyncio.get_running_loop().add_reader(sock, self._readable)

    def send(self, message: Message, handed: socket.socket | None = None) -> bool:
        """Send a message; ``handed`` goes with it and is closed here. False: not sent."""
        data = _encoder.encode(message)
        try:
            if self._closed:
                return False
            if handed is None:
                self._socket.send(data)
            else:
                socket.send_fds(self._socket, [data], [handed.fileno()])
        except OSError:  # the other end is gone or does not keep up: the client will try again
            return False
        finally:
            if handed is not None:
                handed.close()
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _readable(self) -> None:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(
                self._socket, MAX_PACKET, MAX_DESCRIPTORS
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        if not data:
            self.close()
            self._on_closed()
            return
        handed = socket.socket(fileno=descriptors[0]) if descriptors else None
        self._on_message(_decoder.decode(data), handed)


def link_pair() -> tuple[socket.socket, socket.socket]:
    """The two sockets of a link: packets with their bounds kept."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
