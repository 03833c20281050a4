"""TURN clients and a TURN server on a line in virtual time, with a strict driver."""

from __future__ import annotations

import heapq
import itertools
import random as random_module
from collections.abc import Callable, Iterator

import pytest

from knothole.engine.core import Datagram, Transmit, least
from knothole.engine.turn.authentication import PASSWORD_ALGORITHMS
from knothole.engine.turn.client import Allocation, RelayedDataReceived
from knothole.engine.turn.credentials import Credentials, LongTermUsers
from knothole.engine.turn.five_tuple import FiveTuple
from knothole.engine.turn.server import TurnServer
from knothole.engine.turn.server_events import CloseRelay, OpenRelay, SendUnfragmented
from knothole.wire.address import Address, Transport
from knothole.wire.stun import (
    Algorithm,
    Attribute,
    Data,
    ErrorCode,
    Message,
    MessageClass,
    Method,
    Nonce,
    Realm,
    RequestedTransport,
    Username,
    XorPeerAddress,
    XorRelayedAddress,
    decode,
    encode,
    long_term_key,
    looks_like_stun,
)

REALM = "knothole.test"
SERVER = Address("9.9.9.9", 3478)
RELAY_HOST = "9.9.9.10"
RAW_CLIENT = Address("1.1.1.1", 4000)
USERS = {"alice": "wonder", "bob": "builder", "carol": "christmas"}


class Client:
    """One allocation and what it said, with the time at which it did."""

    def __init__(self, allocation: Allocation, five_tuple: FiveTuple) -> None:
        self.allocation = allocation
        self.five_tuple = five_tuple
        self.events: list[tuple[float, object]] = []

    def of(self, kind: type) -> list:
        return [event for _, event in self.events if isinstance(event, kind)]

    @property
    def received(self) -> list[tuple[Address, bytes]]:
        return [
            (event.datagram.source, segment)
            for event in self.of(RelayedDataReceived)
            for segment in event.datagram.segments()
        ]

    @property
    def relayed(self) -> Address:
        assert self.allocation.relayed_address is not None
        return self.allocation.relayed_address


class World:
    """Everything that moves. ``lost`` decides about each datagram between clients and server."""

    def __init__(
        self, *, latency: float = 0.01, jitter: float = 0.0, seed: int = 1, **options: object
    ) -> None:
        self.random = random_module.Random(seed)
        self.now = 0.0
        self.latency, self.jitter = latency, jitter
        self.lost: Callable[[Datagram], bool] = lambda datagram: False
        self.unopenable: set[Address] = set()
        self.open_at_once = True
        self.opening: list[Address] = []
        self.sockets: set[Address] = set()
        self.server_events: list[tuple[float, object]] = []
        self.to_peers: list[tuple[float, Datagram]] = []
        self.unfragmented: list[Datagram] = []
        self.on_line: list[tuple[float, Datagram]] = []
        self.clients: list[Client] = []
        self._line: list[tuple[float, int, Datagram]] = []
        self._order = itertools.count()
        self.options = {
            "realm": REALM,
            "authenticator": LongTermUsers(REALM, USERS),
            "relay_hosts": [RELAY_HOST],
            "server_addresses": [SERVER],
        } | options
        self.server = self.new_server()

    def new_server(self) -> TurnServer:
        return TurnServer(random=self.random.randbytes, now=self.now, **self.options)  # type: ignore[arg-type]

    def restart_server(self) -> None:
        self.server = self.new_server()
        self.sockets.clear()

    def client(
        self,
        name: str = "alice",
        *,
        host: str = "1.1.1.1",
        port: int | None = None,
        password: str | None = None,
        transport: Transport = Transport.UDP,
        **options: object,
    ) -> Client:
        local = Address(host, 5000 + len(self.clients) if port is None else port)
        allocation = Allocation(
            local=local,
            server=SERVER,
            transport=transport,
            credentials=Credentials(name, USERS.get(name, "") if password is None else password),
            random=self.random.randbytes,
            now=self.now,
            **options,  # type: ignore[arg-type]
        )
        client = Client(allocation, FiveTuple(transport, local, SERVER))
        self.clients.append(client)
        self._drain()
        return client

    def allocated(self, name: str = "alice", **options: object) -> Client:
        """A client whose allocation is there."""
        client = self.client(name, **options)  # type: ignore[arg-type]
        self.run(self.now + 1)
        assert client.allocation.relayed_address is not None, client.events
        return client

    def run(self, until: float) -> None:
        """Time jumps to whatever is due next; nothing is woken that did not ask."""
        self._drain()
        while (at := self._next()) is not None and at <= until:
            self.now = max(at, self.now)
            while self._line and self._line[0][0] <= self.now:
                self._deliver(heapq.heappop(self._line)[2])
                self._drain()
            for engine in (self.server, *(client.allocation for client in self.clients)):
                due = engine.next_timeout()
                if due is not None and due <= self.now:
                    engine.handle_timeout(self.now)
                    self._drain()
                    after = engine.next_timeout()
                    assert after is None or after > self.now, f"{engine} spins at {self.now}"
        self.now = until

    def peer_sends(self, peer: Address, relayed: Address, payload: bytes) -> None:
        self.server.receive_from_peer(relayed, peer, payload, self.now)
        self._drain()

    def settle(self) -> None:
        self.run(self.now + 3 * (self.latency + self.jitter))

    def messages(self, message_class: MessageClass | None = None) -> list[tuple[float, Message]]:
        """The STUN messages on the line so far."""
        found = [(at, decode(d.payload)) for at, d in self.on_line if looks_like_stun(d.payload)]
        return [each for each in found if message_class in (None, each[1].message_class)]

    def sent(self, method: int) -> list[float]:
        """When requests of that method were sent."""
        return [at for at, each in self.messages(MessageClass.REQUEST) if each.method == method]

    def server_said(self, kind: type) -> list:
        return [event for _, event in self.server_events if isinstance(event, kind)]

    def _next(self) -> float | None:
        engines = (self.server, *(client.allocation for client in self.clients))
        return least(
            *(engine.next_timeout() for engine in engines),
            self._line[0][0] if self._line else None,
        )

    def _drain(self) -> None:
        for client in self.clients:
            for output in client.allocation.outputs():
                if isinstance(output, Transmit):
                    self._transmit(output.datagram)
                else:
                    client.events.append((self.now, output))
        for output in self.server.outputs():
            match output:
                case Transmit(datagram) if datagram.source == SERVER:
                    self._transmit(datagram)
                case Transmit(datagram):
                    assert datagram.source in self.sockets
                    self.to_peers.append((self.now, datagram))
                case OpenRelay(relayed) if self.open_at_once:
                    self.answer_open(relayed)
                case OpenRelay(relayed):
                    self.opening.append(relayed)
                case CloseRelay(relayed):
                    self.sockets.remove(relayed)
                case _:
                    self.server_events.append((self.now, output))

    def answer_open(self, relayed: Address) -> None:
        if relayed in self.unopenable:
            self.server.relay_refused(relayed, self.now)
        else:
            assert relayed not in self.sockets
            self.sockets.add(relayed)
            self.server.relay_opened(relayed, self.now)

    def _transmit(self, datagram: Datagram) -> None:
        self.on_line.append((self.now, datagram))
        if datagram.transport is Transport.UDP and self.lost(datagram):
            return
        delay = self.latency
        if datagram.transport is Transport.UDP:
            delay += self.random.random() * self.jitter
        heapq.heappush(self._line, (self.now + delay, next(self._order), datagram))

    def _deliver(self, datagram: Datagram) -> None:
        if datagram.destination == SERVER:
            five_tuple = FiveTuple(datagram.transport, datagram.source, SERVER)
            self.server.receive(five_tuple, datagram.payload, self.now, datagram.segment_size)
            return
        for client in self.clients:
            if client.allocation.local == datagram.destination:
                client.allocation.receive(datagram, self.now)


class RawClient:
    """Says exactly what it is told, in signed requests, and returns the answer."""

    def __init__(
        self,
        world: World,
        name: str = "alice",
        *,
        client: Address = RAW_CLIENT,
        server: Address = SERVER,
        transport: Transport = Transport.UDP,
        password: str | None = None,
        sha256: bool = True,
    ) -> None:
        self.world, self.name, self.sha256 = world, name, sha256
        self.password = USERS.get(name, "") if password is None else password
        self.five_tuple = FiveTuple(transport, client, server)
        self.transaction_id = b""
        self.nonce = b""
        self.challenged_at = 0.0
        self.replies: list[bytes] = []

    def send(self, payload: bytes) -> None:
        """Hand ``payload`` to the server; what it says to us is in ``replies``."""
        self.world.server.receive(self.five_tuple, payload, self.world.now)
        self.replies = []
        for output in self.world.server.outputs():
            match output:
                case Transmit(datagram) if datagram.source == self.five_tuple.server:
                    if datagram.destination == self.five_tuple.client:
                        self.replies.append(datagram.payload)
                case Transmit(datagram):
                    self.world.to_peers.append((self.world.now, datagram))
                case SendUnfragmented(datagram):
                    self.world.unfragmented.append(datagram)
                case OpenRelay(relayed):
                    self.world.answer_open(relayed)
                case CloseRelay(relayed):
                    self.world.sockets.discard(relayed)
                case _:
                    self.world.server_events.append((self.world.now, output))

    def answer(self) -> Message:
        (reply,) = self.replies
        return decode(reply)

    def key(self) -> bytes:
        algorithm = Algorithm.SHA256 if self.sha256 else Algorithm.MD5
        return long_term_key(self.name, REALM, self.password, algorithm)

    def signed(self, method: int, *attributes: Attribute, drop: tuple[type, ...] = ()) -> bytes:
        """A request with everything that a signed one needs but for what is to ``drop``."""
        self.transaction_id = self.world.random.randbytes(12)
        identity: tuple[Attribute, ...] = (Username(self.name), Realm(REALM), Nonce(self.nonce))
        if self.sha256:
            identity += (PASSWORD_ALGORITHMS, PASSWORD_ALGORITHMS.algorithms[0])
        kept = tuple(each for each in identity if type(each) not in drop)
        message = Message(MessageClass.REQUEST, method, self.transaction_id, attributes + kept)
        key = self.key()
        return encode(message, **{"sha256_key" if self.sha256 else "key": key})

    def challenge(self) -> Message:
        """Ask unsigned, and take the nonce from the 401."""
        request = Message(MessageClass.REQUEST, Method.ALLOCATE, self.world.random.randbytes(12))
        self.send(encode(request))
        answer = self.answer()
        nonce = answer.get(Nonce)
        assert nonce is not None
        self.nonce, self.challenged_at = nonce.value, self.world.now
        return answer

    def ask(self, method: int, *attributes: Attribute) -> Message:
        if not self.nonce:
            self.challenge()
        self.send(self.signed(method, *attributes))
        return self.answer()

    def challenge_if_stale(self) -> None:
        """Take a new nonce when ours is no longer good for everything."""
        if not self.nonce or self.world.now - self.challenged_at > 1000:
            self.challenge()

    def code(self, method: int, *attributes: Attribute) -> int:
        """The error code of the answer, 0 for success."""
        error = self.ask(method, *attributes).get(ErrorCode)
        return 0 if error is None else error.code

    def allocate(self, *attributes: Attribute) -> Address:
        answer = self.ask(Method.ALLOCATE, RequestedTransport(), *attributes)
        found = answer.get(XorRelayedAddress)
        assert found is not None, answer
        return found.address

    def indicate(self, peer: Address, data: bytes, *attributes: Attribute) -> None:
        content = (XorPeerAddress(peer), Data(data), *attributes)
        self.send(encode(Message(MessageClass.INDICATION, Method.SEND, bytes(12), content)))


@pytest.fixture
def raw(world: World) -> RawClient:
    """A raw client named alice."""
    return RawClient(world)


@pytest.fixture
def new_raw(world: World) -> Callable[..., RawClient]:
    """Makes further raw clients."""
    return lambda *args, **options: RawClient(world, *args, **options)


@pytest.fixture
def new_world() -> Iterator[type[World]]:
    """The class, for worlds with options."""
    yield World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def new_world_class() -> tuple[type[World], type[RawClient]]:
    """For tests that make many worlds."""
    return World, RawClient
