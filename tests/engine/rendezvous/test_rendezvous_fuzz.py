"""Both engines against any well-formed messages in any order."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from knothole.engine.rendezvous.accounts import MemoryAccounts
from knothole.engine.rendezvous.client import RendezvousClient
from knothole.engine.rendezvous.events import Connect, Disconnect, SendSignal
from knothole.engine.rendezvous.outputs import CloseConnection, ConnectionId, SendTo
from knothole.engine.rendezvous.registration import make_register
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.engine.secure.identity import Identity
from knothole.wire.address import Address
from knothole.wire.signal import messages as m
from knothole.wire.signal.codec import decode_from_client, decode_from_server, encode
from knothole.wire.signal.values import (
    ANYONE,
    NOBODY,
    Audience,
    AudienceKind,
    DeviceOnFile,
    Reason,
    Trouble,
)

PIN = b"p" * 32
NAMES = ("alice", "bob", "carol")
IDENTITIES = [Identity.generate(random.Random(seed).randbytes) for seed in range(3)]
LINE = "candidate:1 1 udp 2130706431 10.0.0.2 5000 typ host"

name = st.sampled_from([*NAMES, "nobody"])
call_id = st.sampled_from([bytes([n]) * 16 for n in range(2)])
device_id = st.sampled_from([bytes([n]) * 16 for n in range(4)])
maybe_device = st.none() | device_id
reason = st.sampled_from([*Reason, "strange"]).map(str)
audience = st.sampled_from([ANYONE, NOBODY, Audience(AudienceKind.NAMES, ("bob",))])
sealed = st.sampled_from([b"one", b"two"])
datagrams = st.lists(st.just(bytes(1500)), min_size=1, max_size=12).map(tuple)
key = st.sampled_from([identity.sealing_key for identity in IDENTITIES])

good_call = st.builds(
    lambda call_id, person: m.Call(call_id, NAMES[person], IDENTITIES[person].sealing_key, b"one"),
    call_id,
    st.integers(0, 2),
)

FROM_CLIENT = st.one_of(
    st.builds(m.Call, call_id, name, key, sealed, st.booleans()),
    good_call,
    good_call,
    st.builds(m.Ringing, call_id, maybe_device),
    st.builds(m.Answer, call_id, sealed),
    st.builds(m.Decline, call_id, reason),
    st.builds(m.Cancel, call_id, reason),
    st.builds(m.HangUp, call_id, reason, maybe_device),
    st.builds(m.Trickle, call_id, sealed, maybe_device),
    st.builds(m.Early, call_id, datagrams, maybe_device),
    st.builds(m.OnFile, st.sampled_from([(), (LINE,), ("nonsense",)])),
    st.builds(m.Lookup, name),
    st.builds(m.Watch, st.lists(name, max_size=3).map(tuple), st.booleans()),
    st.builds(m.Update, st.none() | audience, st.none() | audience, st.none() | st.booleans()),
    st.builds(m.Ping),
)
FROM_SERVER = st.one_of(
    st.builds(m.Challenge, st.sampled_from([(1,), (2,), (1, 2)]), st.just(b"n" * 32)),
    st.builds(m.Registered, st.just("session-id"), st.just("somewhere")),
    st.builds(m.Services),
    st.builds(m.Refused, st.sampled_from(["server-full", "strange"]), st.just("text")),
    st.builds(m.Found, name, key, key, st.just(bytes(64)), st.booleans()),
    st.builds(m.NotFound, name),
    st.builds(m.Presence, name, st.booleans()),
    st.builds(m.Calling, call_id, st.lists(st.builds(DeviceOnFile, device_id)).map(tuple)),
    st.builds(m.Incoming, call_id, name, key, device_id, sealed),
    st.builds(m.Ringing, call_id, maybe_device),
    st.builds(m.Answered, call_id, device_id, sealed),
    st.builds(m.Declined, call_id, reason),
    st.builds(m.Cancelled, call_id, reason),
    st.builds(m.HangUp, call_id, reason, maybe_device),
    st.builds(m.Trickle, call_id, sealed, maybe_device),
    st.builds(m.Early, call_id, datagrams, maybe_device),
    st.builds(m.CallFailed, call_id, reason, st.just("text")),
    st.builds(m.Problem, st.sampled_from(Trouble).map(str), st.just("text"), st.none() | call_id),
    st.builds(m.Pong),
)


class Served:
    """A server engine with raw connections; everything it says must be readable to a client."""

    def __init__(self) -> None:
        self.now = 0.0
        self.server = RendezvousServer(
            accounts=MemoryAccounts(),
            server_pins=[PIN],
            services=lambda session_id, name: m.Services(),
            random=random.Random(1).randbytes,
        )
        self.connections: list[ConnectionId | None] = []
        self.count = 0
        for person in range(3):
            self.connections.append(None)
            self.connect(person)

    def connect(self, person: int) -> None:
        if self.connections[person] is not None:
            self.server.disconnected(self.connections[person], self.now)
        self.count += 1
        number = ConnectionId(self.count)
        self.connections[person] = number
        self.server.connected(number, Address("192.0.2.1", 1), self.now)
        challenge = self.drain()[-1].message
        register = make_register(
            identity=IDENTITIES[person],
            name=NAMES[person],
            device_id=bytes([person]) * 16,
            nonce=challenge.nonce,
            server_pin=PIN,
        )
        self.server.received(number, encode(register), self.now)
        self.drain()

    def drain(self) -> list[Any]:
        outputs = list(self.server.outputs())
        for output in outputs:
            if isinstance(output, SendTo):
                assert decode_from_server(encode(output.message)) == output.message
            elif isinstance(output, CloseConnection):
                self.connections = [
                    None if number == output.connection else number for number in self.connections
                ]
        return outputs


STEPS = st.lists(
    st.tuples(st.integers(0, 2), FROM_CLIENT | st.sampled_from(["reconnect", "leave", 1.0, 30.0])),
    min_size=30,
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS)
def test_no_order_of_messages_brings_the_server_down(steps: list[tuple[int, Any]]) -> None:
    served = Served()
    for person, step in steps:
        number = served.connections[person]
        if step == "reconnect":
            served.connect(person)
        elif isinstance(step, float):
            served.now += step
            served.server.handle_timeout(served.now)
        elif number is not None and step == "leave":
            served.server.disconnected(number, served.now)
            served.connections[person] = None
        elif number is not None:
            served.server.received(number, encode(step), served.now)
        served.drain()
    for person, number in enumerate(served.connections):
        if number is not None:
            served.server.disconnected(number, served.now)
            served.connections[person] = None
    for _ in range(1000):
        if (at := served.server.next_timeout()) is None:
            break
        served.server.handle_timeout(at)
        served.drain()
    assert served.server.next_timeout() is None
    assert (served.server.session_count, served.server.call_count) == (0, 0)


def commands(client: RendezvousClient, connection: int, now: float) -> dict[str, Any]:
    return {
        "call": lambda i: client.call(bytes([i + 100]) * 16, "bob", PIN, b"offer", now),
        "ringing": lambda i: client.ringing(bytes([i]) * 16, now),
        "answer": lambda i: client.answer(bytes([i]) * 16, b"answer", now),
        "decline": lambda i: client.decline(bytes([i]) * 16, "busy", now),
        "cancel": lambda i: client.cancel(bytes([i + 100]) * 16, "cancelled", now),
        "hang_up": lambda i: client.hang_up(bytes([i]) * 16, "hung-up", now),
        "trickle": lambda i: client.trickle(bytes([i]) * 16, b"sealed", now),
        "early": lambda i: client.early(bytes([i]) * 16, (b"x",) * 20, now),
        "look_up": lambda i: client.look_up(NAMES[i], now),
        "watch": lambda i: client.watch(NAMES[:i], now),
        "unwatch": lambda i: client.unwatch(NAMES[i:], now),
        "network_changed": lambda i: client.network_changed(now),
        "stop": lambda i: client.stop(now),
        "start": lambda i: client.start(now),
        "timeout": lambda i: client.handle_timeout(now),
        "disconnected": lambda i: client.disconnected(connection, "lost", now),
    }


COMMANDS = sorted(commands(None, 0, 0.0))  # type: ignore[arg-type]


@settings(max_examples=200)
@given(
    st.lists(
        FROM_SERVER
        | st.binary(max_size=20)
        | st.tuples(st.sampled_from(COMMANDS), st.integers(0, 2)),
        max_size=80,
    )
)
def test_no_order_of_messages_brings_the_client_down(steps: list[Any]) -> None:
    client = RendezvousClient(
        identity=IDENTITIES[0],
        name="alice",
        device_id=bytes(16),
        random=random.Random(1).randbytes,
    )
    now, made, current = 0.0, set(), 0

    def drain() -> None:
        nonlocal current
        for output in client.outputs():
            match output:
                case Connect(connection):
                    current = connection
                    client.connected(connection, PIN, now)
                case SendSignal(connection, data):
                    assert connection == current
                    decode_from_client(data)
                case Disconnect(connection, _):
                    assert connection == current

    client.start(now)
    drain()
    registered = m.Registered("session-id", "somewhere")
    client.received(current, encode(registered), now)
    for step in steps:
        now += 1.0
        if isinstance(step, tuple):
            command, argument = step
            if command == "call" and argument in made:
                continue
            made |= {argument} if command == "call" else set()
            commands(client, current, now)[command](argument)
        else:
            data = step if isinstance(step, bytes) else encode(step)
            client.received(current, data, now)
        drain()
    client.stop(now)
    drain()
    for _ in range(1000):
        if (at := client.next_timeout()) is None:
            break
        client.handle_timeout(at)
        drain()
    assert client.next_timeout() is None
