"""Peers on simulated hosts in real time: the library's own code, on NATs that are only computed.

The world's clock is kept in step with the event loop's. Signalling is carried as reliable messages
with the delay of the lines, the switchboard's and relay's engines run on a simulated server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, TypeVar

from knothole.engine.endpoint.endpoint import Endpoint
from knothole.engine.endpoint.events import (
    ConnectSignalling,
    DisconnectSignalling,
    EndpointOutput,
    SendSignalling,
)
from knothole.engine.endpoint.relays import OpenTurnStream
from knothole.engine.rendezvous.accounts import MemoryAccounts
from knothole.engine.rendezvous.outputs import CloseConnection, ConnectionId, SendTo
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.io.proxy import Proxy
from knothole.lab.sim import BEHAVIOURS, Host, Link, Program, World
from knothole.lab.sim.relay import CREDENTIALS, REALM, run_relay
from knothole.peer.peer import Peer
from knothole.peer.runtime import Runtime
from knothole.wire.address import Address
from knothole.wire.server_url import ServerUrl
from knothole.wire.signal.codec import encode
from knothole.wire.signal.messages import Services
from knothole.wire.signal.values import TurnService

SERVER: Final = Address("3.3.3.3", 3478)
PIN: Final = bytes(range(32))  # the key that a simulated switchboard would present
_HANDSHAKE_ROUND_TRIPS: Final = 2  # TCP and TLS 1.3

T = TypeVar("T")
Told = Callable[[float, str, bool, bytes], None]


class SimulatedInternet:
    """A server, and clients each behind a NAT of a kind the simulator knows, in real time.

    ``on_signalling`` is told of every message with the switchboard: when it left, whose it is,
    whether it is on its way up, and its bytes. To be made inside a running loop.
    """

    def __init__(self, one_way_seconds: float, on_signalling: Told, *, seed: int = 1) -> None:
        self._loop = asyncio.get_running_loop()
        self.world = World(seed, start=self._loop.time())
        self.delay_seconds = one_way_seconds
        self.on_signalling = on_signalling
        self.switchboard = _Switchboard(self)
        self._settled: list[Callable[[], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._stepping = False
        server = self.world.host("server", SERVER.host)
        random = self.world.random_bytes("relay")
        run_relay(server, SERVER, random=random, now=self.world.now)

    def add_client(self, name: str, nat: str, public: str, private: str) -> Host:
        """A host behind a NAT (a key of ``BEHAVIOURS``) with a line to the internet."""
        router = self.world.router(
            f"{name}-nat",
            nat=BEHAVIOURS[nat],
            external=[public],
            link=Link(delay_seconds=self.delay_seconds),
        )
        return self.world.host(name, private, realm=router.inside)

    def peer_class(self, host: Host, base: Address, public: str) -> type[Peer]:
        """A :class:`Peer` that lives on that host and has its UDP socket there."""

        class Place(_SimulatedRuntime):
            place = (self, host, base, public)

        class SimulatedPeer(Peer):
            runtime_class = Place

        return SimulatedPeer

    def do(self, action: Callable[[], T]) -> T:
        """Act on the world at the present moment, and let it go on from there."""
        if self._stepping:  # from within the world: it goes on by itself
            return action()
        self._stepping = True
        try:
            self.world.step(self._loop.time())
            result = action()
            self.world.step(self.world.now)
        finally:
            self._stepping = False
        for settled in tuple(self._settled):
            settled()
        self._rearm()
        return result

    def when_settled(self, settled: Callable[[], None]) -> None:
        """Call this after every turn of the world."""
        self._settled.append(settled)

    def forget(self, settled: Callable[[], None]) -> None:
        self._settled.remove(settled)

    def close(self) -> None:
        """Time stops."""
        if self._timer is not None:
            self._timer.cancel()

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        at = self.world.next_event_time()
        self._timer = None if at is None else self._loop.call_at(at, self.do, lambda: None)


class _SimulatedRuntime(Runtime):
    """What :class:`Runtime` is to sockets, for a host of a simulated world."""

    place: tuple[SimulatedInternet, Host, Address, str]

    def __init__(
        self,
        endpoint: Endpoint,
        server: ServerUrl,
        handle: Callable[[EndpointOutput], None],
        on_signalling_error: Callable[[Exception], None],
        settled: Callable[[], None],
        *,
        port: int = 0,
        port_mapping: bool = True,
        proxy: Proxy | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._internet, self._host, self._base, self.public = self.place
        self._take = handle
        self._on_settled = settled
        self._program: Program[Any] | None = None

    async def start(self) -> None:
        internet = self._internet
        internet.when_settled(self._on_settled)

        def begin() -> None:
            self._program = self._host.run(self.endpoint, self._base, on_event=self._on_event)
            self._program.call(lambda engine, now: engine.set_bases([self._base], now))
            self._program.call(lambda engine, now: engine.start(now))

        internet.do(begin)

    async def close(self) -> None:
        self.command(self.endpoint.close)
        await asyncio.sleep(4 * self._internet.delay_seconds)
        if self._program is not None:
            self._internet.do(self._program.stop)
            self._internet.forget(self._on_settled)

    def command(self, do: Callable[[float], T]) -> T:
        program = self._program
        assert program is not None, "not started"
        return self._internet.do(lambda: program.call(lambda engine, now: do(now)))

    def _on_event(self, event: EndpointOutput, now: float) -> None:
        switchboard = self._internet.switchboard
        match event:
            case ConnectSignalling(connection):
                switchboard.connect(self, connection)
            case SendSignalling(connection, data):
                switchboard.send(self, connection, data)
            case DisconnectSignalling(connection):
                switchboard.disconnect(self, connection)
            case OpenTurnStream(server):
                self.command(lambda now: self.endpoint.turn_stream_failed(server, now))
            case _:
                self._take(event)


class _Switchboard:
    """The rendezvous engine, and the connections to it."""

    def __init__(self, internet: SimulatedInternet) -> None:
        self._internet = internet
        self._engine = RendezvousServer(
            accounts=MemoryAccounts(),
            server_pins=(PIN,),
            services=_services,
            random=internet.world.random_bytes("switchboard"),
        )
        self._numbers: dict[tuple[_SimulatedRuntime, int], ConnectionId] = {}
        self._ends: dict[ConnectionId, tuple[_SimulatedRuntime, int]] = {}
        self._armed: float | None = None

    def connect(self, runtime: _SimulatedRuntime, connection: int) -> None:
        number = ConnectionId(len(self._numbers) + 1)
        self._numbers[runtime, connection] = number
        self._ends[number] = (runtime, connection)
        delay = 2 * self._internet.delay_seconds * _HANDSHAKE_ROUND_TRIPS
        self._after(delay, lambda: self._open(number, runtime, connection))

    def send(self, runtime: _SimulatedRuntime, connection: int, data: bytes) -> None:
        number = self._numbers[runtime, connection]
        self._internet.on_signalling(self._now, runtime.public, True, data)
        self._after(
            self._internet.delay_seconds,
            lambda: self._engine.received(number, data, self._now),
        )

    def disconnect(self, runtime: _SimulatedRuntime, connection: int) -> None:
        number = self._numbers[runtime, connection]
        self._ends.pop(number, None)
        delay = self._internet.delay_seconds
        self._after(delay, lambda: self._engine.disconnected(number, self._now))

    @property
    def _now(self) -> float:
        return self._internet.world.now

    def _open(self, number: ConnectionId, runtime: _SimulatedRuntime, connection: int) -> None:
        self._engine.connected(number, Address(runtime.public, 50000), self._now)
        runtime.command(
            lambda now: runtime.endpoint.signalling_connected(connection, SERVER.host, PIN, now)
        )

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        def act() -> None:
            action()
            self._drain()

        self._internet.world.after(seconds, act)

    def _drain(self) -> None:
        for output in self._engine.outputs():
            match output:
                case SendTo(number, message):
                    self._deliver(number, encode(message))
                case CloseConnection(number, reason):
                    self._close(number, reason)
        due = self._engine.next_timeout()
        if due is not None and due != self._armed:
            self._armed = due
            self._after(max(0.0, due - self._now), self._wake)

    def _wake(self) -> None:
        self._armed = None
        due = self._engine.next_timeout()
        if due is not None and due <= self._now:
            self._engine.handle_timeout(self._now)

    def _deliver(self, number: ConnectionId, data: bytes) -> None:
        if number not in self._ends:
            return
        runtime, connection = self._ends[number]
        self._internet.on_signalling(self._now, runtime.public, False, data)

        def arrive() -> None:
            if number in self._ends:
                runtime.command(
                    lambda now: runtime.endpoint.signalling_received(connection, data, now)
                )

        self._internet.world.after(self._internet.delay_seconds, arrive)

    def _close(self, number: ConnectionId, reason: str) -> None:
        if number in self._ends:
            runtime, connection = self._ends.pop(number)
            runtime.command(
                lambda now: runtime.endpoint.signalling_disconnected(connection, reason, now)
            )


def _services(session_id: str, name: str) -> Services:
    turn = TurnService(
        uris=(f"turn:{SERVER.host}:{SERVER.port}?transport=udp",),
        username=CREDENTIALS.username,
        password=CREDENTIALS.password,
        realm=REALM,
        lifetime_seconds=86400,
    )
    return Services(turn=(turn,), stun=(f"stun:{SERVER.host}:{SERVER.port}",))
