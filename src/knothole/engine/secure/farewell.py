"""The last words of a channel, said again to a peer that goes on talking (RFC 9000 Section 10.2.1).

The library ends its closing period too early to do so itself: it counts from the connection's
beginning.
"""

from __future__ import annotations

from typing import Final

from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library

REPEATS: Final = 8  # ours: a peer that has not heard so many times is out of reach


class Farewell:
    """Why this end closes the channel, and the datagrams that say it."""

    def __init__(self, code: int, reason: str) -> None:
        self._code = code
        self._reason = reason
        self._words: list[bytes] | None = None
        self._repeats = REPEATS
        self._due = True

    @classmethod
    def silent(cls) -> Farewell:
        """One that says nothing."""
        farewell = cls(0, "")
        farewell._due, farewell._repeats = False, 0
        return farewell

    def peer_spoke(self) -> None:
        """The peer seems not to know."""
        if self._repeats > 0 and not self._due:
            self._repeats -= 1
            self._due = True

    def say(self, quic: QuicConnection, inner_now: float, most: int) -> list[bytes]:
        """The datagrams to send now. Raises LibraryFault."""
        if not self._due:
            return []
        self._due = False
        if self._words is None:
            # What is left of our part of the handshake goes before, or nobody could read this.
            before = library.take_datagrams(quic, inner_now, most)
            quic.close(self._code, None, self._reason)
            self._words = before + library.take_datagrams(quic, inner_now, most)
        return self._words
