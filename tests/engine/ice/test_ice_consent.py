"""Consent freshness (RFC 7675) and silence between knotholes."""

from __future__ import annotations

import itertools

import pytest

from knothole.engine.core import Datagram
from knothole.engine.ice import (
    BETWEEN_KNOTHOLES,
    STANDARD,
    BestPairChanged,
    ConsentLost,
    IceFailed,
)
from knothole.wire.stun import ErrorCode, Message, MessageClass, Method, decode, encode

BOTH = pytest.mark.parametrize("options", [STANDARD, BETWEEN_KNOTHOLES], ids=["std", "knot"])


def connected(lab, options):
    world, alice, bob = lab.on_one_lan(options=options)
    alice.learn(bob)
    bob.learn(alice)
    world.run(3)
    assert alice.agent.selected_pair
    return world, alice, bob


def consent_checks(node, after):
    return [
        (at, d)
        for at, d in node.sent
        if at > after and decode(d.payload).message_class is MessageClass.REQUEST
    ]


@BOTH
def test_consent_is_asked_every_four_to_six_seconds(lab, options):
    world, alice, _ = connected(lab, options)
    world.run(300)
    times = [at for at, _ in consent_checks(alice, 3)]
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert min(gaps) >= 4.0 and max(gaps) <= 6.0
    assert max(gaps) - min(gaps) > 0.5, "randomised"
    assert not alice.of(ConsentLost)


@BOTH
def test_each_consent_check_has_a_transaction_of_its_own_and_is_sent_once(lab, options):
    world, alice, _ = connected(lab, options)
    world.run(60)
    ids = [decode(d.payload).transaction_id for _, d in consent_checks(alice, 3)]
    assert len(ids) == len(set(ids))


def test_by_the_standard_consent_ends_after_thirty_seconds_of_silence(lab):
    world, alice, bob = connected(lab, STANDARD)
    world.nodes.remove(bob)
    last_answer = 3.0
    world.run(60)
    (lost,) = alice.times(ConsentLost)
    assert last_answer < lost <= last_answer + 30
    assert alice.best is None and alice.agent.failed
    assert alice.of(BestPairChanged)[-1].pair is None
    sent = len(alice.sent)
    world.run(200)
    assert len(alice.sent) == sent, "the credentials are spent on this 5-tuple"


def test_between_knotholes_consent_can_be_won_back(lab):
    world, alice, bob = connected(lab, BETWEEN_KNOTHOLES)
    world.cut = lambda d: world.now < 50
    world.run(49)
    assert alice.best is None and bob.best is None
    assert not alice.of(IceFailed)
    world.run(53)
    assert alice.best is not None and bob.best is not None


def test_between_knotholes_failure_is_told_after_patience_ran_out_once_more(lab):
    world, alice, bob = connected(lab, BETWEEN_KNOTHOLES)
    world.nodes.remove(bob)
    world.run(200)
    (lost,), (failed,) = alice.times(ConsentLost), alice.times(IceFailed)
    assert lost + 39 < failed < lost + 60
    assert alice.agent.next_timeout() is None


def test_consent_is_revoked_by_an_authenticated_403(lab):
    world, alice, bob = connected(lab, STANDARD)
    world.nodes.remove(bob)
    world.run(10)
    _, request = consent_checks(alice, 3)[-1]
    transaction_id = decode(request.payload).transaction_id
    forbidden = Message(
        MessageClass.ERROR, Method.BINDING, transaction_id, (ErrorCode(403, "Forbidden"),)
    )

    def arrive(key):
        payload = encode(forbidden, key=key, fingerprint=True)
        world.inject(alice, Datagram(request.destination, request.source, payload))

    arrive(None)
    arrive(b"not the password of anyone")
    assert alice.best is not None
    arrive(bob.credentials.key)
    assert alice.best is None
    assert alice.of(ConsentLost)


def test_a_single_lost_consent_check_moves_nothing(lab):
    world, alice, bob = lab.behind_nats()
    alice.learn(bob)
    bob.learn(alice)
    world.run(10)
    changes = len(alice.of(BestPairChanged)), len(bob.of(BestPairChanged))
    world.loss = 0.1
    world.run(600)
    assert (len(alice.of(BestPairChanged)), len(bob.of(BestPairChanged))) == changes
    assert not alice.of(ConsentLost) and not bob.of(ConsentLost)


def test_a_binding_indication_is_taken_in_silence(lab):
    world, alice, bob = connected(lab, STANDARD)
    before = len(alice.sent), alice.agent.next_timeout()
    payload = encode(Message(MessageClass.INDICATION, Method.BINDING, bytes(12)), fingerprint=True)
    datagram = Datagram(bob.bases[0], alice.bases[0], payload)
    assert not alice.agent.accepts(datagram)
    world.inject(alice, datagram)
    assert (len(alice.sent), alice.agent.next_timeout()) == before


def test_an_idle_agent_sleeps_between_consent_checks(lab):
    world, alice, _bob = connected(lab, BETWEEN_KNOTHOLES)
    world.run(20)
    assert alice.agent.next_timeout() > 20
    assert len([1 for at, _ in alice.sent if at > 10]) <= 8
