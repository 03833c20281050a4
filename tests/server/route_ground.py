"""Routes on loopback sockets: a relay with no engine but one that notes what it gets."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Sequence

from knothole.engine.core import Datagram
from knothole.engine.turn.budget import Budget
from knothole.engine.turn.server_events import Shortcut, ShortcutKey
from knothole.io.bpf.layout import Count
from knothole.io.error_queue import PeerError
from knothole.io.udp_bind import bind_socket
from knothole.server.relay_socket import RelaySocket
from knothole.server.routes import Routes
from knothole.wire.address import Address, parse_address
from knothole.wire.turn import encode_channel_data

from .conftest import PATIENCE, until

CHANNEL, OTHER_CHANNEL = 0x4001, 0x4002


class Ground:
    """The relay's socket for clients and one relayed address; a client, another one, and a peer."""

    def __init__(self, host: str, batches: bool = True) -> None:
        self.errors: list[PeerError] = []
        self.to_engine: list[Datagram] = []
        self.passed: list[tuple[ShortcutKey, Count]] = []
        self.has_plenty = True
        self.free = Budget(0, 0, time.monotonic())
        self.engine: Callable[[Datagram], object] = lambda _: None
        self.sockets: dict[Address, RelaySocket] = {}
        self.routes = Routes(
            self.sockets.get,
            lambda *report: self.passed.append(report),
            has_plenty=lambda: self.has_plenty,
            batches=batches,
        )
        self.server = self._open(host, listens=True)
        self.relayed = self.relay()
        self._plain = [bind_socket(Address(host, 0)) for _ in range(3)]
        self.client, self.other, self.peer = self._plain
        self.out = ShortcutKey(address_of(self.client), self.server, CHANNEL)
        self.back = ShortcutKey(address_of(self.peer), self.relayed, 0)

    def relay(self) -> Address:
        """One more relayed address."""
        return self._open(self.server.host, listens=False)

    def _open(self, host: str, *, listens: bool) -> Address:
        sock = bind_socket(Address(host, 0))
        address = address_of(sock)
        if listens:
            self.sockets[address] = self.routes.listening(sock, self._engine)
        else:
            self.sockets[address] = self.routes.relayed(sock, self._engine, self.errors.append)
        return address

    def _engine(self, datagrams: Sequence[Datagram]) -> None:
        self.to_engine += datagrams
        for datagram in datagrams:
            self.engine(datagram)

    def to_peer(self, *budgets: Budget, lasts: float = 600.0) -> None:
        shortcut = Shortcut(self.relayed, address_of(self.peer), 0, time.monotonic() + lasts)
        self.routes.install(self.out, shortcut, budgets or (self.free,))

    def to_client(self, relayed: Address | None = None) -> None:
        shortcut = Shortcut(self.server, address_of(self.client), CHANNEL, time.monotonic() + 600)
        key = ShortcutKey(address_of(self.peer), relayed, 0) if relayed else self.back
        self.routes.install(key, shortcut, (self.free,))

    def send(self, *payloads: bytes, channel: int = CHANNEL) -> None:
        """From the client, as ChannelData."""
        for payload in payloads:
            self.client.sendto(encode_channel_data(channel, payload, False), self.server)

    def counts(self) -> dict[ShortcutKey, Count]:
        """All that was reported so far, in however many parts."""
        found: dict[ShortcutKey, Count] = {}
        for key, count in self.passed:
            before = found.get(key, Count(0, 0))
            found[key] = Count(before.packets + count.packets, before.octets + count.octets)
        return found

    def engine_heard(self) -> list[bytes]:
        return [part for datagram in self.to_engine for part in datagram.segments()]

    def close(self) -> None:
        self.routes.close()
        for each in (*self._plain, *self.sockets.values()):
            each.close()


async def received(sock: socket.socket, count: int) -> list[bytes]:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(PATIENCE):
        return [await loop.sock_recv(sock, 65_535) for _ in range(count)]


async def heard(ground: Ground, count: int) -> list[bytes]:
    await until(lambda: len(ground.engine_heard()) >= count)
    return ground.engine_heard()


def address_of(sock: socket.socket) -> Address:
    return parse_address(*sock.getsockname()[:2])
