"""Streams of a channel: order, ends, resets, credit, and the limit on how many."""

from __future__ import annotations

from random import Random

import pytest

from knothole.engine.secure.control import Credit
from knothole.engine.secure.credit import FIRST_WINDOW, LARGEST_WINDOW
from knothole.engine.secure.events import (
    ChannelClosed,
    CloseCode,
    Closed,
    DatagramReceived,
    PingAnswered,
    StopSending,
    StreamData,
    StreamNotWritable,
    StreamOpened,
    StreamReset,
    TooManyStreams,
)

MEGABYTE = 1_000_000


def opened(line, data: bytes = b"x") -> int:
    stream = line.client.open_stream()
    line.client.write(stream, data)
    line.run(0.2)
    return stream


def test_each_way_of_a_stream_ends_by_itself(pair) -> None:
    line = pair()
    stream = line.client.open_stream()
    line.client.write(stream, b"question", end=True)
    line.run(0.5)
    assert line.received("server", stream) == b"question"
    assert line.ended("server", stream)
    line.server.write(stream, b"ans")
    line.run(0.5)
    line.server.write(stream, b"wer", end=True)
    line.run(0.5)
    assert line.received("client", stream) == b"answer"
    assert line.ended("client", stream)


def test_an_end_without_a_byte_is_an_end(pair) -> None:
    line = pair()
    stream = line.client.open_stream()
    line.client.write(stream, b"", end=True)
    line.run(0.5)
    assert line.got("server", StreamOpened) == [StreamOpened(stream)]
    assert line.got("server", StreamData) == [StreamData(stream, b"", True)]


def test_nothing_can_be_written_after_the_end_or_to_an_unknown_stream(pair) -> None:
    line = pair()
    stream = line.client.open_stream()
    line.client.write(stream, b"all", end=True)
    with pytest.raises(StreamNotWritable):
        line.client.write(stream, b"more")
    with pytest.raises(StreamNotWritable):
        line.client.write(400, b"more")


def test_streams_of_both_ends_have_different_ids_and_never_the_control_stream(pair) -> None:
    line = pair()
    ids = {line.client.open_stream() for _ in range(3)} | {
        line.server.open_stream() for _ in range(3)
    }
    assert len(ids) == 6
    assert 0 not in ids


def test_a_reset_tells_the_peer_the_code_and_drops_what_waited(pair) -> None:
    line = pair()
    stream = opened(line)
    line.client.write(stream, bytes(MEGABYTE))
    line.client.reset(stream, 33)
    line.run(0.5)
    assert line.got("server", StreamReset) == [StreamReset(stream, 33)]
    assert len(line.received("server", stream)) < MEGABYTE
    assert line.client.send_backlog(stream) == 0
    with pytest.raises(StreamNotWritable):
        line.client.write(stream, b"more")


def test_a_stream_can_be_reset_before_its_first_byte(pair) -> None:
    line = pair()
    stream = line.client.open_stream()
    line.client.reset(stream, 34)
    line.run(0.5)
    assert line.got("server", StreamReset) == [StreamReset(stream, 34)]


def test_a_stopped_sender_is_told_and_its_writes_are_dropped(pair) -> None:
    line = pair()
    stream = opened(line)
    line.server.stop(stream, 35)
    line.run(0.5)
    assert line.got("client", StopSending) == [StopSending(stream, 35)]
    before = line.received("server", stream)
    line.client.write(stream, b"nobody reads this")
    line.client.write(stream, b"nor this", end=True)
    line.run(0.5)
    assert line.received("server", stream) == before
    line.server.write(stream, b"but you read this", end=True)
    line.run(0.5)
    assert line.received("client", stream) == b"but you read this"


def test_a_stream_of_ours_can_be_stopped_before_anything_was_sent(pair) -> None:
    line = pair()
    stream = line.client.open_stream()
    line.client.stop(stream, 36)
    line.client.write(stream, b"one way only", end=True)
    line.run(0.5)
    assert line.received("server", stream) == b"one way only"
    assert line.got("server", StopSending) == [StopSending(stream, 36)]


def test_a_stop_that_crosses_the_end_changes_nothing(pair) -> None:
    line = pair()
    stream = opened(line)
    line.client.write(stream, b"y", end=True)
    line.settle()
    line.server.stop(stream, 1)
    line.run(0.5)
    assert not line.got("client", Closed)
    assert not line.got("server", Closed)


def test_a_reset_that_crosses_a_stop_changes_nothing(pair) -> None:
    line = pair()
    stream = opened(line)
    line.server.stop(stream, 1)
    line.settle()
    line.client.reset(stream, 2)
    line.run(0.5)
    assert not line.got("client", Closed)
    assert not line.got("server", Closed)


@pytest.mark.parametrize("opener", ["client", "server"])
def test_only_so_many_streams_are_open_at_a_time_and_an_ended_one_makes_room(pair, opener) -> None:
    line = pair()
    line.run(0.5)
    end, other = (line.client, line.server) if opener == "client" else (line.server, line.client)
    streams = []
    while end.can_open_stream:
        streams.append(end.open_stream())
        end.write(streams[-1], b"x", end=True)
    assert len(streams) == (99 if opener == "client" else 100)  # stream 0 is the client's
    with pytest.raises(TooManyStreams):
        end.open_stream()
    line.run(0.5)
    for stream in streams[:10]:
        other.write(stream, b"y", end=True)
    line.run(0.5)
    for _ in range(10):
        stream = end.open_stream()
        end.write(stream, b"z", end=True)
    line.run(0.5)
    assert line.received("server" if opener == "client" else "client", stream) == b"z"


def test_a_thousand_streams_one_after_another(pair) -> None:
    line = pair()
    for _ in range(1000):
        stream = line.client.open_stream()
        line.client.write(stream, b"question", end=True)
        line.run(0.05)
        line.server.write(stream, b"answer", end=True)
        line.run(0.05)
    assert line.received("client", stream) == b"answer"


def test_a_reader_that_reads_nothing_gets_no_more_than_the_first_window(pair) -> None:
    line = pair()
    line.reading = False
    stream = line.client.open_stream()
    line.client.write(stream, bytes(20 * MEGABYTE), end=True)
    line.run(20.0)
    assert len(line.received("server", stream)) == FIRST_WINDOW
    assert line.client.send_backlog(stream) == 20 * MEGABYTE - FIRST_WINDOW
    line.reading = True
    line.read_all()
    line.run(20.0)
    assert len(line.received("server", stream)) == 20 * MEGABYTE


def test_an_unread_stream_holds_up_neither_other_streams_nor_datagrams_nor_pings(pair) -> None:
    line = pair()
    line.reading = False
    stuck = line.client.open_stream()
    line.client.write(stuck, bytes(20 * MEGABYTE))
    line.run(5.0)
    line.reading = True
    stream = line.client.open_stream()
    line.client.write(stream, bytes(3 * MEGABYTE), end=True)
    line.client.send_datagram(b"voice")
    line.client.ping(line.now)
    line.run(3.0)
    assert len(line.received("server", stream)) == 3 * MEGABYTE
    assert line.got("server", DatagramReceived) == [DatagramReceived(b"voice")]
    assert line.got("client", PingAnswered)


def test_a_reader_that_keeps_up_gets_a_window_that_fills_a_long_path(pair) -> None:
    line = pair(delay=0.1)
    stream = line.client.open_stream()
    line.client.write(stream, bytes(30 * MEGABYTE), end=True)
    line.run(4.0)
    # With the first window alone 256 KiB would arrive in each 0.2 s: 5 MB.
    assert len(line.received("server", stream)) == 30 * MEGABYTE
    assert LARGEST_WINDOW > FIRST_WINDOW


def test_a_sender_that_ignores_its_credit_ends_the_channel(pair) -> None:
    line = pair()
    line.reading = False
    stream = opened(line)
    line.client._streams.allow(Credit(stream, 1 << 40))  # a liar; nothing of ours is asserted
    line.client.write(stream, bytes(FIRST_WINDOW + 1))
    line.run(2.0)
    assert line.got("server", Closed)[0].code == CloseCode.CONTROL_VIOLATION
    assert len(line.received("server", stream)) <= FIRST_WINDOW


@pytest.mark.parametrize(
    ("stream_id", "data", "end"),
    [
        pytest.param(0, b"\x01\xff\xff", False, id="endless message"),
        pytest.param(0, b"\x01\x00\x01x", False, id="proof of one byte"),
        pytest.param(0, b"", True, id="end of the control stream"),
        pytest.param(2, b"x", False, id="unidirectional stream"),
        pytest.param(0, b"\x01\x00\x60" + bytes(96), False, id="second proof"),
    ],
)
def test_a_peer_that_breaks_the_rules_of_the_control_stream_ends_the_channel(
    pair, stream_id, data, end
) -> None:
    line = pair()
    line.run(0.5)
    line.client._quic.send_stream_data(stream_id, data, end)  # a liar
    line.run(0.5)
    assert line.got("server", Closed)[0].code == CloseCode.CONTROL_VIOLATION


@pytest.mark.parametrize("command", ["reset_stream", "stop_stream"])
def test_the_control_stream_cannot_be_given_up(pair, command) -> None:
    line = pair()
    line.run(0.5)
    getattr(line.client._quic, command)(0, 7)  # a liar
    line.run(0.5)
    assert line.got("server", Closed)[0].code == CloseCode.CONTROL_VIOLATION


def test_commands_on_a_closed_channel_are_refused(pair) -> None:
    line = pair()
    stream = opened(line)
    line.client.close(20, "enough")
    for command in (
        lambda: line.client.open_stream(),
        lambda: line.client.write(stream, b"x"),
        lambda: line.client.send_datagram(b"x"),
        lambda: line.client.ping(line.now),
    ):
        with pytest.raises(ChannelClosed):
            command()
    assert not line.client.can_open_stream
    assert line.client.send_backlog(stream) == 0
    line.client.consumed(stream, 1)
    line.client.reset(stream, 0)
    line.client.stop(stream, 0)


def test_reading_more_than_came_is_the_callers_mistake(pair) -> None:
    line = pair()
    line.reading = False
    stream = opened(line, b"four")
    with pytest.raises(ValueError, match="5 bytes read of 4"):
        line.server.consumed(stream, 5)


def test_a_channel_is_flushed_once_everything_is_acknowledged(pair) -> None:
    line = pair()
    line.run(0.5)
    stream = line.client.open_stream()
    line.client.write(stream, bytes(MEGABYTE), end=True)
    assert not line.client.is_flushed
    line.settle()
    assert not line.client.is_flushed
    line.run(2.0)
    assert line.client.is_flushed


def test_an_end_that_the_pacer_holds_back_is_not_flushed(pair) -> None:
    """An end without bytes is in no buffer and not in flight while it waits for its turn."""
    line = pair(delay=0.05)
    line.run(0.5)
    line.delay = 0.0001  # faster than the pacer knows
    stream = line.client.open_stream()
    for _ in range(2):
        line.client.write(stream, b"line\n")
        line.run(0.002)
    line.client.write(stream, b"", end=True)
    line.settle()
    assert not line.ended("server", stream)
    while not line.client.is_flushed:
        line.run(0.0001)
    assert line.ended("server", stream)


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize(("loss", "reorder"), [(0.3, 0.0), (0.1, 0.5), (0.0, 0.7)])
@pytest.mark.parametrize("delay", [0.0001, 0.02])
def test_a_channel_is_not_flushed_before_the_last_end_has_arrived(
    pair, lossy_line, confirmed, loss, reorder, delay
) -> None:
    """Who closes when it is flushed must not cut off what was said last."""
    for seed in range(40):
        chance = Random(seed)
        line = pair(delay=delay)
        line.run(0.5 if confirmed else 0.0)
        line.line = lossy_line(seed, loss, reorder)
        stream = line.client.open_stream()
        for _ in range(chance.randrange(5)):
            line.client.write(stream, b"line\n")
            line.run(chance.choice([0.0, 0.0005, 0.01]))
        line.client.write(stream, b"", end=True)
        line.settle()
        until = line.now + 30.0
        while not line.client.is_flushed and line.now < until:
            line.run(max(0.0, line.wakes_at - line.now))
        assert line.client.is_flushed
        assert line.ended("server", stream), f"seed {seed}"


def test_what_has_arrived_is_flushed_also_when_the_peer_has_closed_since(pair) -> None:
    line = pair()
    line.run(0.5)
    stream = line.client.open_stream()
    line.client.write(stream, b"all", end=True)
    line.run(0.5)
    line.server.close(0, "")
    line.run(0.5)
    assert line.client.is_closed
    assert line.client.is_flushed


def nothing_passes(_to_server: bool, _datagram: bytes) -> list[tuple[float, bytes]]:
    return []


def everything_passes(_to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
    return [(0.0, datagram)]


def test_an_end_that_is_lost_with_the_bytes_before_it_arrives(pair) -> None:
    line = pair()
    line.run(0.5)
    stream = line.client.open_stream()
    line.line = nothing_passes
    line.client.write(stream, b"all")
    line.settle()
    line.client.write(stream, b"", end=True)
    line.run(0.05)
    line.line = everything_passes
    line.client.ping(line.now)  # its answer says that all before it was lost
    line.run(1.0)
    assert line.received("server", stream) == b"all"
    assert line.ended("server", stream)


def test_a_stream_makes_room_also_when_its_last_bytes_were_lost_and_its_end_was_not(pair) -> None:
    line = pair()
    line.run(0.5)
    for _ in range(250):
        stream = line.client.open_stream()
        line.client.write(stream, b"question", end=True)
        line.run(0.1)
        line.line = nothing_passes
        line.server.write(stream, b"answer")
        line.settle()
        line.line = everything_passes
        line.server.write(stream, b"", end=True)
        line.run(1.0)
        assert line.received("client", stream) == b"answer"
        assert line.ended("client", stream)


def test_what_is_found_lost_is_sent_again_though_an_acknowledgement_has_just_left(pair) -> None:
    """Acknowledgements keep a distance; what is held back for it must not wait for a keepalive."""
    line = pair(delay=0.0001)
    line.run(0.5)
    stream = line.client.open_stream()
    line.client.write(stream, b"x")
    line.run(0.1)
    line.line = nothing_passes
    line.client.write(stream, b"", end=True)
    line.run(0.01)
    line.line = everything_passes
    line.server.write(stream, b"acknowledge this")
    line.run(0.0003)
    line.client.ping(line.now)
    line.run(1.0)
    assert line.got("client", PingAnswered)
    assert line.ended("server", stream)
