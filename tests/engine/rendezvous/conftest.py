"""A rendezvous server and its clients in virtual time, joined by lines of 10 ms one way."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest

from knothole.engine.core import least
from knothole.engine.rendezvous.accounts import Accounts, MemoryAccounts
from knothole.engine.rendezvous.client import RendezvousClient
from knothole.engine.rendezvous.events import Connect, Disconnect, SendSignal
from knothole.engine.rendezvous.outputs import CloseConnection, ConnectionId, SendTo
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.engine.secure.identity import Identity
from knothole.wire.address import Address
from knothole.wire.signal.codec import decode_from_client, decode_from_server, encode
from knothole.wire.signal.messages import Services

PIN = b"the server's key hashes to this."
DELAY = 0.010
SPINS = 1000


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


class Device:
    """One client engine with what it has been told and what went over its line."""

    def __init__(self, world: World, number: int, name: str, identity: Identity, **options: Any):
        self.world, self.number, self.name, self.identity = world, number, name, identity
        self.device_id = number.to_bytes(16, "big")
        self.engine = RendezvousClient(
            identity=identity,
            name=name,
            device_id=self.device_id,
            random=seeded(1000 + number),
            **options,
        )
        self.log: list[tuple[float, Any]] = []
        self.sent: list[Any] = []
        self.received: list[Any] = []
        self.line: tuple[int, ConnectionId] | None = None
        self.cut = False
        """Nothing passes any more and nobody is told: a router that died."""
        self.engine.start(world.now)
        world.drain(self)

    @property
    def events(self) -> list[Any]:
        return [event for _, event in self.log]

    def of(self, kind: type) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def last(self, kind: type) -> Any:
        return self.of(kind)[-1]

    def say(self, command: str, *arguments: Any, **options: Any) -> None:
        getattr(self.engine, command)(*arguments, now=self.world.now, **options)
        self.world.drain(self)


class World:
    def __init__(self, accounts: Accounts | None = None, **options: Any) -> None:
        self.now = 0.0
        self.accounts = accounts or MemoryAccounts()
        self.options = options
        self.devices: dict[str, Device] = {}
        self.lines: dict[ConnectionId, Device] = {}
        self.closed: list[str] = []
        self.server_events: list[Any] = []
        self.tamper: Callable[[Device, Any], list[Any]] | None = None
        """What a lying server sends to a device in place of a message."""
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count(1)
        self._seed = itertools.count(1)
        self.server: RendezvousServer | None = None
        self.start_server()

    # The server process.

    def start_server(self) -> None:
        options = {"services": lambda session_id, name: Services(), **self.options}
        self.server = RendezvousServer(
            accounts=self.accounts,
            server_pins=[PIN],
            random=seeded(next(self._seed)),
            **options,
        )

    def kill_server(self) -> None:
        self.server = None
        for number, device in list(self.lines.items()):
            self._end_line(number, device, "reset by peer")

    # Clients.

    def identity(self, name: str) -> Identity:
        return Identity.generate(seeded(sum(name.encode()) * 7919))

    def add(
        self, name: str, handle: str | None = None, identity: Identity | None = None, **options: Any
    ) -> Device:
        device = Device(
            self, len(self.devices) + 1, name, identity or self.identity(name), **options
        )
        self.devices[handle or name] = device
        return device

    def join(self, *names: str, **options: Any) -> list[Device]:
        """Devices that are registered on return."""
        devices = [self.add(name, f"{name}-{len(self.devices)}", **options) for name in names]
        self.run(0.2)
        assert all(device.engine.is_registered for device in devices)
        return devices

    def drop(self, device: Device) -> None:
        """The connection of this device ends, and both ends notice."""
        assert device.line is not None
        number = device.line[1]
        self._end_line(number, device, "dropped")
        if self.server is not None:
            self.server.disconnected(number, self.now)
            self.drain_server()

    def leave(self, device: Device) -> None:
        """The program ends without a word."""
        self.drop(device)
        device.cut = True
        self.devices = {k: v for k, v in self.devices.items() if v is not device}

    # Time.

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        spins = 0
        while True:
            timers = [device.engine.next_timeout() for device in self.devices.values()]
            if self.server is not None:
                timers.append(self.server.next_timeout())
            wake = least(*timers, self._queue[0][0] if self._queue else None)
            if wake is None or wake > end:
                self.now = end
                return
            spins = spins + 1 if wake <= self.now else 0
            assert spins < SPINS, "an engine asks to be woken and then does nothing"
            self.now = max(self.now, wake)
            self._step()

    def _step(self) -> None:
        while self._queue and self._queue[0][0] <= self.now:
            heapq.heappop(self._queue)[2]()
        for device in list(self.devices.values()):
            at = device.engine.next_timeout()
            if at is not None and at <= self.now:
                device.engine.handle_timeout(self.now)
                self.drain(device)
        if self.server is not None:
            at = self.server.next_timeout()
            if at is not None and at <= self.now:
                self.server.handle_timeout(self.now)
                self.drain_server()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._count), action))

    # Lines.

    def drain(self, device: Device) -> None:
        for output in device.engine.outputs():
            match output:
                case Connect(connection):
                    self.after(2 * DELAY, lambda c=connection: self._open(device, c))
                case SendSignal(connection, data):
                    device.sent.append(decode_from_client(data))
                    if device.line is not None and device.line[0] == connection:
                        number = device.line[1]
                        self.after(DELAY, lambda n=number, d=data: self._to_server(device, n, d))
                case Disconnect(connection, _):
                    if device.line is not None and device.line[0] == connection:
                        number = device.line[1]
                        device.line = None
                        self.after(DELAY, lambda n=number: self._close_at_server(device, n))
                case event:
                    device.log.append((self.now, event))

    def drain_server(self) -> None:
        assert self.server is not None
        for output in self.server.outputs():
            match output:
                case SendTo(number, message):
                    device = self.lines.get(number)
                    if device is None:
                        continue
                    messages = self.tamper(device, message) if self.tamper else [message]
                    for each in messages:
                        data = encode(each)
                        self.after(DELAY, lambda d=device, n=number, x=data: self._to(d, n, x))
                case CloseConnection(number, reason):
                    self.closed.append(reason)
                    device = self.lines.pop(number, None)
                    if device is not None:
                        self.after(DELAY, lambda d=device, n=number: self._closed_by_server(d, n))
                case event:
                    self.server_events.append(event)

    def inject(self, device: Device, message: Any) -> None:
        """The server says this to the device, on its own account."""
        assert device.line is not None
        self._to(device, device.line[1], encode(message))

    def _open(self, device: Device, connection: int) -> None:
        if self.server is None:
            device.engine.disconnected(connection, "refused", self.now)
        elif not device.cut:
            number = ConnectionId(next(self._count))
            device.line = (connection, number)
            self.lines[number] = device
            device.engine.connected(connection, PIN, self.now)
            self.server.connected(number, Address("192.0.2.1", 1000 + device.number), self.now)
            self.drain_server()
        self.drain(device)

    def _to_server(self, device: Device, number: ConnectionId, data: bytes) -> None:
        if self.server is not None and not device.cut and number in self.lines:
            self.server.received(number, data, self.now)
            self.drain_server()

    def _to(self, device: Device, number: ConnectionId, data: bytes) -> None:
        if device.line is not None and device.line[1] == number and not device.cut:
            device.received.append(decode_from_server(data))
            device.engine.received(device.line[0], data, self.now)
            self.drain(device)

    def _close_at_server(self, device: Device, number: ConnectionId) -> None:
        if self.lines.pop(number, None) and self.server is not None and not device.cut:
            self.server.disconnected(number, self.now)
            self.drain_server()

    def _closed_by_server(self, device: Device, number: ConnectionId) -> None:
        if device.line is not None and device.line[1] == number:
            self._end_line(number, device, "closed by server")

    def _end_line(self, number: ConnectionId, device: Device, reason: str) -> None:
        self.lines.pop(number, None)
        if device.line is not None and device.line[1] == number:
            connection = device.line[0]
            device.line = None
            device.engine.disconnected(connection, reason, self.now)
            self.drain(device)


@pytest.fixture
def make_world() -> Callable[..., World]:
    return World


@pytest.fixture
def world() -> World:
    return World()
