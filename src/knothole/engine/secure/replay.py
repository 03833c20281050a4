"""Which calls this process has seen, so that an old offer does not ring twice."""

from __future__ import annotations

from typing import Final

REMEMBERED_CALLS: Final = 16384  # ours: about 2 MB; an older replay costs one ring and nothing else


class SeenCalls:
    """The last calls offered to us, by the key that signed the offer and the call's id.

    The call id stands inside the signed statement, so an offer under a new id is no longer the
    caller's offer. A replay that is not remembered any more cannot complete: the caller's
    ephemeral keys are gone, so QUIC never gets past its first flight.
    """

    def __init__(self, capacity: int = REMEMBERED_CALLS) -> None:
        self._capacity = capacity
        self._seen: dict[tuple[bytes, bytes], None] = {}

    def remember(self, caller_key: bytes, call_id: bytes) -> bool:
        """True when this call is new; the oldest is forgotten when there are too many."""
        call = (caller_key, call_id)
        if call in self._seen:
            return False
        self._seen[call] = None
        if len(self._seen) > self._capacity:
            del self._seen[next(iter(self._seen))]
        return True
