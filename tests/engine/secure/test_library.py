"""What must stay true of the QUIC library beyond its public interface."""

from __future__ import annotations

import pytest
from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library
from knothole.engine.secure.certificate import make_certificate
from knothole.engine.secure.opening import open_client, open_server


def joined(people) -> tuple[QuicConnection, QuicConnection]:
    client, flight = open_client(0.0)
    server = open_server(flight, make_certificate(people["bob"]), 0.0)
    for now in (0.01, 0.02, 0.03, 0.04):
        for here, there in ((server, client), (client, server)):
            for datagram in library.take_datagrams(here, now, 100):
                library.give_datagrams(there, datagram, 0, now)
    list(library.take_events(client))
    list(library.take_events(server))
    return client, server


def test_the_handshake_is_confirmed_at_both_ends(people) -> None:
    client, server = joined(people)
    assert library.is_confirmed(client)
    assert library.is_confirmed(server)


def test_a_server_has_the_peers_parameters_with_the_first_flight(people) -> None:
    _, flight = open_client(0.0)
    server = open_server(flight, make_certificate(people["bob"]), 0.0)
    assert library.has_peer_parameters(server)
    assert not library.is_confirmed(server)


def test_datagrams_are_taken_as_the_public_call_takes_them(people) -> None:
    client, _ = joined(people)
    client.send_stream_data(4, bytes(20_000))
    some = library.take_datagrams(client, 0.05, 3)
    assert len(some) == 3
    rest = client.datagrams_to_send(0.05)
    assert rest
    assert max(len(data) for data in some + [data for data, _ in rest]) <= 1200


def test_a_burst_is_given_as_the_public_call_gives_it(people) -> None:
    client, server = joined(people)
    client.send_stream_data(4, bytes(6_000), end_stream=True)
    datagrams = library.take_datagrams(client, 0.05, 100)
    longest = max(map(len, datagrams))
    alike = [datagram for datagram in datagrams if len(datagram) == longest]
    others = [datagram for datagram in datagrams if len(datagram) != longest]
    library.give_datagrams(server, b"".join(alike), longest, 0.06)
    for datagram in others:
        library.give_datagrams(server, datagram, 0, 0.06)
    events = list(library.take_events(server))
    received = [event for event in events if isinstance(event, library.StreamBytes)]
    assert b"".join(event.data for event in received) == bytes(6_000)
    assert received[-1].end


def test_the_end_of_a_connection_is_seen_before_the_draining_period(people) -> None:
    client, server = joined(people)
    assert library.close_event(server) is None
    client.close(7, None, "bye")
    for datagram in library.take_datagrams(client, 0.05, 10):
        library.give_datagrams(server, datagram, 0, 0.05)
    for end, by_peer in ((client, False), (server, True)):
        event = library.close_event(end)
        assert event is not None
        assert library.reason_of(event) == (7, "bye")
        assert library.closed_by_peer(end) is by_peer


def test_keys_change_once_and_not_again_before_that_is_acknowledged(people) -> None:
    client, _ = joined(people)
    assert library.change_keys(client)
    assert not library.change_keys(client)


def test_congestion_and_flight_are_known(people) -> None:
    client, _ = joined(people)
    assert not library.is_congested(client)
    client.send_stream_data(4, bytes(200_000))
    library.take_datagrams(client, 0.05, 1000)
    assert library.is_congested(client)
    assert library.bytes_in_flight(client) > 10_000
    assert library.smoothed_rtt_seconds(client) == pytest.approx(0.01, abs=0.02)
