"""A source that says nothing and a sink that drops everything, both in real time."""

from __future__ import annotations

from knothole.io.audio.backend import FRAME_BYTES, PacedSink, PacedSource

_SILENCE = bytes(FRAME_BYTES)


class NullSource(PacedSource):
    """Digital silence, for ever."""

    def read(self) -> bytes:
        return _SILENCE


class NullSink(PacedSink):
    """Pulls in real time, as a call needs it, and drops."""

    def write(self, samples: bytes) -> None:
        pass
