"""What a source and a sink of sound are, and the two that keep time by the loop's clock.

All sound between a backend and the call is 48 kHz, one channel, 16 bit, native byte order.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from knothole.wire.voice import FRAME_SAMPLES, FRAME_SECONDS, SAMPLE_RATE

SAMPLE_BYTES: Final = 2
FRAME_BYTES: Final = FRAME_SAMPLES * SAMPLE_BYTES

Push: TypeAlias = Callable[[bytes], None]
"""Takes one frame of 960 samples when its last sample has been spoken."""

Pull: TypeAlias = Callable[[int, float], bytes]
"""Gives at least one and at most so many samples, to sound from that loop time on."""

Stopped: TypeAlias = Callable[[Exception | None], None]
"""Told once that a backend stops by itself: None at the end of a file, otherwise what failed."""

_FRAMES_A_TURN: Final = 10  # catching up after a stall must not stop the loop again
_LATE_SECONDS: Final = 0.005
_EARLY_SECONDS: Final = 0.001  # uvloop counts milliseconds: to wait for less is to spin
_STEP_SECONDS: Final = 0.0002  # a frame: a hundredth of its length
_TURNS_FOR_OTHERS: Final = 3  # from a socket to the receiver of a line


class AudioError(Exception):
    """Sound cannot be had as asked; one clear line that says what to do."""


class Source(Protocol):
    """Where the spoken comes from. Everything is called on the loop's thread."""

    @property
    def started_at(self) -> float | None:
        """Loop time of the first sample, None before :meth:`start`."""

    @property
    def is_device(self) -> bool:
        """Whether there is a room at the other end of it, with echo and noise."""

    @property
    def latency_seconds(self) -> float:
        """How late a frame is pushed, beyond its own length."""

    async def open(self) -> None:
        """Do what takes time. Idempotent. Raises AudioError."""

    def start(self, push: Push, stopped: Stopped) -> None:
        """Begin to push one frame every 20 ms. Raises AudioError."""

    def nudge(self) -> None:
        """Something has arrived: a good moment to push what is due."""

    def close(self) -> None:
        """Stop and free everything. Idempotent."""


class Sink(Protocol):
    """Where the heard goes to. Everything is called on the loop's thread."""

    @property
    def started_at(self) -> float | None: ...
    @property
    def is_device(self) -> bool: ...
    @property
    def latency_seconds(self) -> float:
        """How long after it is pulled a sample sounds."""

    async def open(self) -> None: ...
    def start(self, pull: Pull, stopped: Stopped) -> None: ...
    def nudge(self) -> None:
        """Something has arrived: a good moment to pull what is due."""

    def close(self) -> None: ...


class PacedSource(ABC):
    """A source that is read ahead of nothing: frame k is pushed when it would have been spoken.

    Deadlines are counted from the start, so that late wake-ups never add up; after a stall the
    frames that are due follow at once. One that is nudged falls into step with that, by so little a
    frame that nobody hears it: then one wake-up does for what comes and for what goes, and wake-ups
    are most of what a call costs.
    """

    is_device = False
    latency_seconds = 0.003

    def __init__(self) -> None:
        self.started_at: float | None = None
        self._frames = 0
        self._in_step = False
        self._shift = 0.0
        self._shifted_before_frame = -1
        self._timer: asyncio.Handle | None = None

    async def open(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what takes time. Raises AudioError."""

    def start(self, push: Push, stopped: Stopped) -> None:
        self._loop = asyncio.get_running_loop()
        self._push, self._stopped = push, stopped
        self.started_at = self._loop.time()
        self._arm()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def nudge(self) -> None:
        """Push what is about due now rather than a little later."""
        if self._timer is None:
            return
        self._in_step = True
        if self._shifted_before_frame != self._frames:  # once a frame, however much arrives
            self._shifted_before_frame = self._frames
            half = FRAME_SECONDS / 2
            off = (self._loop.time() - self._due() + half) % FRAME_SECONDS - half
            self._shift += max(-_STEP_SECONDS, min(off, _STEP_SECONDS))
        if self._is_due(self.latency_seconds):
            self._timer.cancel()
            self._tick(self.latency_seconds)

    @abstractmethod
    def read(self) -> bytes | None:
        """The next frame, None at the end. Raises AudioError or OSError."""

    def _tick(self, early_seconds: float = _EARLY_SECONDS) -> None:
        for _ in range(_FRAMES_A_TURN):
            if not self._is_due(early_seconds):
                self._arm()
                return
            try:
                frame = self.read()
            except (AudioError, OSError) as error:
                self._timer = None
                self._stopped(error)
                return
            if frame is None:
                self._timer = None
                self._stopped(None)
                return
            self._frames += 1
            self._push(frame)
            if self._timer is None:  # closed while it was pushed
                return
        self._timer = self._loop.call_soon(self._tick)

    def _arm(self) -> None:
        waits = self.latency_seconds if self._in_step else 0.0
        self._timer = self._loop.call_at(self._due() + waits, self._tick)

    def _is_due(self, early_seconds: float) -> bool:
        return self._loop.time() >= self._due() - early_seconds

    def _due(self) -> float:
        assert self.started_at is not None
        return self.started_at + self._shift + (self._frames + 1) * FRAME_SAMPLES / SAMPLE_RATE


class PacedSink(ABC):
    """A sink whose sample n sounds at its start + n / 48000, whatever the loop does meanwhile.

    Frames fall due just when packets arrive (the jitter buffer's delay is a multiple of a frame).
    So it waits a little to be nudged: one wake-up for both is what half of the work costs.
    """

    is_device = False
    latency_seconds = 0.003

    def __init__(self) -> None:
        self.started_at: float | None = None
        self._samples = 0
        self._given_way = 0
        self._timer: asyncio.Handle | None = None

    async def open(self) -> None:  # noqa: B027 - most have nothing to do
        """Do what takes time. Raises AudioError."""

    def start(self, pull: Pull, stopped: Stopped) -> None:
        self._loop = asyncio.get_running_loop()
        self._pull, self._stopped = pull, stopped
        self.started_at = self._loop.time()
        self._timer = self._loop.call_soon(self._tick)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def nudge(self) -> None:
        """Pull what is due now rather than a little later."""
        if self._timer is not None and self._loop.time() >= self._due() - _EARLY_SECONDS:
            self._timer.cancel()
            self._tick()

    @abstractmethod
    def write(self, samples: bytes) -> None:
        """Play, keep or drop these. Raises AudioError or OSError."""

    def _tick(self) -> None:
        # Late: what has arrived meanwhile goes first, it would have been in time.
        late = self._loop.time() - self._due() > self.latency_seconds + _LATE_SECONDS
        if late and self._given_way < _TURNS_FOR_OTHERS:
            self._given_way += 1
            self._timer = self._loop.call_soon(self._tick)
            return
        self._given_way = 0
        for _ in range(_FRAMES_A_TURN):
            due = self._due()
            if self._loop.time() < due - _EARLY_SECONDS:
                self._timer = self._loop.call_at(due + self.latency_seconds, self._tick)
                return
            samples = self._pull(FRAME_SAMPLES, due)
            self._samples += len(samples) // SAMPLE_BYTES
            try:
                self.write(samples)
            except (AudioError, OSError) as error:
                self._timer = None
                self._stopped(error)
                return
            if self._timer is None:  # closed while it was pulled
                return
        self._timer = self._loop.call_soon(self._tick)

    def _due(self) -> float:
        assert self.started_at is not None
        return self.started_at + self._samples / SAMPLE_RATE
