"""A server that lies: what each end notices, and what only the words show."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from knothole.engine.rendezvous.events import (
    CallAnswered,
    CallDeclined,
    IncomingCall,
    PeerFound,
    PeerNotFound,
    TrickleReceived,
)
from knothole.engine.secure.call_seal import CalleeSeal, CallerSeal
from knothole.engine.secure.identity import Identity, PeerKeys
from knothole.engine.secure.pins import KnownPeers, Verdict
from knothole.engine.secure.replay import SeenCalls
from knothole.engine.secure.seal import SealFault, SealRefused
from knothole.engine.secure.words import comparison_words, opens_commitment
from knothole.wire.signal import messages as m

ID = b"call-id-16-bytes"
HOST = "candidate:1 1 udp 2130706431 10.0.0.2 5000 typ host"
SERVER = "example.org:3478"


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


MALLORY = Identity.generate(seeded(666))
"""The identity that the lying server has made for itself."""


class Person:
    """What a peer does with the rendezvous client and the seals, without ICE and QUIC."""

    def __init__(self, device: Any, seed: int) -> None:
        self.device = device
        self.random = seeded(seed)
        self.pins = KnownPeers()
        self.seen = SeenCalls()
        self.seal: Any = None
        self.faults: list[SealFault] = []

    def find(self, name: str) -> PeerKeys | None:
        self.device.say("look_up", name)
        self.device.world.run(0.1)
        found = [event.keys for event in self.device.of(PeerFound) if event.keys.name == name]
        return found[-1] if found else None

    def call(self, keys: PeerKeys, call_id: bytes = ID) -> None:
        self.seal = CallerSeal(
            identity=self.device.identity,
            name=self.device.name,
            peer=keys,
            call_id=call_id,
            random=self.random,
        )
        offer = self.seal.seal_offer(kind="call", candidates=(HOST,))
        self.device.say("call", call_id, keys.name, keys.sealing_key, offer)
        self.device.world.run(0.1)

    def take(self) -> CalleeSeal | None:
        """Open what has come in last; decline it when it cannot be what it says."""
        incoming = self.device.last(IncomingCall)
        try:
            self.seal = CalleeSeal(
                incoming.offer,
                identity=self.device.identity,
                name=self.device.name,
                device_id=self.device.device_id,
                call_id=incoming.call_id,
                from_name=incoming.from_name,
                from_key=incoming.from_key,
                seen=self.seen,
                random=self.random,
            )
        except SealRefused as refused:
            self.faults.append(refused.fault)
            self.device.say("decline", incoming.call_id, "cannot-open")
            self.device.world.run(0.1)
            return None
        return self.seal

    def answer(self) -> None:
        self.device.say("answer", self.seal.call_id, self.seal.seal_answer(candidates=(HOST,)))
        self.device.world.run(0.1)

    def opened_answer(self) -> Any:
        answered = self.device.last(CallAnswered)
        return self.seal.open_answer(answered.device_id, answered.answer)


@pytest.fixture
def pair(world: Any) -> tuple[Person, Person]:
    alice, bob = world.join("alice", "bob")
    return Person(alice, 1), Person(bob, 2)


def lie(world: Any, kind: type, change: Callable[[Any], Any], to: Person | None = None) -> None:
    """Change every message of a kind on its way to a person."""

    def tamper(device: Any, message: Any) -> list[Any]:
        if isinstance(message, kind) and (to is None or device is to.device):
            message = change(message)
        return message if isinstance(message, list) else [message]

    world.tamper = tamper


def replacing(**fields: Any) -> Callable[[Any], Any]:
    return lambda message: msgspec.structs.replace(message, **fields)


def refused(fault: SealFault) -> pytest.RaisesExc[SealRefused]:
    return pytest.RaisesExc(SealRefused, check=lambda error: error.fault is fault)


def test_with_an_honest_server_both_read_the_same_words(pair: tuple[Person, Person]) -> None:
    alice, bob = pair
    keys = alice.find("bob")
    assert keys is not None
    alice.call(keys)
    assert bob.take() is not None
    bob.answer()
    answer = alice.opened_answer()
    # Inside QUIC: the caller reveals its nonce, and both ends have each other's key from TLS.
    assert opens_commitment(bob.seal.offer.words_commitment, alice.seal.words_nonce)
    both = alice.device.identity.public_key, bob.device.identity.public_key
    at_alice = comparison_words(*both, alice.seal.words_nonce, answer.words_nonce)
    at_bob = comparison_words(*both, alice.seal.words_nonce, bob.seal.words_nonce)
    assert at_alice == at_bob and len(at_alice) == 4


def test_a_swapped_sealing_key_is_noticed_at_once(pair: tuple[Person, Person]) -> None:
    alice, _ = pair
    lie(alice.device.world, m.Found, replacing(sealing_key=MALLORY.sealing_key))
    assert alice.find("bob") is None
    assert "do not belong together" in alice.device.last(PeerNotFound).text


def test_swapped_keys_of_a_known_peer_are_refused_before_anything_is_sealed(
    pair: tuple[Person, Person],
) -> None:
    alice, bob = pair
    alice.pins.remember(SERVER, "bob", bob.device.identity.public_key, 0)
    lie(alice.device.world, m.Found, as_mallory)
    keys = alice.find("bob")
    assert keys is not None
    assert alice.pins.check(SERVER, "bob", keys.public_key) is Verdict.CHANGED


def as_mallory(found: m.Found) -> m.Found:
    return msgspec.structs.replace(
        found,
        public_key=MALLORY.public_key,
        sealing_key=MALLORY.sealing_key,
        sealing_signature=MALLORY.sealing_signature,
    )


def test_an_offer_sealed_to_a_swapped_key_says_nothing_to_the_real_callee(
    pair: tuple[Person, Person],
) -> None:
    alice, bob = pair
    lie(alice.device.world, m.Found, as_mallory)
    keys = alice.find("bob")
    assert keys is not None
    # The server lets the call pass, although the key it is sealed to is not the one on file.
    alice.seal = CallerSeal(
        identity=alice.device.identity,
        name="alice",
        peer=keys,
        call_id=ID,
        random=alice.random,
    )
    offer = alice.seal.seal_offer(kind="call")
    alice.device.say("call", ID, "bob", bob.device.identity.sealing_key, offer)
    alice.device.world.run(0.1)
    assert bob.take() is None and bob.faults == [SealFault.CANNOT_OPEN]
    assert alice.device.last(CallDeclined).reason == "cannot-open"


def called(pair: tuple[Person, Person]) -> tuple[Person, Person]:
    alice, bob = pair
    keys = alice.find("bob")
    assert keys is not None
    alice.call(keys)
    return alice, bob


@pytest.mark.parametrize("where", [0, 40, 200, -1])
def test_an_altered_offer_is_refused(pair: tuple[Person, Person], where: int) -> None:
    def flip(incoming: m.Incoming) -> m.Incoming:
        offer = bytearray(incoming.offer)
        offer[where] ^= 1
        return msgspec.structs.replace(incoming, offer=bytes(offer))

    lie(pair[0].device.world, m.Incoming, flip)
    _, bob = called(pair)
    assert bob.take() is None and bob.faults == [SealFault.CANNOT_OPEN]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"from_name": "carol"}, SealFault.WRONG_SENDER),
        ({"from_key": MALLORY.public_key}, SealFault.WRONG_SENDER),
        ({"call_id": b"another call id."}, SealFault.CANNOT_OPEN),
    ],
)
def test_an_offer_under_a_false_name_key_or_id_is_refused(
    pair: tuple[Person, Person], change: dict[str, Any], fault: SealFault
) -> None:
    lie(pair[0].device.world, m.Incoming, replacing(**change))
    _, bob = called(pair)
    assert bob.take() is None and bob.faults == [fault]


def test_a_call_redirected_to_somebody_else_is_refused_there(
    pair: tuple[Person, Person],
) -> None:
    world = pair[0].device.world
    (carol_device,) = world.join("carol")
    carol = Person(carol_device, 3)
    caught: list[m.Incoming] = []
    lie(world, m.Incoming, lambda incoming: caught.append(incoming) or [])
    called(pair)
    world.tamper = None
    world.inject(carol_device, caught[0])
    assert carol.take() is None and carol.faults == [SealFault.CANNOT_OPEN]


def test_a_call_to_bob_that_was_sealed_to_carols_key_is_refused_by_carol(
    pair: tuple[Person, Person],
) -> None:
    alice, _ = pair
    world = alice.device.world
    (carol_device,) = world.join("carol")
    carol = Person(carol_device, 3)
    keys = carol_device.identity.keys("bob")  # the lie: these are carol's, not bob's
    caught: list[m.Incoming] = []
    seal = CallerSeal(
        identity=alice.device.identity, name="alice", peer=keys, call_id=ID, random=alice.random
    )
    caught.append(
        m.Incoming(
            ID,
            "alice",
            alice.device.identity.public_key,
            alice.device.device_id,
            seal.seal_offer(kind="call"),
        )
    )
    world.inject(carol_device, caught[0])
    assert carol.take() is None and carol.faults == [SealFault.WRONG_RECIPIENT]


def test_a_replayed_offer_does_not_ring_twice(pair: tuple[Person, Person]) -> None:
    alice, bob = called(pair)
    world = alice.device.world
    (incoming,) = [each for each in bob.device.received if isinstance(each, m.Incoming)]
    assert bob.take() is not None
    alice.device.say("cancel", ID, "cancelled")
    world.run(0.1)
    world.inject(bob.device, incoming)
    assert len(bob.device.of(IncomingCall)) == 1


def test_a_replay_under_another_id_or_from_another_program_is_refused(
    pair: tuple[Person, Person],
) -> None:
    alice, bob = called(pair)
    world = alice.device.world
    (incoming,) = [each for each in bob.device.received if isinstance(each, m.Incoming)]
    assert bob.take() is not None
    world.inject(bob.device, msgspec.structs.replace(incoming, call_id=b"a fresh call id."))
    assert bob.take() is None and bob.faults == [SealFault.CANNOT_OPEN]
    # The seals remember too, should a second rendezvous client of the process hear of it.
    (other,) = world.join("bob")
    world.inject(other, incoming)
    bob.device = other
    assert bob.take() is None and bob.faults[-1] is SealFault.REPLAYED


def test_a_replay_after_a_restart_rings_and_that_is_all(pair: tuple[Person, Person]) -> None:
    alice, bob = called(pair)
    world = alice.device.world
    (incoming,) = [each for each in bob.device.received if isinstance(each, m.Incoming)]
    alice.device.say("cancel", ID, "cancelled")
    alice.seal = None  # the caller's keys for this call are gone with the call
    (again,) = world.join("bob")
    restarted = Person(again, 9)
    world.inject(again, incoming)
    assert restarted.take() is not None
    answer = restarted.seal.seal_answer(candidates=(HOST,))
    # Nobody has the reply key any more: not the server, and not alice with her long-term keys.
    for identity in (MALLORY, alice.device.identity):
        from knothole.engine.secure.seal import open_statement
        from knothole.wire.signal.content import ContentKind

        with refused(SealFault.CANNOT_OPEN):
            open_statement(
                answer,
                identity.sealing_private_key,
                kind=ContentKind.ANSWER,
                call_id=ID,
                from_name="bob",
                from_key=again.identity.public_key,
                to_name="alice",
                to_key=alice.device.identity.public_key,
                device_id=again.device_id,
                about=None,
            )


def test_a_changed_or_foreign_answer_is_refused(pair: tuple[Person, Person]) -> None:
    def flip(answered: m.Answered) -> m.Answered:
        last = answered.answer[-1] ^ 1
        return msgspec.structs.replace(answered, answer=answered.answer[:-1] + bytes([last]))

    lie(pair[0].device.world, m.Answered, flip)
    alice, bob = called(pair)
    bob.take()
    bob.answer()
    with refused(SealFault.CANNOT_OPEN):
        alice.opened_answer()


def test_an_answer_said_to_be_of_another_device_is_refused(pair: tuple[Person, Person]) -> None:
    lie(pair[0].device.world, m.Answered, replacing(device_id=b"x" * 16))
    alice, bob = called(pair)
    bob.take()
    bob.answer()
    with refused(SealFault.WRONG_SENDER):
        alice.opened_answer()


def test_answers_of_two_calls_cannot_be_exchanged(pair: tuple[Person, Person]) -> None:
    alice, bob = called(pair)
    bob.take()
    bob.answer()
    first_seal, first_answer = alice.seal, alice.device.last(CallAnswered)
    keys = alice.find("bob")
    assert keys is not None
    alice.call(keys, b"the second call.")
    bob.take()
    bob.answer()
    with refused(SealFault.CANNOT_OPEN):
        alice.seal.open_answer(first_answer.device_id, first_answer.answer)
    first_seal.open_answer(first_answer.device_id, first_answer.answer)


def test_candidates_that_the_server_makes_up_are_refused(pair: tuple[Person, Person]) -> None:
    alice, bob = called(pair)
    assert bob.take() is not None
    world = alice.device.world
    forger = CallerSeal(
        identity=MALLORY,
        name="alice",
        peer=bob.device.identity.keys("bob"),
        call_id=ID,
        random=seeded(5),
    )
    forger.seal_offer(kind="call")
    world.inject(bob.device, m.Trickle(ID, forger.seal_trickle((HOST,)), alice.device.device_id))
    with refused(SealFault.WRONG_CALL):
        bob.seal.open_trickle(bob.device.last(TrickleReceived).sealed)


def test_candidates_that_come_again_are_refused(pair: tuple[Person, Person]) -> None:
    alice, bob = called(pair)
    assert bob.take() is not None
    lie(alice.device.world, m.Trickle, lambda trickle: [trickle, trickle])
    alice.device.say("trickle", ID, alice.seal.seal_trickle((HOST,)))
    alice.device.world.run(0.1)
    first, again = bob.device.of(TrickleReceived)
    assert bob.seal.open_trickle(first.sealed).candidates == (HOST,)
    with refused(SealFault.REPLAYED):
        bob.seal.open_trickle(again.sealed)


def test_what_the_server_says_twice_is_told_once(pair: tuple[Person, Person]) -> None:
    lie(pair[0].device.world, m.ServerMessage, lambda message: [message, message])
    alice, bob = called(pair)
    bob.take()
    bob.answer()
    assert len(bob.device.of(IncomingCall)) == 1
    assert len(alice.device.of(CallAnswered)) == 1


def test_the_words_cannot_be_left_out_or_replaced(pair: tuple[Person, Person]) -> None:
    alice, bob = called(pair)
    assert bob.take() is not None
    # The commitment stands inside the signed and sealed offer, so the server can only try to
    # reveal another nonce for it.
    assert not opens_commitment(bob.seal.offer.words_commitment, seeded(7)(32))
    assert not opens_commitment(bob.seal.offer.words_commitment, b"")
    assert opens_commitment(bob.seal.offer.words_commitment, alice.seal.words_nonce)


@pytest.mark.parametrize("seed", range(20))
def test_swapping_both_keys_at_first_contact_is_shown_by_the_words(
    make_world: Any, seed: int
) -> None:
    """The one lie that trust on first use cannot see: the server is bob to alice and alice to bob,
    with keys of its own, and opens and seals everything anew in between."""
    world = make_world()
    alice_device, bob_device = world.join("alice", "bob")
    alice, bob = Person(alice_device, 100 + seed), Person(bob_device, 200 + seed)
    as_bob = CalleeSeal
    lie(world, m.Found, as_mallory)
    keys = alice.find("bob")
    assert keys is not None and alice.pins.check(SERVER, "bob", keys.public_key) is Verdict.NEW

    seal = CallerSeal(
        identity=alice_device.identity, name="alice", peer=keys, call_id=ID, random=alice.random
    )
    towards_alice = as_bob(
        seal.seal_offer(kind="call"),
        identity=MALLORY,
        name="bob",
        device_id=b"mallory's device",
        call_id=ID,
        from_name="alice",
        from_key=alice_device.identity.public_key,
        seen=SeenCalls(),
        random=seeded(300 + seed),
    )
    towards_bob = CallerSeal(
        identity=MALLORY,
        name="alice",
        peer=bob_device.identity.keys("bob"),
        call_id=ID,
        random=seeded(400 + seed),
    )
    offer = towards_bob.seal_offer(kind="call")
    world.inject(bob_device, m.Incoming(ID, "alice", MALLORY.public_key, b"d" * 16, offer))
    assert bob.take() is not None  # nothing is wrong with it, as far as bob can know
    from_bob = towards_bob.open_answer(bob_device.device_id, bob.seal.seal_answer())
    from_mallory = seal.open_answer(b"mallory's device", towards_alice.seal_answer())

    at_alice = comparison_words(
        alice_device.identity.public_key,
        MALLORY.public_key,
        seal.words_nonce,
        from_mallory.words_nonce,
    )
    at_bob = comparison_words(
        MALLORY.public_key,
        bob_device.identity.public_key,
        towards_bob.words_nonce,
        from_bob.words_nonce,
    )
    assert at_alice != at_bob
