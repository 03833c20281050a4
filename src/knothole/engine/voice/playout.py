"""From packets to samples: the jitter buffer and the decoder as one source of sound."""

from __future__ import annotations

from array import array
from typing import Final, Protocol

from knothole.engine.voice.jitter import (
    FIRST_DELAY_SECONDS,
    Conceal,
    Decode,
    JitterBuffer,
    Recover,
    Silence,
)
from knothole.engine.voice.level import LevelMeter, level_db
from knothole.wire.malformed import MalformedMessage
from knothole.wire.voice import FRAME_SAMPLES, MediaPacket

_SAMPLE_BYTES: Final = 2
_PAUSE_DB: Final = -55.0  # ours: quieter than a room
_CUT_SAMPLES: Final = 240  # 5 ms of a frame


class Decoder(Protocol):
    """What turns Opus packets into 16-bit samples at 48 kHz, one channel.

    ``decode`` and ``recover`` raise MalformedMessage for a payload that is no Opus packet.
    """

    def decode(self, payload: bytes) -> bytes: ...
    def recover(self, following: bytes) -> bytes: ...
    def conceal(self, samples: int) -> bytes: ...


class Playout:
    """Plays what arrives; always has something to play."""

    def __init__(
        self, decoder: Decoder, *, calm_delay_seconds: float = FIRST_DELAY_SECONDS
    ) -> None:
        self._decoder = decoder
        self._buffer = JitterBuffer(calm_delay_seconds=calm_delay_seconds)
        self._rest = b""
        self.level = LevelMeter()
        self.frames = 0
        """Frames of speech played, made-up ones included."""
        self.recovered = 0
        """Frames taken from the copy in the packet after them."""
        self.concealed = 0
        """Frames made up."""

    @property
    def late(self) -> int:
        """Packets that came after their turn."""
        return self._buffer.late

    @property
    def delay_seconds(self) -> float:
        """How long a frame waits between its arrival and its sound."""
        return self._buffer.delay_seconds

    def receive(self, packet: MediaPacket, now: float) -> None:
        """Take in a packet that arrived at ``now``."""
        self._buffer.put(packet, now)

    def pull(self, count: int, now: float) -> bytes:
        """The samples that sound from ``now`` on: at least one, at most ``count`` (above 0).

        Fewer than asked for come where a frame ends. Whoever plays against a clock asks again
        when those have been played, and so falls into step with the frames.
        """
        if not self._rest:
            self._rest = self._next(now)
        cut = count * _SAMPLE_BYTES
        samples, self._rest = self._rest[:cut], self._rest[cut:]
        return samples

    def has_played(self, timestamp: int) -> bool:
        """Whether everything before ``timestamp`` has been pulled, or there never was anything."""
        upcoming = self._buffer.next_timestamp
        if upcoming is None:
            return True
        return not self._rest and (upcoming - timestamp) % (1 << 32) < 1 << 31

    def _next(self, now: float) -> bytes:
        playable = self._buffer.take(now)
        if isinstance(playable, Silence):
            samples = bytes(playable.samples * _SAMPLE_BYTES)
            self.level.add(samples)
            return samples
        self.frames += 1
        try:
            match playable:
                case Decode(payload, stretch):
                    samples = _stretched(self._decoder.decode(payload), stretch)
                case Recover(following):
                    samples = self._decoder.recover(following)
                    self.recovered += 1
                case Conceal(count):
                    samples = self._decoder.conceal(count)
                    self.concealed += 1
        except MalformedMessage:
            samples = self._decoder.conceal(FRAME_SAMPLES)
            self.concealed += 1
        self.level.add(samples)
        excess = self._buffer.excess_samples
        if excess > 0 and level_db(samples) < _PAUSE_DB:
            cut = min(_CUT_SAMPLES, excess)
            self._buffer.cut(cut)
            samples = samples[: -cut * _SAMPLE_BYTES]
        return samples


def _stretched(frame: bytes, stretch: int) -> bytes:
    """The frame with a few samples repeated (or left out), where that changes the wave least."""
    if not stretch:
        return frame
    samples = array("h", frame)
    part = len(samples) // abs(stretch)
    for start in reversed(range(0, part * abs(stretch), part)):
        at = min(range(start + 1, start + part), key=lambda i: abs(samples[i] - samples[i - 1]))
        if stretch > 0:
            samples.insert(at, samples[at])
        else:
            del samples[at]
    return samples.tobytes()
