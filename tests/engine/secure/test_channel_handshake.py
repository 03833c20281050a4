"""Who is at the other end, and what leaves or is delivered before that is known."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from qh3.quic.tls_bridge import QuicTlsBridge

from knothole.engine.secure.certificate import ChannelCertificate, make_certificate
from knothole.engine.secure.events import (
    CloseCode,
    Closed,
    DatagramReceived,
    Secured,
    StreamData,
    StreamOpened,
    UnacceptableFirstFlight,
)
from knothole.engine.secure.quic import SecureChannel
from knothole.engine.secure.words import words_commitment

NONCE = bytes(range(32))


def test_both_ends_learn_each_others_key_and_both_nonces(pair, people) -> None:
    line = pair()
    line.run(1.0)
    (at_client,), (at_server,) = line.got("client", Secured), line.got("server", Secured)
    assert at_client.peer_key == people["bob"].public_key
    assert at_server.peer_key == people["alice"].public_key
    assert (at_client.client_nonce, at_client.server_nonce) == (
        at_server.client_nonce,
        at_server.server_nonce,
    )


def test_server_payload_arrives_with_its_first_flight(pair) -> None:
    def answer_at_once(server: SecureChannel) -> None:
        stream = server.open_stream()
        server.write(stream, b"hello", end=True)
        server.send_datagram(b"first word")

    line = pair(early=answer_at_once)
    # The client has heard nothing but the answer: half a round trip after the offer arrived.
    assert line.got("client", DatagramReceived) == [DatagramReceived(b"first word")]
    assert line.got("client", StreamOpened) == [StreamOpened(1)]
    assert line.got("client", StreamData) == [StreamData(1, b"hello", True)]


def test_client_payload_arrives_half_a_round_trip_after_the_answer(pair) -> None:
    line = pair(delay=0.02)
    asked = line.now
    stream = line.client.open_stream()
    line.client.write(stream, b"hello", end=True)
    line.run(1.0)
    ((arrived, _),) = [item for item in line.events["server"] if isinstance(item[1], StreamData)]
    assert arrived - asked == pytest.approx(0.02)


def test_a_server_with_another_key_than_expected_ends_it_and_learns_nothing(pair, people) -> None:
    line = pair(
        expected_key=people["mallory"].public_key,
        early=lambda server: server.send_datagram(b"payload"),
    )
    line.run(1.0)
    assert line.got("client", Closed) == [
        Closed(CloseCode.KEY_MISMATCH, "the other side's key is not the one expected", False)
    ]
    assert not line.got("client", DatagramReceived)
    assert not line.got("server", Secured)
    (closed,) = line.got("server", Closed)
    assert closed.by_peer


def test_a_certificate_without_its_private_key_fails_the_handshake(pair, people) -> None:
    """Mallory shows Bob's certificate; TLS must check the signature though it checks no chain."""
    stolen = ChannelCertificate(
        make_certificate(people["bob"]).certificate_pem,
        make_certificate(people["mallory"]).private_key_pem,
    )
    line = pair(certificate=stolen, early=lambda server: server.send_datagram(b"payload"))
    line.run(1.0)
    (closed,) = line.got("client", Closed)
    assert closed.code == CloseCode.TRANSPORT_FAILED
    assert not line.got("client", Secured)
    assert not line.got("client", DatagramReceived)


def test_the_same_certificate_with_its_own_key_succeeds(pair, people) -> None:
    line = pair(certificate=make_certificate(people["bob"]))
    line.run(1.0)
    assert line.got("client", Secured)
    assert line.got("server", Secured)


def test_a_client_that_signs_with_another_key_than_the_offer_is_refused(pair, people) -> None:
    line = pair(client=people["mallory"], client_key=people["alice"].public_key)
    stream = line.client.open_stream()
    line.client.write(stream, b"let me in", end=True)
    line.client.send_datagram(b"let me in")
    line.run(1.0)
    (closed,) = line.got("server", Closed)
    assert (closed.code, closed.by_peer) == (CloseCode.PROOF_REFUSED, False)
    assert [type(event) for _, event in line.events["server"]] == [Closed]
    assert line.got("client", Closed)[0].by_peer


def test_a_client_that_reveals_another_nonce_than_it_committed_to_is_refused(pair) -> None:
    line = pair(commitment=words_commitment(NONCE))
    line.client.send_datagram(b"let me in")
    line.run(1.0)
    assert line.got("server", Closed)[0].code == CloseCode.PROOF_REFUSED
    assert not line.got("server", DatagramReceived)


def test_a_client_that_was_not_told_whom_to_expect_reveals_and_delivers_nothing(
    pair, people
) -> None:
    line = pair(expect=False, early=lambda server: server.send_datagram(b"payload"))
    stream = line.client.open_stream()
    line.client.write(stream, b"secret", end=True)
    line.run(2.0)
    assert line.events["client"] == []
    assert line.events["server"] == []
    line.client.expect_server(people["bob"].public_key, NONCE, line.now)
    line.settle()
    assert line.got("client", DatagramReceived) == [DatagramReceived(b"payload")]


def test_nonces_that_differ_at_both_ends_refuse_the_client(pair, people) -> None:
    """The proof covers the server's nonce too, so words that differ are never shown unnoticed."""
    line = pair(expect=False)
    line.client.expect_server(people["bob"].public_key, NONCE, line.now)
    line.run(1.0)
    assert line.got("server", Closed)[0].code == CloseCode.PROOF_REFUSED


def test_ringing_for_a_minute_does_not_end_the_handshake(people) -> None:
    client = SecureChannel.client(people["alice"], NONCE, 0.0)
    assert client.next_timeout() is None
    client.handle_timeout(60.0)
    server = SecureChannel.server(
        people["bob"],
        people["alice"].public_key,
        client.first_flight,
        words_commitment(NONCE),
        NONCE,
        60.0,
    )
    client.expect_server(people["bob"].public_key, NONCE, 60.0)
    for datagram in server.datagrams(60.0):
        client.receive(datagram, 0, 60.02)
    assert client.is_secured
    assert client.smoothed_rtt_seconds is not None
    assert client.smoothed_rtt_seconds <= 0.1


def test_the_first_flight_can_be_sent_again_over_a_path(pair, people) -> None:
    """The answer brought no flight: the client repeats its own, and the server answers that."""
    client = SecureChannel.client(people["alice"], NONCE, 0.0)
    server = SecureChannel.server(
        people["bob"],
        people["alice"].public_key,
        client.first_flight,
        words_commitment(NONCE),
        NONCE,
        0.0,
    )
    lost = server.datagrams(0.0)
    assert lost
    client.start(0.1)
    client.expect_server(people["bob"].public_key, NONCE, 0.1)
    now = 0.1
    for _ in range(40):
        now += 0.02
        for here, there in ((client, server), (server, client)):
            due = here.next_timeout()
            if due is not None and due <= now:
                here.handle_timeout(now)
            for datagram in here.datagrams(now):
                there.receive(datagram, 0, now)
    assert client.is_secured
    assert server.is_secured


def test_a_first_flight_is_accepted_by_two_devices_independently(people) -> None:
    client = SecureChannel.client(people["alice"], NONCE, 0.0)
    devices = [
        SecureChannel.server(
            people["bob"],
            people["alice"].public_key,
            client.first_flight,
            words_commitment(NONCE),
            NONCE,
            0.0,
        )
        for _ in range(2)
    ]
    client.expect_server(people["bob"].public_key, NONCE, 0.0)
    for datagram in devices[1].datagrams(0.0):
        client.receive(datagram, 0, 0.02)
    for datagram in client.datagrams(0.02):
        assert devices[1].accepts(datagram)
        devices[1].receive(datagram, 0, 0.04)
    assert devices[1].is_secured
    assert not devices[0].is_secured


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda flight: [], id="nothing"),
        pytest.param(lambda flight: flight * 3, id="too many datagrams"),
        pytest.param(lambda flight: flight[:1], id="half of it"),
        pytest.param(lambda flight: [flight[0][:600]], id="cut short"),
        pytest.param(lambda flight: [bytes(1200)], id="zeros"),
        pytest.param(lambda flight: [b"\xc0\x00\x00\x00\x01\xff" + bytes(1200)], id="long id"),
        pytest.param(lambda flight: [flight[0][:700] + b"x" + flight[0][701:]], id="changed"),
    ],
)
def test_a_first_flight_that_is_none_is_refused_as_such(people, spoil) -> None:
    flight = list(SecureChannel.client(people["alice"], NONCE, 0.0).first_flight)
    with pytest.raises(UnacceptableFirstFlight):
        SecureChannel.server(
            people["bob"], people["alice"].public_key, spoil(flight), bytes(32), NONCE, 0.0
        )


@pytest.mark.parametrize("side", ["client", "server"])
def test_malformed_handshake_messages_end_the_channel_and_never_the_program(
    pair, monkeypatch, side
) -> None:
    """TLS inside is written by the peer too; its native part even panics over some key shares."""
    chance = random.Random(side)
    original = QuicTlsBridge.next_crypto_data

    def spoiled(bridge: QuicTlsBridge):
        message = original(bridge)
        if message is None or bridge.configuration.is_client != (side == "client"):
            return message
        data = bytearray(message.data)
        at = chance.randrange(4, len(data))
        data[at : at + chance.choice((1, 40))] = chance.randbytes(chance.choice((1, 40)))
        data[1:4] = (len(data) - 4).to_bytes(3)
        return replace(message, data=bytes(data))

    monkeypatch.setattr(QuicTlsBridge, "next_crypto_data", spoiled)
    refused = 0
    for _ in range(100):
        try:
            line = pair(early=lambda server: server.send_datagram(b"payload"))
        except UnacceptableFirstFlight:
            refused += 1
            continue
        line.run(0.2)
        if line.got("client", Closed):
            refused += 1
            assert not line.got("client", DatagramReceived)
    assert refused > 10


def test_only_a_client_expects_a_server_and_only_one(pair, people) -> None:
    line = pair()
    with pytest.raises(ValueError, match="only a client"):
        line.server.expect_server(people["alice"].public_key, NONCE, line.now)
    with pytest.raises(ValueError, match="another server"):
        line.client.expect_server(people["mallory"].public_key, NONCE, line.now)


def test_the_certificate_names_nobody_and_is_the_same_each_time(people) -> None:
    assert make_certificate(people["bob"]) == make_certificate(people["bob"])
    assert b"PRIVATE" not in repr(make_certificate(people["bob"])).encode()
