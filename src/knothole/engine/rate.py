"""So much at once, so much in a second: token buckets, and tables of them."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)

MAX_BUCKETS: Final = 10_000  # ours: a table of them stays under two megabytes


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then ``per_second``."""

    burst: float
    per_second: float


class TokenBucket:
    """A :class:`Rate` as it is used up."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = rate.burst
        self._at = now

    def take(self, amount: float, now: float) -> bool:
        """True when ``amount`` was there; otherwise nothing is taken."""
        self._refill(now)
        if amount > self._tokens:
            return False
        self._tokens -= amount
        return True

    def is_full(self, now: float) -> bool:
        """True when nothing is used up, so that the bucket can be forgotten."""
        self._refill(now)
        return self._tokens >= self._rate.burst

    def _refill(self, now: float) -> None:
        gained = (now - self._at) * self._rate.per_second
        self._tokens = min(self._rate.burst, self._tokens + gained)
        self._at = now


class TokenBuckets(Generic[KeyT]):
    """One bucket of the same rate for each key, for so many keys at most.

    Those that are full are forgotten when room is needed; if none is, the oldest is. Whoever has
    ``limit`` keys to spend can so have more than the rate, but only spread over them.
    """

    def __init__(self, rate: Rate, limit: int = MAX_BUCKETS) -> None:
        self._rate, self._limit = rate, limit
        self._buckets: dict[KeyT, TokenBucket] = {}
        self._sorted_out_at = float("-inf")

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: KeyT, amount: float, now: float) -> bool:
        """Take ``amount`` out of the bucket of ``key``; False when it is not there."""
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._limit:
                self._make_room(now)
            bucket = self._buckets[key] = TokenBucket(self._rate, now)
        return bucket.take(amount, now)

    def _make_room(self, now: float) -> None:
        # Looking through all of them for every stranger would be an attack's best part.
        if now - self._sorted_out_at >= 1:
            self._sorted_out_at = now
            kept = {key: each for key, each in self._buckets.items() if not each.is_full(now)}
            self._buckets = kept
        if len(self._buckets) >= self._limit:
            del self._buckets[next(iter(self._buckets))]
