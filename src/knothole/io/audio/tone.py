"""A steady tone, to test a call without a microphone."""

from __future__ import annotations

import math
from array import array
from typing import Final

from knothole.io.audio.backend import FRAME_BYTES, SAMPLE_BYTES, PacedSource
from knothole.wire.voice import FRAME_SAMPLES, SAMPLE_RATE

FREQUENCY: Final = 440
_AMPLITUDE: Final = 3277  # a tenth of full scale, -20 dB
_LOOP_SAMPLES: Final = 1200  # 11 whole waves


class ToneSource(PacedSource):
    """440 Hz at a tenth of full scale, for ever."""

    def __init__(self) -> None:
        super().__init__()
        wave = array(
            "h",
            (
                round(_AMPLITUDE * math.sin(2 * math.pi * FREQUENCY * n / SAMPLE_RATE))
                for n in range(_LOOP_SAMPLES + FRAME_SAMPLES)
            ),
        )
        self._wave = wave.tobytes()
        self._position = 0

    def read(self) -> bytes:
        frame = self._wave[self._position : self._position + FRAME_BYTES]
        self._position = (self._position + FRAME_BYTES) % (_LOOP_SAMPLES * SAMPLE_BYTES)
        return frame
