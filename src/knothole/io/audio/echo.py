"""Echo, noise and gain: what a microphone and a loudspeaker in one room need."""

from __future__ import annotations

import logging
from typing import Any, Final

from knothole.io.audio.backend import FRAME_BYTES
from knothole.wire.voice import SAMPLE_RATE

_FAR_AT_MOST: Final = 10 * FRAME_BYTES  # 200 ms: the clocks of two devices drift apart

log = logging.getLogger(__name__)


class VoiceProcessor:
    """Takes the echo of what is played, and noise, out of what is recorded, and levels it.

    WebRTC's audio processing, by pywebrtc-audio. ``delay_seconds`` is how long after
    :meth:`played` its echo is recorded at the earliest: the latency of both devices together.
    Raises ImportError when the package is missing.
    """

    def __init__(self, *, delay_seconds: float) -> None:
        import numpy
        import pywebrtc_audio

        self._numpy: Any = numpy
        self._far = bytearray()
        self._processor: Any = pywebrtc_audio.AudioProcessor(
            sample_rate=SAMPLE_RATE,
            echo_cancellation=True,
            noise_suppression=True,
            high_pass_filter=True,
            auto_gain_control=True,
            stream_delay_ms=round(delay_seconds * 1000),
        )

    def played(self, samples: bytes) -> None:
        """These will sound next in the room."""
        self._far += samples
        if len(self._far) > _FAR_AT_MOST:
            del self._far[: len(self._far) - _FAR_AT_MOST // 2]

    def clean(self, frame: bytes) -> bytes:
        """The recorded frame as the other side should hear it."""
        # Where too little was played yet, silence is put in for good: from then on there is
        # always enough, at a constant distance, which is what the canceller needs.
        far = bytes(self._far[: len(frame)]).ljust(len(frame), b"\0")
        del self._far[: len(frame)]
        near_samples = self._numpy.frombuffer(frame, self._numpy.int16)
        far_samples = self._numpy.frombuffer(far, self._numpy.int16)
        cleaned: bytes = self._processor.process(near_samples, far_samples).tobytes()
        return cleaned


def voice_processor(*, delay_seconds: float) -> VoiceProcessor | None:
    """A processor, or None (and a line in the log) where pywebrtc-audio cannot be loaded."""
    try:
        return VoiceProcessor(delay_seconds=delay_seconds)
    except ImportError as error:
        log.warning("no echo cancellation: %s (pip install pywebrtc-audio); use headphones", error)
        return None
