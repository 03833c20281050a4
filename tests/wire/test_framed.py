"""Datagrams on a connection (RFC 4571)."""

from __future__ import annotations

import random

import pytest

from knothole.wire.framed import LONGEST, Unframer, frame


def test_datagrams_come_out_as_they_went_in_however_the_stream_is_cut() -> None:
    chance = random.Random(7)
    sent = [chance.randbytes(chance.choice([1, 2, 3, 1200, 65535])) for _ in range(50)]
    stream = b"".join(map(frame, sent))
    unframer, got = Unframer(), []
    while stream:
        size = chance.choice([1, 2, 3, 1000, 100_000])
        got += unframer.feed(stream[:size])
        stream = stream[size:]
    assert got == sent


def test_an_empty_datagram_says_nothing() -> None:
    assert Unframer().feed(frame(b"") + frame(b"a") + frame(b"")) == [b"a"]


def test_what_does_not_fit_into_two_bytes_of_length_is_refused() -> None:
    with pytest.raises(ValueError, match="65536"):
        frame(bytes(LONGEST + 1))


def test_no_more_than_one_unfinished_datagram_is_held() -> None:
    unframer = Unframer()
    for _ in range(1000):
        unframer.feed(random.Random(1).randbytes(777))
    assert len(unframer._buffer) < LONGEST + 2
