"""Packets that came before the handshake packets they need, kept until those came."""

from __future__ import annotations

from typing import Final

PACKETS_KEPT: Final = 16  # ours: more than either end sends before the handshake is confirmed


class EarlyPackets:
    """RFC 9001 Section 5.7: packets without keys yet may be kept; the library drops them.

    Without this, one packet that overtakes another at the wrong moment costs a probe timeout.
    """

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    def keep(self, payload: bytes, segment_size: int) -> None:
        """Keep those of one datagram, or of several set end to end, that have a short header."""
        step = segment_size or max(len(payload), 1)
        for start in range(0, len(payload), step):
            is_short = not payload[start] & 0x80  # RFC 9000 Section 17.3
            if is_short and len(self._kept) < PACKETS_KEPT:
                self._kept.append(payload[start : start + step])

    def take(self) -> list[bytes]:
        kept, self._kept = self._kept, []
        return kept
