"""Received datagrams made into bursts of one kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.secure.bursts import LONGEST_BURST, MOST_SEGMENTS
from knothole.io.gather import Received, gather

HERE, THERE = ("192.0.2.1", 1), ("192.0.2.2", 2)


def apart(received: list[Received]) -> list[tuple[bytes, object]]:
    singles = []
    for payload, size, source in received:
        step = size or max(len(payload), 1)
        singles += [
            (payload[start : start + step], source) for start in range(0, len(payload) or 1, step)
        ]
    return singles


singles = st.tuples(
    st.builds(
        lambda first, size: bytes([first]) * size,
        st.sampled_from([0, 1, 0x3F, 0x40, 0x7F, 0xC0]),
        st.sampled_from([0, 1, 20, 1199, 1200]),
    ),
    st.just(0),
    st.sampled_from([HERE, THERE]),
)
bursts = st.tuples(
    st.lists(st.sampled_from([b"\x40" * 20, b"\x00" * 20]), min_size=2, max_size=5).map(b"".join),
    st.just(20),
    st.sampled_from([HERE, THERE]),
)


@given(st.lists(st.one_of(singles, bursts), max_size=80))
def test_the_same_datagrams_in_order_and_only_payload_in_bursts(received: list[Received]) -> None:
    gathered = list(gather(received))
    assert apart(gathered) == apart(received)
    for payload, size, _ in gathered:
        if size:
            assert len(payload) > size
            assert len(payload) <= LONGEST_BURST
            assert -(-len(payload) // size) <= MOST_SEGMENTS
            assert min(payload[::size]) >= 0x40


def test_single_datagrams_of_one_sender_are_set_end_to_end() -> None:
    packet = b"\x40" * 1200
    received = [(packet, 0, HERE)] * 3 + [(packet[:50], 0, HERE), (packet, 0, THERE)]
    assert list(gather(received)) == [(packet * 3 + packet[:50], 1200, HERE), (packet, 0, THERE)]
