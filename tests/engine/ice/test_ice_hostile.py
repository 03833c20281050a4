"""What strangers and a malicious peer can and cannot do."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knothole.engine.core import Datagram
from knothole.engine.ice import BETWEEN_KNOTHOLES, STANDARD, ConsentLost, RemoteCandidateDiscovered
from knothole.wire.address import Address
from knothole.wire.stun import (
    ErrorCode,
    IceControlled,
    IceControlling,
    Message,
    MessageClass,
    Method,
    Priority,
    UnknownAttribute,
    UnknownAttributes,
    Username,
    XorMappedAddress,
    decode,
    encode,
    verify_integrity,
)

STRANGER = Address("192.0.2.66", 6666)


def request(node, other, *attributes, key=None, number=7, username=None, priority=True):
    body = (
        Username(username or f"{node.credentials.ufrag}:{other.credentials.ufrag}"),
        *((Priority(99),) if priority else ()),
        *attributes,
    )
    message = Message(MessageClass.REQUEST, Method.BINDING, number.to_bytes(12, "big"), body)
    return encode(message, key=node.credentials.key if key is None else key, fingerprint=True)


def state(node):
    """All that the outside can see of an agent."""
    agent = node.agent
    return (
        agent.valid_pairs,
        agent.best_pair,
        agent.selected_pair,
        agent.controlling,
        agent.next_timeout(),
        len(node.events),
    )


def answer_of(world, node, payload, source=STRANGER):
    sent = len(node.sent)
    world.inject(node, Datagram(source, node.bases[0], payload))
    new = node.sent[sent:]
    return [decode(d.payload) for _, d in new if d.destination == source]


def connected(lab, options=BETWEEN_KNOTHOLES):
    world, alice, bob = lab.on_one_lan(options=options)
    alice.learn(bob)
    bob.learn(alice)
    world.run(3)
    return world, alice, bob


def test_a_check_with_wrong_integrity_is_refused_and_changes_nothing(lab):
    world, alice, bob = connected(lab)
    before = state(alice)
    (reply,) = answer_of(world, alice, request(alice, bob, IceControlled(1), key=b"guess" * 5))
    assert reply.get(ErrorCode).code == 401
    assert not reply.has_integrity
    assert state(alice) == before
    assert not alice.agent.is_authenticated_remote(alice.bases[0], STRANGER)


def test_a_check_without_integrity_or_user_name_is_refused_and_changes_nothing(lab):
    world, alice, _bob = connected(lab)
    before = state(alice)
    bare = Message(
        MessageClass.REQUEST,
        Method.BINDING,
        bytes(12),
        (Username(f"{alice.credentials.ufrag}:x"), Priority(1)),
    )
    (reply,) = answer_of(world, alice, encode(bare, fingerprint=True))
    assert reply.get(ErrorCode).code == 400
    nameless = Message(MessageClass.REQUEST, Method.BINDING, bytes(12), (Priority(1),))
    assert answer_of(world, alice, encode(nameless, key=alice.credentials.key)) == []
    assert state(alice) == before


def test_unknown_required_attributes_are_named_in_a_420(lab):
    world, alice, bob = connected(lab)
    payload = request(alice, bob, IceControlled(1), UnknownAttribute(0x7777, b"abcd"))
    (reply,) = answer_of(world, alice, payload)
    assert reply.get(ErrorCode).code == 420
    assert reply.get(UnknownAttributes).types == (0x7777,)
    assert verify_integrity(reply, alice.credentials.key)


def test_a_check_without_priority_is_refused(lab):
    world, alice, bob = connected(lab)
    (reply,) = answer_of(world, alice, request(alice, bob, IceControlled(1), priority=False))
    assert reply.get(ErrorCode).code == 400


def test_a_check_for_another_fragment_is_not_ours(lab):
    world, alice, bob = connected(lab)
    payload = request(alice, bob, username=f"zzzz:{bob.credentials.ufrag}")
    datagram = Datagram(STRANGER, alice.bases[0], payload)
    assert not alice.agent.accepts(datagram)
    assert answer_of(world, alice, payload) == []
    ours = Datagram(STRANGER, alice.bases[0], request(alice, bob))
    assert alice.agent.accepts(ours)
    assert not alice.agent.accepts(Datagram(STRANGER, alice.bases[0], b"\x40 not stun"))


def test_checks_that_a_kernel_glued_together_are_all_answered(lab):
    """UDP_GRO makes one burst of datagrams of one size."""
    world, alice, bob = connected(lab)
    checks = [request(alice, bob, IceControlled(1), number=number) for number in (1, 2, 3)]
    burst = Datagram(STRANGER, alice.bases[0], b"".join(checks), len(checks[0]))
    assert alice.agent.accepts(burst)
    sent = len(alice.sent)
    world.inject(alice, burst)
    answered = [decode(d.payload) for _, d in alice.sent[sent:] if d.destination == STRANGER]
    numbers = [int.from_bytes(message.transaction_id, "big") for message in answered]
    assert numbers[:3] == [1, 2, 3]


def test_a_check_of_another_sender_is_answered_and_not_followed(lab):
    """Its fragment is not the peer's: we have no password to check back with."""
    world, alice, bob = connected(lab)
    payload = request(alice, bob, IceControlled(1), username=f"{alice.credentials.ufrag}:else")
    (reply,) = answer_of(world, alice, payload)
    assert reply.message_class is MessageClass.SUCCESS
    world.run(4)
    assert not alice.of(RemoteCandidateDiscovered)


def test_a_check_to_an_unknown_base_is_ignored(lab):
    world, alice, bob = connected(lab)
    sent = len(alice.sent)
    elsewhere = Datagram(STRANGER, Address("192.0.2.200", 1), request(alice, bob))
    world.inject(alice, elsewhere)
    assert len(alice.sent) == sent


@pytest.fixture
def waiting(lab):
    """Alice has one check out and nobody answers by himself."""
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    world.nodes.remove(bob)
    alice.learn(bob)
    return world, alice, bob, alice.sent[0][1]


def reply_to(sent, *attributes, key, message_class=MessageClass.SUCCESS, source=None, base=None):
    message = Message(
        message_class, Method.BINDING, decode(sent.payload).transaction_id, attributes
    )
    payload = encode(message, key=key, fingerprint=True)
    return Datagram(source or sent.destination, base or sent.source, payload)


def test_an_answer_with_wrong_integrity_changes_nothing_and_the_right_one_still_counts(waiting):
    world, alice, bob, sent = waiting
    mapped = XorMappedAddress(sent.source)
    for key in (None, b"guess" * 5, alice.credentials.key):
        world.inject(alice, reply_to(sent, mapped, key=key))
        refused = ErrorCode(400, "")
        forged = reply_to(sent, refused, key=key, message_class=MessageClass.ERROR)
        world.inject(alice, forged)
    assert alice.best is None and not alice.agent.failed
    world.inject(alice, reply_to(sent, mapped, key=bob.credentials.key))
    assert alice.best is not None


def test_an_answer_from_elsewhere_fails_the_pair(waiting):
    """RFC 8445 Section 7.2.5.2.1."""
    world, alice, bob, sent = waiting
    mapped = XorMappedAddress(sent.source)
    world.inject(alice, reply_to(sent, mapped, key=bob.credentials.key, source=STRANGER))
    assert alice.best is None
    world.run(20)
    assert len(alice.sent) == 1, "it is not repeated"


def test_an_answer_without_mapped_address_fails_the_pair(waiting):
    world, alice, bob, sent = waiting
    world.inject(alice, reply_to(sent, key=bob.credentials.key))
    assert alice.best is None


def test_an_answer_counts_once(waiting):
    world, alice, bob, sent = waiting
    reply = reply_to(sent, XorMappedAddress(sent.source), key=bob.credentials.key)
    assert alice.agent.accepts(reply)
    world.inject(alice, reply)
    assert not alice.agent.accepts(reply)


def test_a_peer_that_checks_from_everywhere_makes_a_bounded_number_of_pairs(lab):
    world, alice, bob = connected(lab)
    for number in range(3000):
        source = Address(f"192.0.{number % 200}.{number // 200}", 1000 + number)
        answer_of(world, alice, request(alice, bob, IceControlled(1), number=number), source)
    world.run(3.1)
    sent = len(alice.sent)
    world.run(30)
    targets = {d.destination for _, d in alice.sent[sent:]}
    assert len(targets) <= BETWEEN_KNOTHOLES.peer_reflexive_limit + 1
    assert len(alice.sent) - sent < 600
    assert alice.best.remote_address == bob.bases[0]


def test_a_flood_of_checks_on_one_pair_is_paced(lab):
    world, alice, bob = lab.on_one_lan()
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    world.nodes.remove(bob)
    for number in range(1000):
        world.run(number / 1000)
        answer_of(world, alice, request(alice, bob, IceControlled(1), number=number))
    checks = [d for _, d in alice.sent if decode(d.payload).message_class is MessageClass.REQUEST]
    assert len(checks) <= 1 / BETWEEN_KNOTHOLES.ta_seconds + 1


def test_a_new_mapping_is_found_even_after_many_others(lab):
    """The limit forgets the oldest peer-reflexive candidate that is of no use."""
    world, alice, bob = connected(lab)
    for number in range(100):
        source = Address("192.0.2.88", 1000 + number)
        answer_of(world, alice, request(alice, bob, IceControlled(1), number=number), source)
        world.run(world.now + 0.01)
    last = Address("192.0.2.88", 1099)
    assert last in {d.destination for _, d in alice.sent[-60:]}


def test_a_peer_that_tells_thousands_of_candidates_makes_at_most_a_hundred_pairs(lab):
    world, alice, bob = lab.on_one_lan(options=STANDARD)
    world.nodes.remove(bob)
    alice.host("192.0.2.3:5000", preference=2)
    alice.host("192.0.2.4:5000", preference=3)
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    for number in range(2000):
        told = lab.candidate("host", Address(f"192.0.2.{number % 250}", 9000 + number))
        alice.do(lambda agent, now, told=told: agent.add_remote_candidate(told, now))
    world.run(60)
    pairs = {(d.source, d.destination) for _, d in alice.sent}
    assert len(pairs) <= STANDARD.pair_limit


def test_candidates_nobody_should_be_sent_to_are_ignored(lab):
    world, alice, bob = lab.on_one_lan()
    alice.do(lambda agent, now: agent.set_remote_credentials(bob.credentials, now))
    for bad in ("0.0.0.0:1", "224.0.0.1:1", "255.255.255.255:1", "192.0.2.2:0", "[ff02::1]:1"):
        told = lab.candidate("host", lab.address(bad))
        alice.do(lambda agent, now, told=told: agent.add_remote_candidate(told, now))
    world.run(1)
    assert alice.sent == []


def test_a_peer_that_never_agrees_on_roles_is_given_up(lab):
    world, alice, bob = lab.on_one_lan()
    world.nodes.remove(bob)
    alice.learn(bob)
    answered = 0
    while answered < len(alice.sent) and answered < 2000:
        sent = alice.sent[answered][1]
        answered += 1
        conflict = ErrorCode(487, "")
        world.inject(
            alice,
            reply_to(sent, conflict, key=bob.credentials.key, message_class=MessageClass.ERROR),
        )
        world.run(world.now + 0.005)
    assert answered < 500


@given(payload=st.binary(max_size=200))
@settings(
    max_examples=300,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_bytes_move_the_agent(lab, payload):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob)
    before = state(alice)
    for source in (STRANGER, bob.bases[0]):
        datagram = Datagram(source, alice.bases[0], payload)
        alice.agent.accepts(datagram)
        world.inject(alice, datagram)
    assert state(alice) == before


@given(data=st.data())
@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_flipped_bit_in_any_message_does_no_harm(lab, data):
    """Both agents connect although every message first arrives with one bit wrong."""
    world, alice, bob = lab.on_one_lan()
    flip = data.draw(st.integers(0, 8 * 80))

    def damaged(datagram):
        raw = bytearray(datagram.payload)
        raw[flip // 8 % len(raw)] ^= 1 << flip % 8
        return Datagram(datagram.source, datagram.destination, bytes(raw))

    for node in (alice, bob):
        original = node.agent.receive

        def receive(datagram, now, original=original):
            original(damaged(datagram), now)
            original(datagram, now)

        node.agent.receive = receive
    alice.learn(bob)
    bob.learn(alice)
    world.run(3)
    assert alice.agent.selected_pair and bob.agent.selected_pair
    assert alice.agent.controlling and not bob.agent.controlling


@given(data=st.data())
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_a_peer_that_sends_anything_with_the_right_password_never_breaks_the_agent(lab, data):
    world, alice, bob = lab.on_one_lan()
    alice.learn(bob)
    world.run(0.1)
    attribute = st.sampled_from(
        [
            IceControlled(5),
            IceControlling(1 << 63),
            Priority(0),
            Priority(0xFFFFFFFF),
            XorMappedAddress(STRANGER),
            ErrorCode(487, ""),
            ErrorCode(403, ""),
            ErrorCode(500, ""),
            Username(f"{alice.credentials.ufrag}:{bob.credentials.ufrag}"),
        ]
    )
    for _ in range(data.draw(st.integers(1, 20))):
        sent = decode(data.draw(st.sampled_from(alice.sent))[1].payload)
        message = Message(
            data.draw(st.sampled_from(MessageClass)),
            data.draw(st.sampled_from([Method.BINDING, Method.ALLOCATE])),
            sent.transaction_id
            if data.draw(st.booleans())
            else data.draw(st.binary(min_size=12, max_size=12)),
            tuple(data.draw(st.lists(attribute, max_size=5))),
        )
        key = data.draw(st.sampled_from([alice.credentials.key, bob.credentials.key]))
        source = data.draw(st.sampled_from([STRANGER, bob.bases[0]]))
        datagram = Datagram(source, alice.bases[0], encode(message, key=key))
        alice.agent.accepts(datagram)
        world.inject(alice, datagram)
        world.run(world.now + data.draw(st.floats(0, 2)))
    assert len(alice.sent) < 2000


def test_consent_survives_a_stranger_that_answers_consent_checks(lab):
    world, alice, _bob = connected(lab)
    world.run(30)
    for _, sent in alice.sent[-3:]:
        forged = reply_to(sent, ErrorCode(403, ""), key=b"x" * 22, message_class=MessageClass.ERROR)
        world.inject(alice, forged)
    world.run(60)
    assert not alice.of(ConsentLost)
