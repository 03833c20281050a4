"""When a request is sent again (RFC 8489 Section 6.2): driven by hand, exactly when it asks."""

from __future__ import annotations

import pytest

from knothole.engine.core import Datagram, Transmit
from knothole.engine.stun.transaction import (
    Retransmission,
    RoundTrip,
    Transaction,
    TransactionOutput,
    TransactionTimedOut,
)
from knothole.wire.address import Address, Transport
from knothole.wire.stun import Message, MessageClass, Method, encode

BASE, SERVER = Address("10.0.0.2", 5000), Address("192.0.2.1", 3478)
ID = b"transaction!"
REQUEST = encode(Message(MessageClass.REQUEST, Method.BINDING, ID))


def datagram(transport: Transport = Transport.UDP) -> Datagram:
    return Datagram(BASE, SERVER, REQUEST, transport=transport)


def run(transaction: Transaction, start: float) -> list[tuple[float, TransactionOutput]]:
    """Everything that comes out, with the time it comes out at, until nothing more is due."""
    seen = [(start, output) for output in transaction.outputs()]
    while (at := transaction.next_timeout()) is not None:
        transaction.handle_timeout(at)
        seen += [(at, output) for output in transaction.outputs()]
        after = transaction.next_timeout()
        assert after is None or after > at, "spins"
    return seen


def test_unanswered_request_follows_the_schedule_of_rfc8489() -> None:
    seen = run(Transaction(datagram(), now=100.0), 100.0)
    sends = [at - 100.0 for at, output in seen if output == Transmit(datagram())]
    assert sends == [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert seen[-1] == (139.5, TransactionTimedOut(ID))


def test_schedule_is_configurable() -> None:
    plan = Retransmission(rto_seconds=0.1, max_requests=3, last_wait=4)
    seen = run(Transaction(datagram(), now=0.0, retransmission=plan), 0.0)
    assert [round(at, 6) for at, _ in seen] == [0.0, 0.1, 0.3, 0.7]
    assert isinstance(seen[-1][1], TransactionTimedOut)


@pytest.mark.parametrize("transport", [Transport.TCP, Transport.TLS])
def test_over_a_stream_it_is_sent_once_and_waited_for(transport: Transport) -> None:
    seen = run(Transaction(datagram(transport), now=0.0), 0.0)
    assert seen == [(0.0, Transmit(datagram(transport))), (39.5, TransactionTimedOut(ID))]


def test_answer_ends_it_and_gives_the_round_trip_time() -> None:
    transaction = Transaction(datagram(), now=1.0)
    assert len(list(transaction.outputs())) == 1
    assert transaction.complete(1.25) == 0.25
    assert transaction.finished
    assert transaction.next_timeout() is None
    transaction.handle_timeout(100.0)
    assert list(transaction.outputs()) == []


def test_round_trip_time_of_a_repeated_request_is_nobodys_guess() -> None:
    transaction = Transaction(datagram(), now=0.0)
    transaction.handle_timeout(0.5)
    assert transaction.requests_sent == 2
    assert transaction.complete(0.6) is None


def test_waking_it_early_sends_nothing() -> None:
    transaction = Transaction(datagram(), now=0.0)
    list(transaction.outputs())
    transaction.handle_timeout(0.499)
    assert list(transaction.outputs()) == []
    assert transaction.next_timeout() == 0.5


def test_only_a_response_with_its_id_answers_it() -> None:
    transaction = Transaction(datagram(), now=0.0)
    for message_class, answers in (
        (MessageClass.SUCCESS, True),
        (MessageClass.ERROR, True),
        (MessageClass.REQUEST, False),
        (MessageClass.INDICATION, False),
    ):
        assert transaction.answered_by(Message(message_class, 1, ID)) is answers
        assert not transaction.answered_by(Message(message_class, 1, bytes(12)))
    transaction.abandon()
    assert not transaction.answered_by(Message(MessageClass.SUCCESS, 1, ID))


def test_abandoned_transaction_sends_nothing_that_was_queued() -> None:
    transaction = Transaction(datagram(), now=0.0)
    transaction.abandon()
    assert list(transaction.outputs()) == []


def test_rto_follows_the_round_trip_times_of_rfc6298() -> None:
    trip = RoundTrip(least_rto_seconds=0.0)
    assert trip.rto_seconds(0.0) == 0.5
    trip.sample(0.1, 0.0)
    assert trip.rto_seconds(0.0) == pytest.approx(0.1 + 4 * 0.05)
    trip.sample(0.2, 1.0)
    variation = 0.75 * 0.05 + 0.25 * 0.1
    assert trip.rto_seconds(1.0) == pytest.approx(0.1 * 7 / 8 + 0.2 / 8 + 4 * variation)
    trip.sample(None, 1.0)
    assert trip.rto_seconds(600.9) == trip.rto_seconds(1.0)
    assert trip.rto_seconds(601.1) == 0.5, "stale after ten minutes"


def test_rto_stays_between_its_bounds() -> None:
    quick, slow = RoundTrip(), RoundTrip()
    quick.sample(0.001, 0.0)
    slow.sample(100.0, 0.0)
    assert quick.rto_seconds(0.0) == 0.5
    assert slow.rto_seconds(0.0) == 60.0
