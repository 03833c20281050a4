"""How the rendezvous process and the relay process talk: typed messages and handed-over sockets.

Rendezvous and relay run in processes of their own, so that a busy relay never delays a ring. The
two ends of a Unix socket pair carry msgpack messages, one a packet; a TCP connection travels as a
descriptor (SCM_RIGHTS). The first message to the relay is its configuration: secrets never stand
on a command line.
"""

from __future__ import annotations

import array
import asyncio
import signal
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from knothole.server.reachability import Origin, Way
from knothole.server.reports import Report
from knothole.wire.address import Address

# Ours: the greatest message. The names that may be revoked fit, twice, and all users with passwords
# that people have. Linux lets 208 KiB wait on a socket, if it was not told otherwise.
MAX_PACKET: Final = 163_840
MAX_WAITING: Final = 1024  # ours: messages that the other process has not taken yet

IGNORED_SIGNALS: Final = frozenset(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)
"""Ctrl-C, and a service manager's word, reach both processes: the rendezvous process decides, and
the relay process ends with it."""


class OauthKey(msgspec.Struct, frozen=True):
    """What an authorization server seals tokens with (RFC 7635)."""

    kid: str
    key: bytes
    server_name: str


class RelaySettings(msgspec.Struct, frozen=True):
    """What may change while the relay serves.

    ``secrets`` are what TURN credentials are made of, all of them good at once; ``users`` have one
    for good, name and password; ``oauth`` are the keys of tokens; ``revoked`` owners of either kind
    are not let in. ``chain`` and ``key`` are the PEM files of the TLS certificate.
    ``alternates`` are whom clients are sent to while the server is draining. Each of
    ``shares`` relay processes grants its share of what is counted over several allocations.
    """

    secrets: list[str]
    revoked: list[str]
    allow_peers: list[str]
    deny_peers: list[str]
    allocations: int
    allocations_per_user: int
    chain: str
    key: str
    allocations_per_network: int = 1000
    max_megabits: int = 1000
    max_datagrams: int = 200_000
    new_peers_per_minute: int = 60
    users: dict[str, str] = {}
    oauth: list[OauthKey] = []
    alternates: list[tuple[str, int]] = []
    shares: int = 1


class RelayStart(msgspec.Struct, tag="start", frozen=True):
    """Serve these sockets. ``hosts`` are concrete addresses.

    ``relay_hosts`` are the hosts that relayed addresses name, each with the address of this machine
    that it is: another one where a 1:1 NAT stands in front. ``machine`` are all addresses of this
    machine, ``partners`` the second address of RFC 5780 for those hosts that have one. With
    ``classic_stun`` clients of RFC 3489 are answered, with ``mobility`` allocations follow their
    clients. With ``accelerator`` the kernel relays what it can, where it lets us. Of ``processes``
    relay processes this is the one with that ``number``, from 0.
    """

    hosts: list[str]
    port: int
    discovery_port: int
    partners: dict[str, str]
    relay_hosts: dict[str, str]
    machine: list[str]
    realm: str
    relay_ports: tuple[int, int]
    settings: RelaySettings
    classic_stun: bool = False
    accelerator: bool = False
    mobility: bool = False
    processes: int = 1
    number: int = 0

    @property
    def listening(self) -> list[Address]:
        """Where it serves clients over UDP."""
        ports = [self.port] + ([self.discovery_port] if self.discovery_port else [])
        return [Address(host, port) for host in self.hosts for port in ports]

    @property
    def own_addresses(self) -> list[Address]:
        """Where it serves, with those addresses of this machine on which it does not, and how a 1:1
        NAT in front shows the others: none of them is a peer."""
        listening = self.listening
        shown = {Address(host, each.port) for host in self.relay_hosts for each in listening}
        return [*listening, *(Address(host, 0) for host in self.machine), *sorted(shown)]


class TakeTurn(msgspec.Struct, tag="turn", frozen=True):
    """A TCP connection (descriptor beside it) whose client speaks STUN or TURN, in TLS or not."""

    remote: tuple[str, int]


class TakeListening(msgspec.Struct, tag="listening", frozen=True):
    """Before the start: listen with this UDP socket (descriptor beside it), which is bound."""

    host: str
    port: int


class TakeNeighbour(msgspec.Struct, tag="neighbour", frozen=True):
    """Before the start: the descriptor beside it leads to the relay process with this number."""

    number: int


class RelayReady(msgspec.Struct, tag="ready", frozen=True):
    """All sockets are bound."""


class RelayFailed(msgspec.Struct, tag="failed", frozen=True):
    """The relay cannot start."""

    reason: str


class MappedSeen(msgspec.Struct, tag="mapped", frozen=True):
    """The session with this TURN user name was seen, over UDP, at this address: what the article's
    server finds out about each client in good time."""

    username: str
    host: str
    port: int


class Reached(msgspec.Struct, tag="reached", frozen=True):
    """A datagram came in by ``way``, from ``origin``: the first, or one that proves more."""

    way: Way
    origin: Origin


class Accelerated(msgspec.Struct, tag="accelerated", frozen=True):
    """Whether the kernel relays what it can; the ``reason`` why it does not."""

    on: bool
    reason: str


class TakeWebSocket(msgspec.Struct, tag="websocket", frozen=True):
    """A connection (descriptor beside it) that turned out to be HTTP inside TLS without ALPN."""

    remote: tuple[str, int]


class Change(msgspec.Struct, tag="change", frozen=True):
    """Go on with these settings. What they forbid ends; what they do not allow is refused whole."""

    settings: RelaySettings


class Prepare(msgspec.Struct, tag="prepare", frozen=True):
    """Get ready for these settings, or refuse them; nothing changes before Commit."""

    settings: RelaySettings


class Commit(msgspec.Struct, tag="commit", frozen=True):
    """Go on with the settings that were prepared last."""


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """Make no new allocations, while those that exist go on; or make them again."""

    draining: bool


class Look(msgspec.Struct, tag="look", frozen=True):
    """Tell how it goes, with the ``users`` who have most relayed."""

    users: int = 0


Order: TypeAlias = Change | Prepare | Commit | Drain | Look


class Done(msgspec.Struct, tag="done", frozen=True):
    """It is done, or nothing was changed because it is ``refused``."""

    refused: str = ""


Answer: TypeAlias = Done | Report


class Ask(msgspec.Struct, tag="ask", frozen=True):
    """An order, and the number that its answer will have."""

    number: int
    order: Order


class Answered(msgspec.Struct, tag="answered", frozen=True):
    """The answer to the order with that number."""

    number: int
    answer: Answer


Message: TypeAlias = (
    RelayStart
    | TakeTurn
    | TakeListening
    | TakeNeighbour
    | RelayReady
    | RelayFailed
    | MappedSeen
    | Reached
    | Accelerated
    | TakeWebSocket
    | Ask
    | Answered
)

Tell: TypeAlias = Callable[[Message, socket.socket | None], object]
"""How one process tells the other: a message, and the socket that goes with it."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


class TooLarge(ValueError):
    """A message that does not fit into a packet."""


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
        self._waiting: deque[tuple[bytes, socket.socket | None]] = deque()
        self._loop = asyncio.get_running_loop()
        sock.setblocking(False)
        self._loop.add_reader(sock, self._readable)

    def send(self, message: Message, handed: socket.socket | None = None) -> bool:
        """Send a message; ``handed`` goes with it and is closed here. False: it is lost.

        Raises TooLarge.
        """
        packet = (_encoder.encode(message), handed)
        if len(packet[0]) > MAX_PACKET:
            _close(handed)
            raise TooLarge("too many names, users or networks for the relay process to be told of")
        if self._closed or len(self._waiting) >= MAX_WAITING:
            _close(handed)
            return False
        if self._waiting or not self._send_now(*packet):
            if not self._waiting:
                self._loop.add_writer(self._socket, self._writable)
            self._waiting.append(packet)
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for _, handed in self._waiting:
            _close(handed)
        self._waiting.clear()

    def _send_now(self, data: bytes, handed: socket.socket | None) -> bool:
        """False: the other end does not keep up. When it is gone, reading will find out."""
        try:
            if handed is None:
                self._socket.send(data)
            else:
                socket.send_fds(self._socket, [data], [handed.fileno()])
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        _close(handed)
        return True

    def _writable(self) -> None:
        while self._waiting:
            if not self._send_now(*self._waiting[0]):
                return
            self._waiting.popleft()
        self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            data, handed = _receive(self._socket)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, handed = b"", None
        if data:
            self._on_message(_decoder.decode(data), handed)
        else:
            self.close()
            self._on_closed()


def link_pair() -> tuple[socket.socket, socket.socket]:
    """The two sockets of a link: packets with their bounds kept."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for each in pair:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_PACKET)
    return pair


def _receive(sock: socket.socket) -> tuple[bytes, socket.socket | None]:
    """One packet and the socket in it, which no program that we may start inherits."""
    descriptors = array.array("i")
    space = socket.CMSG_SPACE(descriptors.itemsize)
    data, ancillary, _, _ = sock.recvmsg(MAX_PACKET, space, socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: descriptors.itemsize])
    return data, socket.socket(fileno=descriptors[0]) if descriptors else None


def _close(handed: socket.socket | None) -> None:
    if handed is not None:
        handed.close()
