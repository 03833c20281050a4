"""How loud a frame is."""

from __future__ import annotations

import math
from array import array
from collections import deque
from operator import mul
from typing import Final

from knothole.wire.voice import FRAME_SECONDS

SILENCE_DB: Final = -127.0  # RFC 6464 Section 3: the lowest level there is, digital silence

_STRIDE: Final = 12  # every 12th sample has the same mean square, for a twelfth of the work
_FULL_SCALE: Final = 32768.0


def level_db(frame: bytes) -> float:
    """The level of 16-bit samples in dB relative to the loudest possible square wave (dBov).

    Between 0.0 and :data:`SILENCE_DB`; RFC 6464 Section 3, RFC 6465 Appendix A.1.
    """
    samples = array("h", frame)[::_STRIDE]
    energy = sum(map(mul, samples, samples))
    if not energy:
        return SILENCE_DB
    mean_square = energy / len(samples) / _FULL_SCALE**2
    return max(SILENCE_DB, 10 * math.log10(mean_square))


class LevelMeter:
    """The mean level of the last second. It is worked out when it is read: that is seldom."""

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque(maxlen=round(1 / FRAME_SECONDS))

    def add(self, frame: bytes) -> None:
        """One more frame, as 16-bit samples."""
        self._frames.append(frame)

    def read(self) -> float:
        """The mean in dBov, that of silence before the first frame."""
        return level_db(b"".join(self._frames))
