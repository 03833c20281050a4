"""Calls that were closed here, while the other end may not have heard it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from knothole.engine.core import least
from knothole.engine.endpoint.call import Call

PARTING_SECONDS: Final = 3.0
"""Ours: so long a line that was closed here goes on saying so to an end that has not heard it."""

MAX_PARTING: Final = 64


class PartingCalls:
    """The newest of them, each for :data:`PARTING_SECONDS`."""

    def __init__(self) -> None:
        self._calls: dict[bytes, tuple[float, Call]] = {}

    def __iter__(self) -> Iterator[Call]:
        return (call for _, call in self._calls.values())

    def add(self, call: Call, now: float) -> None:
        """``call`` is closed from ``now`` on."""
        self._calls[call.call_id] = (now + PARTING_SECONDS, call)
        if len(self._calls) > MAX_PARTING:
            del self._calls[next(iter(self._calls))]

    def forget(self, now: float) -> None:
        """Let go of those whose time is over."""
        for call_id in [call_id for call_id, (until, _) in self._calls.items() if until <= now]:
            del self._calls[call_id]

    def next_timeout(self) -> float | None:
        return least(*(until for until, _ in self._calls.values()))
