from __future__ import annotations

import random
from collections.abc import Iterable

from knothole.engine.voice.jitter import (
    CALM_DELAY_SECONDS,
    Conceal,
    Decode,
    JitterBuffer,
    Playable,
    Recover,
    Silence,
)
from knothole.wire.voice import FRAME_SAMPLES, MediaPacket

FRAME = 0.02


def packet(
    number: int, *, payload: bytes | None = None, sequence: int | None = None
) -> MediaPacket:
    return MediaPacket(
        (number if sequence is None else sequence) & 0xFFFF,
        (number * FRAME_SAMPLES) & 0xFFFF_FFFF,
        b"frame %d" % number if payload is None else payload,
    )


class Listener:
    """Plays against a clock, as a paced sink does, and takes packets in when they arrive."""

    def __init__(self, buffer: JitterBuffer, now: float = 0.0) -> None:
        self.buffer = buffer
        self.due = now
        self.played: list[tuple[float, Playable]] = []

    def listen(self, arrivals: Iterable[tuple[float, MediaPacket]], until: float) -> None:
        waiting = sorted(arrivals, key=lambda arrival: arrival[0])
        while self.due < until - 1e-9:
            while waiting and waiting[0][0] <= self.due + 1e-9:
                at, arrived = waiting.pop(0)
                self.buffer.put(arrived, at)
            playable = self.buffer.take(self.due)
            self.played.append((self.due, playable))
            self.due += _samples(playable) / 48_000

    def heard(self) -> list[bytes]:
        return [what.payload for _, what in self.played if isinstance(what, Decode)]

    def count(self, kind: type) -> int:
        return sum(isinstance(what, kind) for _, what in self.played)

    def when(self, number: int) -> float:
        return next(
            at
            for at, what in self.played
            if isinstance(what, Decode) and what.payload == b"frame %d" % number
        )


def _samples(playable: Playable) -> int:
    match playable:
        case Decode(_, stretch):
            return FRAME_SAMPLES + stretch
        case Recover():
            return FRAME_SAMPLES
        case Conceal(samples) | Silence(samples):
            return samples


def steady(count: int, delay: float = 0.05, first: int = 0) -> list[tuple[float, MediaPacket]]:
    return [(delay + n * FRAME, packet(n)) for n in range(first, first + count)]


def test_the_first_frame_plays_40_ms_after_it_arrived_to_the_sample() -> None:
    listener = Listener(JitterBuffer())
    listener.listen(steady(50, delay=0.053), until=1.0)
    assert abs(listener.when(0) - 0.093) < 1e-4
    assert abs(listener.when(40) - 0.893) < 1e-4
    assert abs(listener.buffer.delay_seconds - 0.040) < 1e-4


def test_a_first_packet_that_was_late_does_not_set_the_delay() -> None:
    arrivals = steady(50)
    arrivals[0] = (arrivals[0][0] + 0.019, arrivals[0][1])
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=1.0)
    assert abs(listener.when(0) - 0.090) < 0.002


def test_packets_out_of_order_play_in_order_and_duplicates_once() -> None:
    arrivals = [(at + (0.025 if n % 3 == 0 else 0.0), p) for n, (at, p) in enumerate(steady(60))]
    arrivals += arrivals[10:20]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=1.2)
    assert listener.heard() == [b"frame %d" % n for n in range(60)][: len(listener.heard())]
    assert len(listener.heard()) > 50
    assert not listener.count(Conceal) and not listener.count(Recover)


def test_a_lost_packet_is_recovered_from_the_one_that_follows() -> None:
    arrivals = [(at, p) for at, p in steady(50) if p.sequence != 10]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=1.0)
    assert Recover(b"frame 11") in [what for _, what in listener.played]
    assert not listener.count(Conceal)
    assert abs(listener.when(40) - 0.89) < 1e-4


def test_of_three_lost_in_a_row_two_are_made_up_and_time_stays_true() -> None:
    arrivals = [(at, p) for at, p in steady(50) if p.sequence not in (10, 11, 12)]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=1.0)
    assert (listener.count(Conceal), listener.count(Recover)) == (2, 1)
    assert abs(listener.when(40) - 0.89) < 1e-4


def test_a_stall_of_the_path_delays_nothing_that_follows() -> None:
    """Six packets come at once and 100 ms late: they are made up for, and that is all."""
    arrivals = [(max(at, 1.17) if 50 <= n < 56 else at, p) for n, (at, p) in enumerate(steady(150))]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=3.0)
    assert abs(listener.when(140) - 2.89) < 1e-4
    assert listener.buffer.late


def test_a_path_that_has_become_longer_is_followed_within_200_ms() -> None:
    arrivals = [(at + (0.1 if n >= 50 else 0.0), p) for n, (at, p) in enumerate(steady(150))]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=3.0)
    assert 0.05 < listener.when(140) - 2.85 - 0.1 + 0.04 < 0.1
    heard = listener.heard()
    assert heard[-1] == b"frame 141" or int(heard[-1].split()[1]) > 135
    made_up = [at for at, what in listener.played if isinstance(what, Conceal)]
    assert made_up and max(made_up) < 1.3


def test_jitter_beyond_the_delay_makes_the_delay_longer() -> None:
    chance = random.Random(4)
    arrivals = [(at + chance.random() * 0.09, p) for at, p in steady(1500)]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=30.0)
    late = listener.buffer.late
    assert late < 30
    assert 0.04 < listener.buffer.delay_seconds < 0.12


def test_a_path_that_has_become_shorter_is_followed_without_a_gap() -> None:
    arrivals = [(at - (0.08 if n >= 50 else 0.0), p) for n, (at, p) in enumerate(steady(2500, 0.1))]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=49.0)
    assert len(listener.heard()) > 2400
    assert not listener.count(Conceal)
    assert max(abs(what.stretch) for _, what in listener.played if isinstance(what, Decode)) <= 2
    assert 0.03 < listener.buffer.delay_seconds < 0.05


def test_a_sink_that_was_late_to_start_catches_up_at_once() -> None:
    """It pulls a little, then not for 400 ms, then steadily."""
    listener = Listener(JitterBuffer())
    arrivals = steady(300)
    listener.listen([arrival for arrival in arrivals if arrival[0] < 0.15], until=0.15)
    listener.due += 0.4
    listener.listen([arrival for arrival in arrivals if arrival[0] >= 0.15], until=5.0)
    assert 0.03 < listener.buffer.delay_seconds < 0.06
    assert 0.03 < listener.when(60) - arrivals[60][0] < 0.07
    assert not listener.count(Conceal)


def test_the_delay_comes_down_to_20_ms_where_someone_listens() -> None:
    listener = Listener(JitterBuffer(calm_delay_seconds=CALM_DELAY_SECONDS))
    listener.listen(steady(1500), until=29.0)
    assert 0.015 < listener.buffer.delay_seconds < 0.025
    assert not listener.count(Conceal)


def test_the_delay_is_held_where_nothing_is_wrong() -> None:
    listener = Listener(JitterBuffer())
    chance = random.Random(5)
    listener.listen([(at + chance.random() * 0.01, p) for at, p in steady(3000)], until=59.0)
    assert {what.stretch for _, what in listener.played if isinstance(what, Decode)} == {0}


def test_clocks_that_drift_apart_are_followed_both_ways() -> None:
    for drift in (1.0005, 0.9995):
        arrivals = [(0.05 + n * FRAME * drift, packet(n)) for n in range(15_000)]
        listener = Listener(JitterBuffer())
        listener.listen(arrivals, until=290.0)
        assert listener.count(Conceal) < 10
        assert 0.0 < listener.buffer.delay_seconds < 0.07


def test_a_muted_sender_is_silence_and_neither_lost_nor_made_up() -> None:
    arrivals = steady(20)
    muted = [
        (0.05 + n * FRAME, packet(n, payload=b"", sequence=s)) for n, s in ((20, 20), (30, 21))
    ]
    spoken = [(0.05 + n * FRAME, packet(n, sequence=n - 18)) for n in range(40, 60)]
    listener = Listener(JitterBuffer())
    listener.listen([*arrivals, *muted, *spoken], until=1.2)
    assert not listener.count(Conceal) and not listener.count(Recover)
    assert abs(listener.when(40) - 0.89) < 1e-4


def test_numbers_that_wrap_round_go_on() -> None:
    first = (1 << 32) // FRAME_SAMPLES - 20
    arrivals = [(0.05 + n * FRAME, packet(first + n)) for n in range(50)]
    listener = Listener(JitterBuffer())
    listener.listen(arrivals, until=1.0)
    # 2**32 is not a multiple of 960, so the timestamps wrap in the middle of a frame.
    assert len(listener.heard()) > 40
    assert not listener.count(Conceal)


def test_nothing_at_all_is_silence_and_a_long_outage_is_not_made_up_for_ever() -> None:
    listener = Listener(JitterBuffer())
    listener.listen([], until=1.0)
    assert listener.count(Silence) == len(listener.played) == 50
    listener = Listener(JitterBuffer())
    listener.listen(steady(10), until=5.0)
    assert listener.count(Conceal) == 50


def test_a_sender_whose_clock_jumps_ahead_is_heard_again_at_once() -> None:
    arrivals = steady(50)
    jumped = [(1.05 + n * FRAME, packet(10_000 + n, sequence=50 + n)) for n in range(50)]
    listener = Listener(JitterBuffer())
    listener.listen([*arrivals, *jumped], until=2.0)
    assert abs(listener.when(10_000) - 1.09) < 1e-4


def test_what_waits_is_bounded() -> None:
    buffer = JitterBuffer()
    for number in range(1000):
        buffer.put(packet(number), 0.0)
    buffer.take(100.0)
    assert buffer.next_timestamp is not None
    assert buffer.next_timestamp >= 900 * FRAME_SAMPLES
