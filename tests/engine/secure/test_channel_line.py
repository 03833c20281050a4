"""A channel over lines that lose, reorder, lie, fall silent and change."""

from __future__ import annotations

import itertools
import random

import pytest

from knothole.engine.secure import outbox, quic
from knothole.engine.secure.bursts import join_segments
from knothole.engine.secure.events import (
    CloseCode,
    Closed,
    DatagramReceived,
    DatagramTooLarge,
    PingAnswered,
    Secured,
)

MEGABYTE = 1_000_000


def transfer(line, size: int, seconds: float) -> None:
    """Both ways at once, whole and unchanged."""
    data = random.Random(1).randbytes(size)
    there, back = line.client.open_stream(), line.server.open_stream()
    line.client.write(there, data, end=True)
    line.server.write(back, data[::-1], end=True)
    line.run(seconds)
    assert line.received("server", there) == data
    assert line.received("client", back) == data[::-1]
    assert line.ended("server", there)
    assert line.ended("client", back)


@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05, 0.2])
def test_streams_are_whole_over_a_line_that_loses_and_reorders(pair, lossy_line, loss) -> None:
    transfer(pair(line=lossy_line(3, loss, reorder=0.3)), 200_000, 60.0)


@pytest.mark.parametrize("seed", range(40))
def test_the_handshake_survives_losses_with_much_to_send(pair, lossy_line, seed) -> None:
    """With more in flight than the congestion window the library alone would fall silent."""
    line = pair(line=lossy_line(seed, 0.25, reorder=0.2), delay=0.06)
    transfer(line, 20_000, 20.0)


@pytest.mark.parametrize("seed", range(20))
def test_packets_that_overtake_the_handshake_cost_no_probe_timeout(pair, lossy_line, seed) -> None:
    line = pair(line=lossy_line(seed, 0.0, reorder=0.5))
    line.client.send_datagram(b"hello")
    line.run(0.1)
    ((arrived, _),) = [
        item for item in line.events["server"] if isinstance(item[1], DatagramReceived)
    ]
    assert arrived <= 100.0 + 0.04 + 0.02 + 0.03 + 0.001


@pytest.mark.parametrize("seed", range(30))
def test_a_line_that_flips_bits_repeats_cuts_and_injects_changes_no_byte(pair, seed) -> None:
    chance = random.Random(seed)
    seen: list[bytes] = []

    def lie(_to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
        seen.append(datagram)
        flipped = bytearray(datagram)
        flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
        lies = [
            bytes(flipped),
            chance.choice(seen),
            datagram[: chance.randrange(len(datagram))],
            datagram + chance.randbytes(20),
            chance.randbytes(chance.randrange(1300)),
            bytes([chance.choice((0xC0, 0xE0, 0xF0, 0x40))]) + chance.randbytes(60),
            b"\xc0\x00\x00\x00\x00" + chance.randbytes(40),  # version negotiation
        ]
        chosen = chance.sample(lies, chance.randrange(4))
        return [(0.0, data) for data in chosen] + [(0.001, datagram)]

    transfer(pair(line=lie), 30_000, 30.0)


def test_a_repeated_datagram_is_delivered_once(pair) -> None:
    line = pair(line=lambda _, datagram: [(0.0, datagram), (0.01, datagram), (0.5, datagram)])
    line.client.send_datagram(b"once")
    stream = line.client.open_stream()
    line.client.write(stream, b"once", end=True)
    line.run(2.0)
    assert line.got("server", DatagramReceived) == [DatagramReceived(b"once")]
    assert line.received("server", stream) == b"once"


def test_after_silence_a_changed_path_is_used_at_once(pair) -> None:
    silent = False
    line = pair(line=lambda _, datagram: [] if silent else [(0.0, datagram)])
    line.run(0.5)
    stream = line.client.open_stream()
    line.client.write(stream, bytes(3 * MEGABYTE), end=True)
    line.run(0.25)
    silent = True
    line.run(8.0)
    silent = False
    for end in line.ends:
        end.path_changed(line.now)
    line.settle()
    before = len(line.received("server", stream))
    assert before < 3 * MEGABYTE
    line.run(0.1)
    assert len(line.received("server", stream)) > before
    line.run(3.0)
    assert len(line.received("server", stream)) == 3 * MEGABYTE


def test_while_nobody_fetches_its_datagrams_a_channel_wakes_seldom(pair) -> None:
    line = pair()
    line.run(0.5)
    line.client.write(line.client.open_stream(), b"x")
    wakes = 0
    while (at := line.client.next_timeout()) is not None and at < line.now + 5.0:
        line.client.handle_timeout(at)
        wakes += 1
    assert wakes < 300


def test_an_idle_channel_keeps_itself_alive(pair) -> None:
    line = pair()
    line.run(120.0)
    assert not line.got("client", Closed)
    line.client.send_datagram(b"still there")
    line.run(0.1)
    assert line.got("server", DatagramReceived)


def test_a_peer_that_fell_silent_is_given_up_as_idle(pair) -> None:
    silent = False
    line = pair(line=lambda _, datagram: [] if silent else [(0.0, datagram)])
    line.run(1.0)
    silent = True
    line.run(100.0)
    (closed,) = line.got("client", Closed)
    assert (closed.code, closed.by_peer) == (CloseCode.IDLE, False)


def test_a_ping_measures_the_round_trip(pair) -> None:
    line = pair(delay=0.03)
    line.run(0.5)
    ping = line.client.ping(line.now)
    line.run(0.5)
    (answer,) = line.got("client", PingAnswered)
    assert answer.ping_id == ping
    assert answer.rtt_seconds == pytest.approx(0.06, abs=0.03)  # RFC 9000 Section 13.2.1: the delay


def test_a_close_reaches_the_peer_with_code_and_reason(pair) -> None:
    line = pair()
    line.run(0.5)
    line.client.close(17, "enough said")
    line.run(0.5)
    assert line.got("client", Closed) == [Closed(17, "enough said", False)]
    assert line.got("server", Closed) == [Closed(17, "enough said", True)]


def test_a_close_in_the_middle_of_the_handshake_reaches_the_peer(pair) -> None:
    line = pair()
    line.client.close(17, "changed my mind")
    line.run(0.5)
    assert line.got("server", Closed)[0].by_peer


def test_a_farewell_that_was_lost_is_repeated_when_the_peer_speaks(pair) -> None:
    silent = False
    line = pair(line=lambda _, datagram: [] if silent else [(0.0, datagram)])
    line.run(0.5)
    silent = True
    line.client.close(17, "enough said")
    line.run(0.01)
    silent = False
    line.server.send_datagram(b"are you there?")
    line.run(0.3)
    assert line.got("server", Closed) == [Closed(17, "enough said", True)]


def test_nothing_is_reported_after_the_end(pair) -> None:
    line = pair()
    line.run(0.5)
    line.client.write(line.client.open_stream(), bytes(50_000), end=True)
    line.server.close(17, "no")
    line.run(2.0)
    assert isinstance(line.events["client"][-1][1], Closed)
    assert isinstance(line.events["server"][-1][1], Closed)
    assert len(line.got("client", Closed)) == len(line.got("server", Closed)) == 1


def test_a_receiver_acknowledges_at_most_once_a_millisecond(pair) -> None:
    answers: list[float] = []
    spread = 0.0

    def in_a_row(to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
        nonlocal spread
        if not to_server:
            answers.append(lines[0].now if lines else 0.0)
            return [(0.0, datagram)]
        spread += 0.0001
        return [(spread, datagram)]

    lines = []
    line = pair(line=in_a_row)
    lines.append(line)
    line.run(0.5)
    stream = line.client.open_stream()
    line.client.write(stream, bytes(100_000), end=True)  # so few that no credit is told
    answers.clear()
    line.run(2.0)
    assert len(line.received("server", stream)) == 100_000
    gaps = [later - earlier for earlier, later in itertools.pairwise(answers) if later > earlier]
    assert len(answers) > 5
    assert min(gaps) >= 0.000999


def test_keys_are_changed_long_before_their_limit(pair, lossy_line, monkeypatch) -> None:
    monkeypatch.setattr(outbox, "PACKETS_PER_KEY", 40)
    transfer(pair(line=lossy_line(4, 0.03, reorder=0.1)), MEGABYTE, 60.0)


def test_the_largest_datagram_arrives_and_a_larger_one_is_refused(pair) -> None:
    line = pair()
    line.run(0.5)
    # Packet numbers grow longer while nothing is acknowledged; it must still fit.
    for _ in range(300):
        line.client.send_datagram(bytes(quic.MAX_DATAGRAM_SIZE))
    line.run(5.0)
    sizes = {len(event.data) for event in line.got("server", DatagramReceived)}
    assert sizes == {quic.MAX_DATAGRAM_SIZE}
    with pytest.raises(DatagramTooLarge, match="1161 bytes does not fit; at most 1160"):
        line.client.send_datagram(bytes(quic.MAX_DATAGRAM_SIZE + 1))


def test_every_datagram_on_the_wire_is_at_most_1200_bytes(pair) -> None:
    sizes: list[int] = []

    def measure(_to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
        sizes.append(len(datagram))
        return [(0.0, datagram)]

    line = pair(line=measure)
    line.client.send_datagram(bytes(quic.MAX_DATAGRAM_SIZE))
    transfer(line, MEGABYTE, 10.0)
    assert max(sizes) <= 1200


def test_bursts_hold_the_same_datagrams(pair) -> None:
    line = pair()
    line.run(0.5)
    stream = line.client.open_stream()
    line.client.write(stream, bytes(MEGABYTE))
    bursts = list(join_segments(line.client.datagrams(line.now)))
    assert bursts
    for payload, size in bursts:
        assert len(payload) <= 65_000
        line.server.receive(payload, size, line.now)
    line.run(0.5)
    assert len(line.received("server", stream)) > 0


def test_a_channel_knows_its_own_datagrams(pair) -> None:
    other = pair()
    outgoing: list[tuple[bool, bytes]] = []

    def note(to_server: bool, datagram: bytes) -> list[tuple[float, bytes]]:
        outgoing.append((to_server, datagram))
        return [(0.0, datagram)]

    line = pair(line=note)
    line.client.send_datagram(b"x")
    line.run(1.0)
    assert line.got("server", Secured)
    assert outgoing
    for to_server, datagram in outgoing:
        own, foreign = (line.server, other.server) if to_server else (line.client, other.client)
        assert own.accepts(datagram)
        assert not foreign.accepts(datagram)
    for stranger in (b"", b"\x40", b"\xc0\x00", bytes(40)):
        assert not line.client.accepts(stranger)
