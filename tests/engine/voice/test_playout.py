from __future__ import annotations

from array import array

from knothole.engine.voice.level import SILENCE_DB, LevelMeter, level_db
from knothole.engine.voice.playout import Playout
from knothole.wire.malformed import MalformedMessage
from knothole.wire.voice import FRAME_SAMPLES, MediaPacket


class PlainDecoder:
    """Its packets are one byte, its frames 960 samples of that value."""

    def decode(self, payload: bytes) -> bytes:
        if payload == b"?":
            raise MalformedMessage("no Opus")
        return array("h", [payload[0]] * FRAME_SAMPLES).tobytes()

    def recover(self, following: bytes) -> bytes:
        return array("h", [following[0] + 100] * FRAME_SAMPLES).tobytes()

    def conceal(self, samples: int) -> bytes:
        return array("h", [1000] * samples).tobytes()


def packet(number: int, payload: bytes | None = None) -> MediaPacket:
    body = bytes([number + 1]) if payload is None else payload
    return MediaPacket(number, number * FRAME_SAMPLES, body)


def play(playout: Playout, count: int, chunk: int = FRAME_SAMPLES, now: float = 0.0) -> array[int]:
    samples: array[int] = array("h")
    while len(samples) < count:
        pulled = array("h", playout.pull(chunk, now + len(samples) / 48_000))
        assert 0 < len(pulled) <= chunk
        samples += pulled
    return samples


def test_every_pull_gives_something_whatever_the_size() -> None:
    for chunk in (1, 441, 480, 960, 4096):
        playout = Playout(PlainDecoder())
        for number in range(3):
            playout.receive(packet(number), number * 0.02)
        samples = play(playout, 48 * 140, chunk)
        assert samples.index(1) == 1920
        assert [samples[1920 + 960 * n + 100] for n in range(3)] == [1, 2, 3]


def test_a_short_pull_falls_in_step_with_the_frames() -> None:
    playout = Playout(PlainDecoder())
    playout.receive(packet(0), 0.005)
    first = playout.pull(FRAME_SAMPLES, 0.0)
    second = playout.pull(FRAME_SAMPLES, 0.02)
    third = playout.pull(FRAME_SAMPLES, 0.04)
    assert [len(s) // 2 for s in (first, second, third)] == [960, 960, 240]
    assert array("h", playout.pull(FRAME_SAMPLES, 0.045)).tolist() == [1] * 960


def test_what_was_lost_is_recovered_or_made_up() -> None:
    playout = Playout(PlainDecoder())
    for number in (0, 2, 5):
        playout.receive(packet(number), number * 0.02)
    samples = play(playout, 48 * 160)
    assert [samples[1920 + 960 * n] for n in range(6)] == [1, 103, 3, 1000, 106, 6]
    assert (playout.frames, playout.recovered, playout.concealed) == (6, 2, 1)


def test_a_payload_that_cannot_be_decoded_is_made_up() -> None:
    playout = Playout(PlainDecoder())
    playout.receive(packet(0, b"?"), 0.0)
    assert play(playout, 48 * 60)[1920] == 1000
    assert playout.concealed == 1


def test_a_delay_that_has_become_too_long_is_cut_in_pauses() -> None:
    for payload, least, most in ((b"\x01", 0.035, 0.045), (b"\xff", 0.06, 0.12)):
        playout = Playout(PlainDecoder())
        now, number = 0.0, 0
        while now < 9.0:
            while number * 0.02 + (0.1 if number < 50 else 0.02) <= now:
                playout.receive(packet(number, payload), now)
                number += 1
            now += len(playout.pull(FRAME_SAMPLES, now)) / 2 / 48_000
        assert least < playout.delay_seconds < most
        assert playout.concealed == 0


def test_it_knows_when_everything_before_a_timestamp_is_played() -> None:
    playout = Playout(PlainDecoder())
    assert playout.has_played(960)
    for number in range(2):
        playout.receive(packet(number), number * 0.02)
    assert not playout.has_played(1920)
    play(playout, 1920 + 960)
    assert not playout.has_played(1920)
    play(playout, 960, now=0.06)
    assert playout.has_played(1920)


def test_levels_are_relative_to_full_scale() -> None:
    assert level_db(bytes(1920)) == SILENCE_DB
    assert round(level_db(array("h", [32767, -32767] * 480).tobytes()), 2) == 0.0
    assert round(level_db(array("h", [3277, -3277] * 480).tobytes())) == -20


def test_a_meter_gives_the_mean_of_the_last_second() -> None:
    meter = LevelMeter()
    assert meter.read() == SILENCE_DB
    for _ in range(50):
        meter.add(array("h", [10362, -10362] * 480).tobytes())
    assert round(meter.read(), 2) == -10.0
    for _ in range(25):
        meter.add(bytes(1920))
    assert round(meter.read(), 1) == -13.0
    for _ in range(25):
        meter.add(bytes(1920))
    assert round(meter.read()) == SILENCE_DB
