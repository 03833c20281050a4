"""The two halves of a stream: bytes waiting to go, and how many may come.

The QUIC library gives the sender new credit as soon as it hands bytes over, read or not. So a
channel has credit of its own, per stream: a slow reader holds up its own stream and no other, and
what it leaves unread is bounded (docs/protocol/connection.md).
"""

from __future__ import annotations

from collections import deque
from typing import Final

# Ours. The first window is what a reader that never reads can cost; it lets 256 KiB go in the
# first round trip. The largest is what 1.5 Gbit/s need at 40 ms, and what QUIC itself allows.
FIRST_WINDOW: Final = 256 * 1024
LARGEST_WINDOW: Final = 8 * 1024 * 1024
LARGEST_WINDOWS_TOGETHER: Final = 64 * 1024 * 1024


class ReceiveBudget:
    """What all windows of one channel may come to; only growth asks, first windows are given."""

    def __init__(self, limit: int = LARGEST_WINDOWS_TOGETHER) -> None:
        self._free = limit

    def take(self, size: int) -> bool:
        if size > self._free:
            return False
        self._free -= size
        return True

    def give_back(self, size: int) -> None:
        self._free += size


class SendingHalf:
    """Bytes written and not yet handed to QUIC, and how many the peer has allowed."""

    def __init__(self) -> None:
        self._queue: deque[memoryview] = deque()
        self._queued = 0
        self._handed_over = 0
        self._limit = FIRST_WINDOW
        self._end = False
        self.is_done = False
        """No byte will leave any more: the end was handed over, or the stream was reset."""

    @property
    def backlog(self) -> int:
        return self._queued

    @property
    def has_begun(self) -> bool:
        """Something was handed over."""
        return self._handed_over > 0 or self.is_done

    @property
    def has_ended(self) -> bool:
        """The end was written, or the stream was reset."""
        return self._end or self.is_done

    @property
    def ends_alone(self) -> bool:
        """Only the end is left, and bytes have gone before it."""
        return self._end and not self._queue and self._handed_over > 0 and not self.is_done

    def write(self, data: bytes | bytearray | memoryview, end: bool) -> None:
        if data:
            view = memoryview(bytes(data))
            self._queue.append(view)
            self._queued += len(view)
        self._end = self._end or end

    def allow(self, limit: int) -> None:
        self._limit = max(self._limit, limit)

    def next_piece(self, most: int) -> tuple[memoryview, bool] | None:
        """At most ``most`` bytes to hand over now, and whether they are the last; None for none."""
        if self.is_done:
            return None
        if not self._queue:
            if not self._end:
                return None
            self.is_done = True
            return memoryview(b""), True
        size = min(most, len(self._queue[0]), self._limit - self._handed_over)
        if size <= 0:
            return None
        head = self._queue.popleft()
        if size < len(head):
            self._queue.appendleft(head[size:])
        self._queued -= size
        self._handed_over += size
        self.is_done = self._end and not self._queue
        return head[:size], self.is_done

    def drop(self) -> None:
        """Forget what is queued."""
        self._queue.clear()
        self._queued = 0

    def abandon(self) -> None:
        """Nothing more is to be handed over."""
        self.drop()
        self.is_done = True


class ReceivingHalf:
    """Counts what came and what was read; says when the peer is to be allowed more."""

    def __init__(self, budget: ReceiveBudget) -> None:
        self._budget = budget
        self._window = FIRST_WINDOW
        self._received = 0
        self._consumed = 0
        self._limit = FIRST_WINDOW
        self._grown_at = 0
        self.is_done = False
        """Nothing more will come: the end came, or a reset."""

    @property
    def unread(self) -> int:
        return self._received - self._consumed

    def received(self, size: int) -> bool:
        """Count ``size`` bytes that came; False when the peer was not allowed so many."""
        self._received += size
        return self._received <= self._limit

    def consumed(self, size: int) -> int | None:
        """Count ``size`` bytes that were read; the new limit when it is worth telling.

        The window doubles each time a whole window went by and the reader has nothing left to
        read: only a stream whose reader keeps up gets a large one.
        """
        if size < 0 or size > self.unread:
            raise ValueError(f"{size} bytes read of {self.unread} that came")
        self._consumed += size
        if self.is_done:
            return None
        if self.unread == 0 and self._consumed - self._grown_at >= self._window:
            self._grow()
        if self._consumed + self._window - self._limit < self._window // 2:
            return None
        self._limit = self._consumed + self._window
        return self._limit

    def finish(self) -> None:
        """Nothing more will come: what the window had grown by is free for other streams."""
        if not self.is_done:
            self.is_done = True
            self._budget.give_back(self._window - FIRST_WINDOW)

    def _grow(self) -> None:
        self._grown_at = self._consumed
        if self._window < LARGEST_WINDOW and self._budget.take(self._window):
            self._window *= 2
