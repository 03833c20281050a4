"""A channel in which datagrams flow steadily, as in a call."""

from __future__ import annotations

import pytest

from knothole.engine.secure.events import DatagramReceived, PingAnswered


def datagrams_on_the_line(pair, *, speakers: int) -> tuple[int, object]:
    """In two seconds, with one datagram every 20 ms from each of so many ends."""
    count = 0

    def line(_to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
        nonlocal count
        count += 1
        return [(0.0, datagram)]

    talk = pair(line=line, delay=0.013)
    talk.run(1.0)
    count = 0
    for _ in range(100):
        for end in talk.ends[:speakers]:
            end.send_datagram(b"x" * 120)
        talk.run(0.02)
    return count, talk


def test_acknowledgements_ride_with_the_datagrams_that_go_the_other_way(pair) -> None:
    count, talk = datagrams_on_the_line(pair, speakers=2)
    assert count <= 2 * 100 + 10
    assert len(talk.got("server", DatagramReceived)) >= 98


def test_who_only_listens_acknowledges_at_once(pair) -> None:
    count, talk = datagrams_on_the_line(pair, speakers=1)
    assert 190 <= count <= 210
    assert talk.client.smoothed_rtt_seconds < 0.03


def test_a_round_trip_is_not_measured_longer_than_it_is_once_datagrams_rest(pair) -> None:
    _, talk = datagrams_on_the_line(pair, speakers=2)
    talk.run(0.1)
    talk.client.ping(talk.now)
    talk.run(0.2)
    (answer,) = talk.got("client", PingAnswered)
    assert answer.rtt_seconds < 0.03


@pytest.mark.parametrize("offset", [0.0, 0.0005, 0.003, 0.008, 0.0155, 0.019])
def test_acknowledgements_ride_whenever_the_other_side_speaks(pair, offset: float) -> None:
    """Also where a packet comes before ours goes, and where ours goes at once when one comes."""
    alone = 0

    def line(_to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
        nonlocal alone
        alone += len(datagram) < 100
        return [(0.0, datagram)]

    talk = pair(line=line, delay=0.0213)
    talk.run(1.0)
    alone = 0
    for _ in range(100):
        talk.ends[0].send_datagram(b"x" * 120)
        talk.run(offset)
        talk.ends[1].send_datagram(b"x" * 120)
        talk.run(0.02 - offset)
    assert alone <= 6


def test_a_stream_is_acknowledged_while_datagrams_flow_too(pair) -> None:
    talk = pair(delay=0.01)
    stream = talk.client.open_stream()
    talk.client.write(stream, bytes(2_000_000))
    for _ in range(100):
        talk.server.send_datagram(b"x" * 120)
        talk.run(0.02)
    assert talk.client.is_flushed
