from __future__ import annotations

from knothole.engine.voice.reception import Reception
from knothole.wire.voice import MediaPacket


def packet(number: int, sequence_start: int = 0) -> MediaPacket:
    return MediaPacket((number + sequence_start) & 0xFFFF, number * 960 & 0xFFFF_FFFF, b"x")


def test_losses_are_counted_by_sequence_number_across_the_wrap() -> None:
    reception = Reception()
    for number in range(100):
        if number % 10 != 3:
            reception.add(packet(number, 65_500), number * 0.02)
    assert (reception.expected, reception.received, reception.lost) == (100, 90, 10)
    assert reception.highest_sequence == 65_500 + 99


def test_the_fraction_is_that_since_the_last_question() -> None:
    reception = Reception()
    assert reception.take_fraction_lost() == 0.0
    for number in range(10):
        reception.add(packet(number), number * 0.02)
    assert reception.take_fraction_lost() == 0.0
    for number in range(10, 20, 2):
        reception.add(packet(number), number * 0.02)
    assert reception.take_fraction_lost() == 4 / 9
    assert reception.take_fraction_lost() == 0.0


def test_duplicates_and_disorder_are_no_negative_loss() -> None:
    reception = Reception()
    for number in (0, 2, 1, 1, 3):
        reception.add(packet(number), 0.0)
    assert reception.lost == 0
    assert reception.take_fraction_lost() == 0.0


def test_jitter_is_that_of_rfc_3550() -> None:
    steady, uneven = Reception(), Reception()
    for number in range(500):
        steady.add(packet(number), number * 0.02)
        uneven.add(packet(number), number * 0.02 + (0.008 if number % 2 else 0.0))
    assert steady.jitter_seconds < 1e-9
    assert 0.0075 < uneven.jitter_seconds < 0.0085


def test_a_number_far_away_belongs_to_no_stream_of_ours() -> None:
    reception = Reception()
    reception.add(packet(0), 0.0)
    reception.add(packet(30_000), 0.0)
    assert reception.expected == 1
