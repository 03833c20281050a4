"""The small parts of a channel: control messages, credit, bursts, clock, early packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.secure.bursts import LONGEST_BURST, MOST_SEGMENTS, join_segments
from knothole.engine.secure.certificate import identity_key
from knothole.engine.secure.clock import ChannelClock
from knothole.engine.secure.control import ControlReader, Credit, MalformedControl, Proof
from knothole.engine.secure.credit import (
    FIRST_WINDOW,
    LARGEST_WINDOW,
    ReceiveBudget,
    ReceivingHalf,
    SendingHalf,
)
from knothole.engine.secure.early import PACKETS_KEPT, EarlyPackets

PROOF = Proof(bytes(32), bytes(range(64)))


@given(st.lists(st.integers(1, 40), max_size=12))
def test_control_messages_are_read_however_they_are_cut(cuts: list[int]) -> None:
    messages = [PROOF, Credit(4, 1 << 40), Credit(8, 0)]
    data = b"".join(message.encode() for message in messages)
    reader, read = ControlReader(), []
    for cut in cuts:
        read += list(reader.feed(data[:cut]))
        data = data[cut:]
    assert read + list(reader.feed(data)) == messages


def test_an_unknown_control_message_is_passed_over() -> None:
    unknown = b"\xfe\x00\x03abc"
    assert list(ControlReader().feed(unknown + PROOF.encode())) == [PROOF]


@given(st.binary(max_size=200))
def test_foreign_control_bytes_give_messages_or_the_one_error(data: bytes) -> None:
    try:
        list(ControlReader().feed(data))
    except MalformedControl:
        return


@given(st.lists(st.sampled_from([1, 20, 600, 1199, 1200]), max_size=300))
def test_bursts_hold_the_datagrams_in_order_and_within_bounds(sizes: list[int]) -> None:
    datagrams = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    apart: list[bytes] = []
    for payload, size in join_segments(datagrams):
        step = size or len(payload)
        segments = [payload[start : start + step] for start in range(0, len(payload), step)]
        assert size == 0 or len(segments) > 1
        assert len(segments) <= MOST_SEGMENTS
        assert len(payload) <= LONGEST_BURST
        apart += segments
    assert apart == datagrams


def test_a_sender_hands_over_no_more_than_it_is_allowed() -> None:
    half = SendingHalf()
    half.write(bytes(FIRST_WINDOW + 10), end=True)
    piece = half.next_piece(1 << 30)
    assert piece is not None
    assert (len(piece[0]), piece[1]) == (FIRST_WINDOW, False)
    assert half.next_piece(1 << 30) is None
    half.allow(FIRST_WINDOW + 10)
    half.allow(5)  # an older message that came late takes nothing back
    piece = half.next_piece(1 << 30)
    assert piece is not None
    assert (len(piece[0]), piece[1]) == (10, True)
    assert half.is_done


def test_a_receiver_tells_new_credit_when_half_a_window_is_read() -> None:
    half = ReceivingHalf(ReceiveBudget())
    assert half.received(FIRST_WINDOW)
    assert half.consumed(FIRST_WINDOW // 2 - 1) is None
    assert half.consumed(1) == FIRST_WINDOW + FIRST_WINDOW // 2


def test_only_a_reader_that_leaves_nothing_unread_gets_a_larger_window() -> None:
    quick, slow = ReceivingHalf(ReceiveBudget()), ReceivingHalf(ReceiveBudget())
    slow.received(1)
    limits = {"quick": 0, "slow": 0}
    for _ in range(100):
        for name, half in (("quick", quick), ("slow", slow)):
            half.received(FIRST_WINDOW // 2)
            limits[name] = half.consumed(FIRST_WINDOW // 2) or limits[name]
    read = 50 * FIRST_WINDOW
    assert limits["quick"] - read > LARGEST_WINDOW // 4
    assert limits["slow"] - read <= FIRST_WINDOW


def test_all_windows_together_stay_within_the_budget() -> None:
    budget = ReceiveBudget(limit=FIRST_WINDOW)
    halves = [ReceivingHalf(budget) for _ in range(3)]
    grown = 0
    for half in halves:
        limit = 0
        for _ in range(20):
            half.received(FIRST_WINDOW // 2)
            limit = half.consumed(FIRST_WINDOW // 2) or limit
        grown += limit - 10 * FIRST_WINDOW > FIRST_WINDOW
    assert grown == 1
    halves[0].finish()
    assert budget.take(FIRST_WINDOW)


def test_a_clock_stands_still_until_it_is_started() -> None:
    clock = ChannelClock(100.0, longest_wait=0.1)
    assert clock.inner(100.05) == 100.05
    assert clock.inner(140.0) == 100.1
    assert clock.outer(100.3) is None
    clock.start(140.0)
    clock.start(150.0)
    assert clock.inner(140.0) == pytest.approx(100.1)
    assert clock.outer(100.3) == pytest.approx(140.2)


def test_a_clock_that_is_started_soon_loses_no_time() -> None:
    clock = ChannelClock(100.0, longest_wait=0.1)
    clock.start(100.04)
    assert clock.inner(100.04) == 100.04


def test_early_packets_are_those_with_a_short_header_and_few() -> None:
    early = EarlyPackets()
    early.keep(b"\xc0 long", 0)
    early.keep(b"\x40one\x41two\xc2not\x43sh", 4)
    early.keep(b"", 0)
    assert early.take() == [b"\x40one", b"\x41two", b"\x43sh"]
    assert early.take() == []
    for _ in range(100):
        early.keep(b"\x40", 0)
    assert len(early.take()) == PACKETS_KEPT


def test_only_the_key_of_an_ed25519_certificate_is_an_identity_key() -> None:
    prefix = bytes.fromhex("302a300506032b6570032100")
    assert identity_key(prefix + bytes(32)) == bytes(32)
    assert identity_key(prefix + bytes(31)) is None
    assert identity_key(b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x71\x03\x21\x00" + bytes(32)) is None
    assert identity_key(b"") is None
