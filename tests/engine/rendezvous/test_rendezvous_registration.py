from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.rendezvous.accounts import (
    AccountsUnavailable,
    Creation,
    MemoryAccounts,
)
from knothole.engine.rendezvous.directory import Directory
from knothole.engine.rendezvous.events import (
    CallNotMade,
    RegistrationRefused,
    RegistrationSucceeded,
    ServicesChanged,
    SignallingProblem,
)
from knothole.engine.rendezvous.limits import Limits, Rate
from knothole.engine.rendezvous.outputs import (
    CloseConnection,
    ConnectionId,
    SendTo,
    SessionClosed,
    SessionOpened,
)
from knothole.engine.rendezvous.registrar import Registrar
from knothole.engine.rendezvous.registration import is_signed, make_register
from knothole.engine.rendezvous.server import RendezvousServer
from knothole.engine.secure.identity import Identity
from knothole.wire.address import Address
from knothole.wire.signal import messages as m
from knothole.wire.signal.codec import encode, encode_json
from knothole.wire.signal.values import ANYONE, NOBODY, TurnService

PIN, OTHER_PIN = b"p" * 32, b"q" * 32
NONCE = b"n" * 32
DEVICE = b"d" * 16


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


BOB, MALLORY = Identity.generate(seeded(1)), Identity.generate(seeded(2))


def signed(**changes: Any) -> m.Register:
    arguments = {
        "identity": BOB,
        "name": "bob",
        "device_id": DEVICE,
        "nonce": NONCE,
        "server_pin": PIN,
    }
    return make_register(**(arguments | changes))


class Client:
    """One raw connection to a server engine, to say what a proper client never says."""

    def __init__(self, server: RendezvousServer, number: int = 1, host: str = "192.0.2.1") -> None:
        self.server, self.number = server, ConnectionId(number)
        self.messages: list[Any] = []
        self.closed = False
        server.connected(self.number, Address(host, 5000), 0.0)
        self.drain()
        self.nonce = self.messages[0].nonce

    def drain(self) -> None:
        for output in self.server.outputs():
            match output:
                case SendTo(self.number, message):
                    self.messages.append(message)
                case CloseConnection(self.number, _):
                    self.closed = True
                case _:
                    pass

    def say(self, data: Any, now: float = 0.0) -> Any:
        """The last thing the server says to this."""
        raw = data if isinstance(data, bytes | str) else encode(data)
        self.server.received(self.number, raw, now)
        self.drain()
        return self.messages[-1]

    def register(self, **changes: Any) -> Any:
        return self.say(signed(**({"nonce": self.nonce} | changes)))


def server(**options: Any) -> RendezvousServer:
    arguments = {
        "accounts": MemoryAccounts(),
        "server_pins": [PIN],
        "services": lambda session_id, name: m.Services(),
        "random": seeded(3),
    }
    return RendezvousServer(**(arguments | options))


def test_a_registration_is_good_for_one_challenge_one_server_and_what_it_says() -> None:
    register = signed()
    assert is_signed(register, NONCE, [OTHER_PIN, PIN])
    assert not is_signed(register, b"m" * 32, [PIN])
    assert not is_signed(register, NONCE, [OTHER_PIN])
    assert not is_signed(register, NONCE, [])
    for change in (
        {"name": "rob"},
        {"device_id": b"e" * 16},
        {"public_key": MALLORY.public_key},
        {"sealing_key": MALLORY.sealing_key},
        {"sealing_signature": MALLORY.sealing_signature},
        {
            "sealing_key": MALLORY.sealing_key,
            "sealing_signature": BOB.sign(b"knothole/1 sealing key", MALLORY.sealing_key),
        },
        {"signature": bytes(64)},
    ):
        assert not is_signed(msgspec.structs.replace(register, **change), NONCE, [PIN])


@given(name=st.text("abcdefgh", min_size=1, max_size=64), other=st.binary(max_size=40))
def test_what_is_signed_is_different_for_every_registration(name: str, other: bytes) -> None:
    register = signed(name=name)
    assert is_signed(register, NONCE, [PIN])
    assert not is_signed(msgspec.structs.replace(register, name=name + "x"), NONCE, [PIN])
    shorter = msgspec.structs.replace(register, name=name[1:])
    assert not is_signed(shorter, NONCE, [PIN])


def test_a_registration_replayed_on_another_connection_is_refused() -> None:
    engine = server()
    first = Client(engine, 1)
    register = signed(nonce=first.nonce)
    assert isinstance(first.say(register), m.Registered)
    second = Client(engine, 2)
    assert second.nonce != first.nonce
    refused = second.say(register)
    assert refused.code == "bad-signature" and second.closed
    assert engine.session_count == 1


def test_a_registration_meant_for_another_server_is_refused() -> None:
    # Mallory's server passed on our challenge, and the client signed for Mallory's key.
    client = Client(server())
    assert client.register(server_pin=OTHER_PIN).code == "bad-signature"


def test_after_a_change_of_certificate_clients_sign_for_the_new_key() -> None:
    engine = server()
    engine.set_server_pins([OTHER_PIN])
    assert Client(engine, 1).register().code == "bad-signature"
    assert isinstance(Client(engine, 2).register(server_pin=OTHER_PIN), m.Registered)


def test_a_registration_in_json_is_the_same() -> None:
    client = Client(server())
    assert isinstance(client.say(encode_json(signed(nonce=client.nonce))), m.Registered)


def test_a_name_never_changes_hands() -> None:
    engine = server()
    assert isinstance(Client(engine, 1).register(), m.Registered)
    thief = Client(engine, 2)
    refused = thief.register(identity=MALLORY, device_id=b"e" * 16)
    assert refused.code == "name-taken" and thief.closed
    assert "copy the profile" in refused.text and "another name" in refused.text
    assert thief.say(m.Ping()) is refused  # nothing comes after the refusal
    shouting = Client(engine, 3).register(identity=MALLORY, name="BOB")
    assert shouting.code == "name-taken"
    assert isinstance(Client(engine, 4).register(device_id=b"e" * 16), m.Registered)


@pytest.mark.parametrize(
    "name", ["", "-bob", "b\u00f6b", "bob smith", "x" * 65, "\u212aate", "a\n"]
)
def test_names_outside_the_grammar_are_refused_in_words(name: str) -> None:
    client = Client(server())
    refused = client.say(msgspec.structs.replace(signed(nonce=client.nonce), name=name))
    assert refused.code == "bad-name" and client.closed and len(refused.text) > 10


def test_a_client_of_a_later_version_is_told_that_the_server_is_old() -> None:
    client = Client(server())
    refused = client.say(msgspec.structs.replace(signed(nonce=client.nonce), version=2))
    assert refused.code == "version" and "the server needs an update" in refused.text
    later = Client(server())
    refused = later.say(msgspec.json.encode({"t": "reg", "version": 9, "you": "me"}).decode())
    assert refused.code == "version" and later.closed


def test_a_client_of_an_earlier_version_is_told_to_update() -> None:
    client = Client(server())
    refused = client.say(msgspec.msgpack.encode({"t": "reg", "version": 0}))
    assert refused.code == "version" and "your program needs an update" in refused.text


def test_a_server_of_a_later_version_stops_the_client_with_a_clear_text(world: Any) -> None:
    world.tamper = lambda device, message: (
        [m.Challenge((7, 8), message.nonce)] if isinstance(message, m.Challenge) else [message]
    )
    device = world.add("bob")
    world.run(30)
    (refused,) = device.of(RegistrationRefused)
    assert refused.final and refused.code == "version"
    assert "version 8" in refused.text and "version 1" in refused.text


def test_new_names_need_an_invitation_where_the_operator_says_so() -> None:
    engine = server(accounts=MemoryAccounts(frozenset({"golden-ticket"})), invitations_needed=True)
    assert Client(engine, 1).register().code == "invitation-needed"
    assert Client(engine, 2).register(invitation="wrong").code == "bad-invitation"
    assert isinstance(Client(engine, 3).register(invitation="golden-ticket"), m.Registered)
    used = Client(engine, 4).register(identity=MALLORY, name="mallory", invitation="golden-ticket")
    assert used.code == "bad-invitation"
    assert isinstance(Client(engine, 5).register(device_id=b"e" * 16), m.Registered)


def test_the_operator_may_ask_for_invitations_from_now_on() -> None:
    engine = server(accounts=MemoryAccounts(frozenset({"golden-ticket"})))
    assert isinstance(Client(engine, 1).register(), m.Registered)
    engine.set_invitations_needed(True)
    refused = Client(engine, 2).register(identity=MALLORY, name="mallory")
    assert refused.code == "invitation-needed"
    engine.set_invitations_needed(False)
    admitted = Client(engine, 3).register(identity=MALLORY, name="mallory")
    assert isinstance(admitted, m.Registered)


def test_an_invitation_is_not_used_up_where_none_is_needed() -> None:
    accounts = MemoryAccounts(frozenset({"golden-ticket"}))
    assert isinstance(
        Client(server(accounts=accounts)).register(invitation="golden-ticket"), m.Registered
    )
    strict = server(accounts=accounts, invitations_needed=True)
    client = Client(strict, 2)
    assert isinstance(
        client.register(identity=MALLORY, name="mallory", invitation="golden-ticket"),
        m.Registered,
    )


@pytest.mark.parametrize(
    ("first", "second", "counted_together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_one_host_makes_so_many_names_an_hour(
    first: str, second: str, counted_together: bool
) -> None:
    engine = server(limits=Limits(new_names=Rate(1, 1 / 3600)))
    assert isinstance(Client(engine, 1, first).register(), m.Registered)
    answer = Client(engine, 2, second).register(identity=MALLORY, name="mallory")
    assert (getattr(answer, "code", None) == "too-many-names") is counted_together
    assert isinstance(Client(engine, 3, first).register(device_id=b"e" * 16), m.Registered)


def test_hosts_that_limit_nobody_any_more_are_forgotten() -> None:
    """There are more than 10,000 such hosts; a new name still counts as before."""

    class Full(MemoryAccounts):
        def create(self, account: Any, invitation: str | None) -> Creation:
            return Creation.BAD_INVITATION

    accounts = Full()
    registrar = Registrar(
        accounts=accounts,
        directory=Directory(accounts, deque()),
        server_pins=[PIN],
        invitations_needed=False,
        limits=Limits(new_names=Rate(1, 1.0)),
    )
    register = signed()
    for number in range(10_050):
        host = Address(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 1)
        refused = registrar.admit(register, NONCE, host, now=number * 0.001)
        assert isinstance(refused, m.Refused) and refused.code == "bad-invitation"
    for now, code in ((10.05, "bad-invitation"), (10.05, "too-many-names")):
        assert registrar.admit(register, NONCE, Address("10.0.0.0", 1), now).code == code


def test_a_name_taken_in_the_same_moment_is_taken() -> None:
    class Race(MemoryAccounts):
        def create(self, account: Any, invitation: str | None) -> Creation:
            return Creation.NAME_TAKEN

    assert Client(server(accounts=Race())).register().code == "name-taken"


def test_a_nonce_pin_or_device_id_of_another_size_is_the_programmers_mistake() -> None:
    for change in ({"nonce": b"n"}, {"server_pin": b"p"}, {"device_id": b"d"}):
        with pytest.raises(ValueError, match="32 bytes"):
            signed(**change)


def test_a_server_that_accepts_and_then_says_nothing_is_given_up_after_5_seconds(
    world: Any,
) -> None:
    world.tamper = lambda device, message: []
    bob = world.add("bob")
    world.run(5.0)
    assert not bob.engine.is_registered
    world.tamper = None
    world.run(1.0)
    assert bob.engine.is_registered


def test_what_a_server_says_before_registration_is_not_believed(world: Any) -> None:
    world.tamper = lambda device, message: [
        m.Presence("alice", True),
        m.Incoming(b"c" * 16, "alice", b"k" * 32, b"d" * 16, b"offer"),
        m.Problem("rate", "slowly"),
        message,
    ]
    bob = world.add("bob")
    world.run(0.035)
    assert [type(event) for event in bob.events] == [SignallingProblem]


def test_a_person_has_so_many_devices_and_the_server_so_many_sessions() -> None:
    engine = server(limits=Limits(devices_per_name=2, sessions=3))
    devices = [bytes([n]) * 16 for n in range(3)]
    for number, device in enumerate(devices[:2], 1):
        assert isinstance(Client(engine, number).register(device_id=device), m.Registered)
    assert Client(engine, 3).register(device_id=devices[2]).code == "too-many-devices"
    assert isinstance(Client(engine, 4).register(device_id=devices[0]), m.Registered)
    assert isinstance(Client(engine, 5).register(identity=MALLORY, name="m"), m.Registered)
    assert Client(engine, 6).register(identity=MALLORY, name="n").code == "server-full"


def test_a_full_server_is_tried_again_and_a_taken_name_is_not(make_world: Any) -> None:
    world = make_world(limits=Limits(sessions=1))
    (alice,) = world.join("alice")
    bob = world.add("bob")
    thief = world.add("alice", "thief", identity=MALLORY)
    world.run(1)
    assert not bob.last(RegistrationRefused).final and thief.last(RegistrationRefused).final
    alice.say("stop")
    world.run(5)
    assert bob.engine.is_registered
    assert len(thief.of(RegistrationRefused)) == 1 and thief.engine.next_timeout() is None


class BrokenAccounts(MemoryAccounts):
    broken = False

    def get(self, name: str) -> Any:
        if self.broken:
            raise AccountsUnavailable("disk full")
        return super().get(name)

    def create(self, account: Any, invitation: str | None) -> Creation:
        if self.broken:
            raise AccountsUnavailable("disk full")
        return super().create(account, invitation)


def test_a_server_whose_disk_is_full_says_so_and_goes_on(make_world: Any) -> None:
    accounts = BrokenAccounts()
    world = make_world(accounts=accounts)
    alice, bob = world.join("alice", "bob")
    accounts.broken = True
    carol = world.add("carol")
    alice.say("look_up", "bob")
    alice.say("call", b"c" * 16, "bob", bob.identity.sealing_key, b"offer")
    world.run(0.2)
    assert carol.last(RegistrationRefused).code == "server-trouble"
    assert alice.last(SignallingProblem).code == "server-trouble"
    assert alice.last(CallNotMade).code == "server-trouble"
    accounts.broken = False
    world.run(5)
    assert carol.engine.is_registered


def test_nothing_but_pings_is_taken_before_registration() -> None:
    client = Client(server())
    assert client.say(m.Ping(7)) == m.Pong(7)
    for message in (m.Lookup("bob"), m.Update(callable=False), m.OnFile(())):
        assert client.say(message).code == "register-first"
    assert not client.closed


def test_a_connection_registers_once() -> None:
    client = Client(server())
    client.register()
    assert client.register(name="rob").code == "already-registered"
    assert not client.closed


def test_a_connection_that_does_not_register_is_closed() -> None:
    engine = server()
    client = Client(engine)
    assert engine.next_timeout() == 10.0
    engine.handle_timeout(10.0)
    client.drain()
    assert client.messages[-1].code == "timeout" and client.closed
    assert engine.next_timeout() is None


def test_malformed_messages_are_answered_and_too_many_close_the_connection() -> None:
    client = Client(server())
    client.register()
    for _ in range(19):
        problem = client.say(b"\xff\xfe")
        assert problem.code == "malformed" and not client.closed
    client.say("{")
    assert client.closed


def test_one_who_says_too_much_is_not_heard_and_in_the_end_cut_off() -> None:
    client = Client(server(limits=Limits(messages=Rate(10, 1), dropped_messages=50)))
    client.register()
    for _ in range(20):
        client.say(m.Ping())
    assert sum(isinstance(each, m.Pong) for each in client.messages) == 9
    assert sum(getattr(each, "code", "") == "rate" for each in client.messages) == 1
    assert isinstance(client.say(m.Ping(), now=5.0), m.Pong)
    for _ in range(60):
        client.say(m.Ping(), now=5.0)
    assert client.closed


def test_bytes_count_as_well_as_messages() -> None:
    client = Client(server(limits=Limits(message_bytes=Rate(5000, 1000))))
    client.register()
    client.say(m.Call(b"c" * 16, "nobody", b"k" * 32, bytes(4000)))
    assert client.say(m.Call(b"e" * 16, "nobody", b"k" * 32, bytes(4000))).code == "rate"


def test_lookups_are_limited_so_that_names_cannot_be_guessed_in_bulk() -> None:
    client = Client(server(limits=Limits(lookups=Rate(5, 1))))
    client.register()
    answers = [client.say(m.Lookup(f"name{n}")) for n in range(8)]
    assert [isinstance(each, m.NotFound) for each in answers[:5]] == [True] * 5
    assert all(not isinstance(each, m.NotFound) or each in answers[:5] for each in answers)


def test_candidates_that_are_none_are_not_put_on_file() -> None:
    client = Client(server())
    client.register()
    problem = client.say(m.OnFile(("not a candidate",)))
    assert problem.code == "malformed" and not client.closed


def test_sessions_are_told_as_they_open_and_close(world: Any) -> None:
    (bob,) = world.join("bob")
    session_id = bob.last(RegistrationSucceeded).session_id
    assert bob.last(RegistrationSucceeded).observed == f"192.0.2.1:{1000 + bob.number}"
    world.leave(bob)
    opened, closed = world.server_events
    assert isinstance(opened, SessionOpened) and opened.session_id == session_id
    assert closed == SessionClosed(session_id, "bob")


def test_turn_credentials_are_renewed_before_they_expire(make_world: Any) -> None:
    issued: list[str] = []

    def services(session_id: str, name: str) -> m.Services:
        issued.append(session_id)
        turn = TurnService(("turn:host",), f"user{len(issued)}", "pw", "realm", 600)
        return m.Services((turn,), ("stun:host",))

    world = make_world(services=services)
    (bob,) = world.join("bob")
    assert bob.last(RegistrationSucceeded).turn[0].username == "user1"
    assert bob.last(RegistrationSucceeded).stun == ("stun:host",)
    world.run(301)
    assert [event.turn[0].username for event in bob.of(ServicesChanged)] == ["user2"]
    world.run(900)
    assert len(bob.of(ServicesChanged)) == 4 and len(set(issued)) == 1


def test_everybody_is_told_when_the_servers_have_changed(make_world: Any) -> None:
    offered = [TurnService(("turn:host",), "user", "pw", "realm", 600)]
    world = make_world(services=lambda session_id, name: m.Services(tuple(offered)))
    bob, carol = world.join("bob", "carol")
    offered.clear()
    world.server.renew_services(world.now)
    world.drain_server()
    world.run(1)
    for device in (bob, carol):
        assert [event.turn for event in device.of(ServicesChanged)] == [()]


def test_credentials_without_a_lifetime_do_not_make_the_server_spin() -> None:
    turn = TurnService(("turn:host",), "user", "pw", "realm", 0)
    engine = server(services=lambda session_id, name: m.Services((turn,)))
    Client(engine).register()
    assert engine.next_timeout() is not None and engine.next_timeout() >= 1.0


def test_who_may_see_whom_outlives_the_session(make_world: Any) -> None:
    world = make_world()
    (bob,) = world.join("bob", visible_to=NOBODY)
    assert world.accounts.get("bob").visible_to == NOBODY
    bob.say("set_audience", visible_to=ANYONE)
    world.run(0.1)
    assert world.accounts.get("bob").visible_to == ANYONE
    world.kill_server()
    world.start_server()
    world.run(5)
    assert world.accounts.get("bob").visible_to == ANYONE


@given(st.lists(st.binary(max_size=80) | st.text(max_size=80), max_size=30))
def test_whatever_comes_in_the_server_lives(inputs: list[bytes | str]) -> None:
    engine = server()
    strange = Client(engine, 1)
    for data in inputs:
        strange.say(data)
    engine.disconnected(strange.number, 0.0)
    engine.received(strange.number, b"late", 0.0)
    engine.disconnected(strange.number, 0.0)
    assert isinstance(Client(engine, 2).register(), m.Registered)
