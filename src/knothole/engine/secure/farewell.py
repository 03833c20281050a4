"""The last words of a channel, said again to a peer that goes on talking (RFC 9000 Section 10.2.1).

The library ends its closing period too early to do so itself: it counts from the connection's
beginning.
"""

from __future__ import annotations

from typing import Final

from qh3.quic.connection import QuicConnection

from knothole.engine.secure import library

REPEATS: Final = 16  # ours: the last after 32768 datagrams, a fifth of a second at full speed


class Farewell:
    """Why this end closes the channel, and the datagrams that say it."""

    def __init__(self, code: int, reason: str) -> None:
        self._code = code
        self._reason = reason
        self._words: list[bytes] | None = None
        self._heard = 0
        self._repeats = REPEATS
        self._due = True

    @classmethod
    def silent(cls) -> Farewell:
        """One that says nothing."""
        farewell = cls(0, "")
        farewell._due, farewell._repeats = False, 0
        return farewell

    def peer_spoke(self) -> None:
        """The peer seems not to know: say it again at the 1st, 2nd, 4th, 8th ... datagram of its.

        RFC 9000 Section 10.2.1: "progressively increase the number of packets".
        """
        self._heard += 1
        if self._heard.bit_count() == 1 and self._repeats > 0:
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
