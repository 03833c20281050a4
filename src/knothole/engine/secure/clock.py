"""The time that a channel's QUIC connection sees: it stands still while the other side rings."""

from __future__ import annotations


class ChannelClock:
    """Runs from :meth:`start`; the time before that counts as ``longest_wait`` seconds at most.

    So ringing neither times a handshake out, nor is it taken for a round trip.
    """

    def __init__(self, now: float, longest_wait: float) -> None:
        self._made = now
        self._longest_wait = longest_wait
        self._behind: float | None = None

    @property
    def is_running(self) -> bool:
        return self._behind is not None

    def start(self, now: float) -> None:
        if self._behind is None:
            self._behind = max(0.0, now - self._made - self._longest_wait)

    def inner(self, now: float) -> float:
        """What the connection is told it is."""
        if self._behind is None:
            return min(now, self._made + self._longest_wait)
        return now - self._behind

    def outer(self, inner: float | None) -> float | None:
        """When a timer of the connection is due; never while the clock stands still."""
        if inner is None or self._behind is None:
            return None
        return inner + self._behind
