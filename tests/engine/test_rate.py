"""So much at once, so much in a second, for each of many."""

from __future__ import annotations

from knothole.engine.rate import Rate, TokenBuckets


def test_each_key_has_a_rate_of_its_own() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(Rate(2, 1))
    assert [buckets.take("a", 1, 0.0) for _ in range(3)] == [True, True, False]
    assert buckets.take("b", 2, 0.0)
    assert [buckets.take("a", 1, 1.0) for _ in range(2)] == [True, False]


def test_what_is_refused_takes_nothing() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(Rate(2, 1))
    assert not buckets.take("a", 3, 0.0)
    assert buckets.take("a", 2, 0.0)


def test_there_are_never_more_of_them_than_the_limit() -> None:
    buckets: TokenBuckets[int] = TokenBuckets(Rate(2, 1), limit=10)
    for key in range(1000):
        buckets.take(key, 1, key / 1000)
        assert len(buckets) <= 10


def test_the_full_ones_are_forgotten_first() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(Rate(10, 1), limit=3)
    assert buckets.take("spent", 10, 0.0)
    assert buckets.take("full again", 1, 0.0)
    assert buckets.take("used", 8, 0.0)
    assert buckets.take("new", 1, 2.0)
    assert not buckets.take("spent", 3, 2.0)
    assert not buckets.take("used", 5, 2.0)


def test_when_none_is_full_the_oldest_goes() -> None:
    buckets: TokenBuckets[str] = TokenBuckets(Rate(10, 0), limit=2)
    for key in ("first", "second", "third"):
        assert buckets.take(key, 10, 0.0)
    assert not buckets.take("second", 1, 0.0)
    assert not buckets.take("third", 1, 0.0)
    assert buckets.take("first", 10, 0.0)
