"""How long to wait before connecting again."""

from __future__ import annotations

from typing import Final

from knothole.engine.core import RandomBytes

# Ours: at most 3 s between tries, so that everybody is back within 5 s after the server is; half
# of each delay is chance, so that not everybody comes at once.
DELAYS_SECONDS: Final = (0.1, 0.5, 1.0, 2.0, 3.0)


class Backoff:
    """Growing delays with jitter."""

    def __init__(self, random: RandomBytes) -> None:
        self._random = random
        self._tries = 0

    def next_delay(self) -> float:
        """Seconds to wait now; the next time it is longer."""
        delay = DELAYS_SECONDS[min(self._tries, len(DELAYS_SECONDS) - 1)]
        self._tries += 1
        return delay * (0.5 + int.from_bytes(self._random(2), "big") / 0x1FFFE)

    def reset(self) -> None:
        self._tries = 0
