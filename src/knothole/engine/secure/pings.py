"""Questions that only want an answer, and how long that took."""

from __future__ import annotations

import itertools
from typing import Final

from knothole.engine.secure.events import PingAnswered

KEEPALIVE_PING: Final = 0  # whose answer nobody waits for
PINGS_KEPT: Final = 256  # ours: QUIC does not send a lost PING again, so some are never answered


class Pings:
    """The pings of one channel that are not answered yet."""

    def __init__(self) -> None:
        self._asked_at: dict[int, float] = {}
        self._ids = itertools.count(KEEPALIVE_PING + 1)

    def ask(self, now: float) -> int:
        """The id of a new ping; the oldest is forgotten when there are too many."""
        ping_id = next(self._ids)
        self._asked_at[ping_id] = now
        if len(self._asked_at) > PINGS_KEPT:
            del self._asked_at[next(iter(self._asked_at))]
        return ping_id

    def answered(self, ping_id: int, now: float) -> list[PingAnswered]:
        """What to report of an answer: one event, or none."""
        asked_at = self._asked_at.pop(ping_id, None)
        return [] if asked_at is None else [PingAnswered(ping_id, now - asked_at)]
