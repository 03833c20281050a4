"""From any rate and number of channels to any other, as a stream."""

from __future__ import annotations

from typing import Any

from knothole.io.audio.backend import SAMPLE_BYTES


class Resampler:
    """16-bit interleaved samples in, 16-bit interleaved samples out, by FFmpeg's resampler."""

    def __init__(self, rate_in: int, channels_in: int, rate_out: int, channels_out: int) -> None:
        import av

        self._frame: Any = av.AudioFrame
        self._rate_in = rate_in
        self._layout_in = _layout(channels_in)
        self._bytes_in = channels_in * SAMPLE_BYTES
        self._bytes_out = channels_out * SAMPLE_BYTES
        self._resampler = av.AudioResampler("s16", _layout(channels_out), rate_out)

    def feed(self, samples: bytes) -> bytes:
        """What comes out for these; about as much as went in, not exactly."""
        if not samples:
            return b""
        frame = self._frame("s16", self._layout_in, len(samples) // self._bytes_in, align=1)
        frame.sample_rate = self._rate_in
        frame.planes[0].update(samples)
        return self._bytes(self._resampler.resample(frame))

    def _bytes(self, frames: list[Any]) -> bytes:
        return b"".join(bytes(f.planes[0])[: f.samples * self._bytes_out] for f in frames)


def _layout(channels: int) -> str:
    return "mono" if channels == 1 else "stereo"
