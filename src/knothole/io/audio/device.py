"""Microphones and loudspeakers by PortAudio, whose callbacks run in a thread of their own.

The thread only moves bytes: blocks from the microphone are handed to the loop, blocks for the
loudspeaker are taken from a short queue that the loop keeps filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from knothole.io.audio.backend import (
    FRAME_BYTES,
    SAMPLE_BYTES,
    AudioError,
    Pull,
    Push,
    Stopped,
)
from knothole.io.audio.resample import Resampler
from knothole.wire.voice import SAMPLE_RATE

Direction = Literal["input", "output"]

_BLOCK_SECONDS: Final = 0.010
_LATENCY_SECONDS: Final = 0.020  # asked of the driver: "low" is too little for Python's threads
_QUEUED_SECONDS: Final = 0.020  # ahead of the loudspeaker: a block, and one for a late loop
_QUEUED_MOST_SECONDS: Final = 0.100
_GROWS_EVERY_SECONDS: Final = 1.0
_AHEAD_SECONDS: Final = 0.5  # a device that is faster than that is no device (ALSA's null)
_OTHERWISE: Final = {
    "input": "speak from --in FILE.wav, tone or null instead",
    "output": "record to --out FILE.wav or null instead",
}
_STEADY_BLOCKS: Final = 10  # some drivers take three blocks at once, then none for a second
_STEADY_WAIT_SECONDS: Final = 1.5
_opening: Final = threading.Lock()  # PortAudio starts up in one thread


@dataclass(frozen=True, slots=True)
class SoundDevice:
    """One device as PortAudio names it; ``inputs`` and ``outputs`` are channels."""

    index: int
    name: str
    inputs: int
    outputs: int
    is_default_input: bool
    is_default_output: bool


def list_devices() -> list[SoundDevice]:
    """All sound devices of this machine, possibly none. Raises AudioError without PortAudio."""
    with _opening:
        sounddevice = _sounddevice("output")
        default_input, default_output = sounddevice.default.device
        return [
            SoundDevice(
                index=index,
                name=device["name"],
                inputs=device["max_input_channels"],
                outputs=device["max_output_channels"],
                is_default_input=index == default_input,
                is_default_output=index == default_output,
            )
            for index, device in enumerate(sounddevice.query_devices())
        ]


class _Device:
    """What both directions share: finding the device, and a stream in a form it can do."""

    is_device = True

    def __init__(self, direction: Direction, name: str | None) -> None:
        self.started_at: float | None = None
        self._direction = direction
        self._name = name
        self._stream: Any = None
        self._closed = False
        self._blocks = 0
        self._steady = threading.Event()

    @property
    def latency_seconds(self) -> float:
        """What PortAudio says that the device and its driver add."""
        return 0.0 if self._stream is None else float(self._stream.latency)

    async def open(self) -> None:
        """Find the device and let it run, in a thread: that may take 1.5 s. Raises AudioError.

        Until :meth:`start` a microphone is not listened to and a loudspeaker plays silence.
        """
        if self._stream is None:
            self._loop = asyncio.get_running_loop()
            await asyncio.to_thread(self._open)

    def _open(self) -> None:
        with _opening:
            sounddevice = _sounddevice(self._direction)
            device, info = _find(sounddevice, self._direction, self._name)
            rate, channels = self._settings(sounddevice, device, info)
            kind = (
                sounddevice.RawInputStream
                if self._direction == "input"
                else sounddevice.RawOutputStream
            )
            self._connect(rate, channels)
            try:
                self._stream = kind(
                    samplerate=rate,
                    channels=channels,
                    dtype="int16",
                    blocksize=round(rate * _BLOCK_SECONDS),
                    device=device,
                    latency=_LATENCY_SECONDS,
                    callback=self._callback,
                    finished_callback=self._finished,
                )
                self._stream.start()
                self._steady.wait(_STEADY_WAIT_SECONDS)
            except sounddevice.PortAudioError as error:
                raise self._unusable(error) from error

    def _settings(self, sounddevice: Any, device: int, info: Any) -> tuple[int, int]:
        """48 kHz mono where the device can, otherwise what it likes best."""
        check = getattr(sounddevice, f"check_{self._direction}_settings")
        most = min(2, info[f"max_{self._direction}_channels"])
        for rate in (SAMPLE_RATE, int(info["default_samplerate"])):
            for channels in (1, most):
                with contextlib.suppress(sounddevice.PortAudioError):
                    check(device=device, channels=channels, dtype="int16", samplerate=rate)
                    return rate, channels
        return SAMPLE_RATE, 1  # opening it says what is wrong

    def _begin(self, stopped: Stopped) -> None:
        self._stopped = stopped
        self.started_at = self._loop.time()

    def close(self) -> None:
        self._closed = True
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.abort(ignore_errors=True)
            stream.close(ignore_errors=True)

    def _connect(self, rate: int, channels: int) -> None:
        raise NotImplementedError

    def _callback(self, data: Any, frames: int, time: Any, status: Any) -> None:
        """Called in PortAudio's thread for every block."""
        self._blocks += 1
        if self._blocks == _STEADY_BLOCKS:
            self._steady.set()

    def _finished(self) -> None:
        """Called in PortAudio's thread when the stream has stopped, for whatever reason."""
        self._to_loop(self._report_finished)

    def _report_finished(self) -> None:
        if not self._closed and self.started_at is not None:
            self._stopped(AudioError(f"the {self._direction} sound device has stopped"))

    def _to_loop(self, call: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def _unusable(self, error: Exception) -> AudioError:
        name = "the default sound device" if self._name is None else f"sound device {self._name!r}"
        return AudioError(
            f"{name} cannot be used for {self._direction}: {error}; {_OTHERWISE[self._direction]}"
        )


class DeviceSource(_Device):
    """A microphone; ``name`` is part of its name or its number, None for the default."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__("input", name)
        self._buffer = bytearray()
        self._captured_bytes = 0
        self._resampler: Resampler | None = None

    def start(self, push: Push, stopped: Stopped) -> None:
        self._push = push
        self._begin(stopped)

    def nudge(self) -> None:
        """The device alone says when there is more."""

    def _connect(self, rate: int, channels: int) -> None:
        if (rate, channels) != (SAMPLE_RATE, 1):
            self._resampler = Resampler(rate, channels, SAMPLE_RATE, 1)

    def _callback(self, data: Any, frames: int, time: Any, status: Any) -> None:
        super()._callback(data, frames, time, status)
        if self.started_at is not None:
            self._to_loop(self._captured, bytes(data))

    def _captured(self, block: bytes) -> None:
        if self._closed or self.started_at is None:
            return
        samples = block if self._resampler is None else self._resampler.feed(block)
        if _seconds(self._captured_bytes) > self._loop.time() - self.started_at + _AHEAD_SECONDS:
            return
        self._captured_bytes += len(samples)
        self._buffer += samples
        while len(self._buffer) >= FRAME_BYTES and not self._closed:
            frame = bytes(self._buffer[:FRAME_BYTES])
            del self._buffer[:FRAME_BYTES]
            self._push(frame)


class DeviceSink(_Device):
    """A loudspeaker; ``name`` is part of its name or its number, None for the default."""

    def __init__(self, name: str | None = None) -> None:
        super().__init__("output", name)
        self._lock = threading.Lock()
        self._queue = bytearray()  # in the form of the device; under the lock
        self._bytes_a_second = 0
        self._pulled_bytes = 0
        self._resampler: Resampler | None = None
        self._queued_seconds = _QUEUED_SECONDS
        self._grew_at = 0.0
        self._underruns_before = 0
        self.underruns = 0
        """Blocks that the loop was too late to fill."""

    @property
    def latency_seconds(self) -> float:
        return super().latency_seconds + self._queued_seconds

    def start(self, pull: Pull, stopped: Stopped) -> None:
        self._pull = pull
        self._begin(stopped)
        self._fill()

    def nudge(self) -> None:
        """The device alone says when it wants more."""

    def _connect(self, rate: int, channels: int) -> None:
        self._bytes_a_second = rate * channels * SAMPLE_BYTES
        if (rate, channels) != (SAMPLE_RATE, 1):
            self._resampler = Resampler(SAMPLE_RATE, 1, rate, channels)

    def _callback(self, data: Any, frames: int, time: Any, status: Any) -> None:
        super()._callback(data, frames, time, status)
        size = len(data)
        if self.started_at is None:
            data[:] = bytes(size)
            return
        with self._lock:
            block = bytes(self._queue[:size])
            del self._queue[:size]
        if len(block) < size:
            self.underruns += 1
        data[:] = block.ljust(size, b"\0")
        self._to_loop(self._fill)

    def _grow(self) -> None:
        """Keep more ahead where the loop is late again and again."""
        now = self._loop.time()
        if self.underruns > self._underruns_before and now - self._grew_at > _GROWS_EVERY_SECONDS:
            self._grew_at = now
            self._queued_seconds = min(_QUEUED_MOST_SECONDS, self._queued_seconds + _BLOCK_SECONDS)
        self._underruns_before = self.underruns

    def _fill(self) -> None:
        self._grow()
        wanted = int(self._queued_seconds * self._bytes_a_second)
        while not self._closed and self.started_at is not None:
            with self._lock:
                missing = wanted - len(self._queue)
            if missing <= 0:
                return
            now = self._loop.time()
            if _seconds(self._pulled_bytes) > now - self.started_at + _AHEAD_SECONDS:
                return
            samples = self._pull(FRAME_BYTES // 2 // SAMPLE_BYTES, now)
            self._pulled_bytes += len(samples)
            if self._resampler is not None:
                samples = self._resampler.feed(samples)
            with self._lock:
                self._queue += samples


def _seconds(size: int) -> float:
    return size / SAMPLE_BYTES / SAMPLE_RATE


def _sounddevice(direction: Direction) -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise AudioError(
            f"no sound devices: {error} (on Debian: apt install libportaudio2); "
            f"{_OTHERWISE[direction]}"
        ) from error
    return sounddevice


def _find(sounddevice: Any, direction: Direction, name: str | None) -> tuple[int, Any]:
    wanted: int | str | None = int(name) if name is not None and name.isdecimal() else name
    try:
        info = sounddevice.query_devices(wanted, direction)
    except (ValueError, sounddevice.PortAudioError) as error:
        usable = [
            repr(device["name"])
            for device in sounddevice.query_devices()
            if device[f"max_{direction}_channels"]
        ]
        if not usable:
            problem = f"this machine has no sound device for {direction}"
        elif name is None:
            problem = f"no default sound device for {direction}; there are {', '.join(usable)}"
        else:
            problem = f"{error}; there are {', '.join(usable)}"
        raise AudioError(f"{problem}; {_OTHERWISE[direction]}") from error
    return info["index"], info
