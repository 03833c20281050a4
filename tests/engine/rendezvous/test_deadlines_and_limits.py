from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from knothole.engine.rate import Rate, TokenBucket
from knothole.engine.rendezvous.backoff import DELAYS_SECONDS, Backoff
from knothole.engine.rendezvous.deadlines import Deadlines


def test_deadlines_come_out_in_order_and_once() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key, at in (("c", 3.0), ("a", 1.0), ("b", 1.0)):
        deadlines.arm(key, at)
    assert deadlines.next() == 1.0
    assert list(deadlines.pop_expired(0.9)) == []
    assert list(deadlines.pop_expired(2.0)) == ["a", "b"]
    assert list(deadlines.pop_expired(9.0)) == ["c"]
    assert deadlines.next() is None


def test_arming_again_replaces_and_disarming_forgets() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.arm("a", 1.0)
    deadlines.arm("a", 5.0)
    deadlines.arm("b", 2.0)
    deadlines.disarm("b")
    deadlines.disarm("never armed")
    assert deadlines.next() == 5.0
    assert list(deadlines.pop_expired(9.0)) == ["a"]


def test_a_key_may_be_disarmed_or_armed_while_others_are_given_out() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for key in "abc":
        deadlines.arm(key, 1.0)
    out = []
    for key in deadlines.pop_expired(1.0):
        out.append(key)
        deadlines.disarm("b")
        if len(out) == 1:
            deadlines.arm("d", 1.0)
    assert out == ["a", "c", "d"]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 20)), max_size=300),
    st.integers(0, 20),
)
def test_deadlines_agree_with_a_plain_table(steps: list[tuple[int, int | None]], now: int) -> None:
    deadlines: Deadlines[int] = Deadlines()
    table: dict[int, float] = {}
    for key, at in steps:
        if at is None:
            deadlines.disarm(key)
            table.pop(key, None)
        else:
            deadlines.arm(key, float(at))
            table[key] = float(at)
        assert deadlines.next() == min(table.values(), default=None)
    due = list(deadlines.pop_expired(now))
    assert sorted(due) == sorted(key for key, at in table.items() if at <= now)
    assert [table[key] for key in due] == sorted(table[key] for key in due)


def test_arming_the_same_keys_for_ever_takes_no_more_memory_and_stays_right() -> None:
    deadlines: Deadlines[str] = Deadlines()
    for round in range(1000):
        for key in "abc":
            deadlines.arm(key, float(round))
    assert deadlines.next() == 999.0
    assert list(deadlines.pop_expired(999.0)) == ["a", "b", "c"]


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(Rate(burst=3, per_second=2), now=10.0)
    assert [bucket.take(1, 10.0) for _ in range(4)] == [True, True, True, False]
    assert [bucket.take(1, 10.5) for _ in range(2)] == [True, False]
    assert bucket.take(3, 100.0) and not bucket.is_full(100.0)
    assert bucket.is_full(102.0) and not bucket.take(4, 200.0)


def test_delays_grow_with_chance_and_stay_under_3_seconds() -> None:
    backoff = Backoff(random.Random(1).randbytes)
    for longest in (*DELAYS_SECONDS, 3.0, 3.0):
        assert longest / 2 <= backoff.next_delay() <= longest
    backoff.reset()
    assert backoff.next_delay() <= DELAYS_SECONDS[0]


def test_the_shortest_and_longest_chances_stay_within_bounds() -> None:
    for byte, factor in ((b"\x00", 0.5), (b"\xff", 1.0)):
        backoff = Backoff(lambda count, byte=byte: byte * count)  # type: ignore[misc]
        assert backoff.next_delay() == DELAYS_SECONDS[0] * factor
