from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from knothole.io.audio import list_devices
from knothole.io.audio.backend import AudioError
from knothole.io.audio.device import DeviceSink, DeviceSource

MICROPHONE = {
    "index": 0,
    "name": "Microphone",
    "max_input_channels": 2,
    "max_output_channels": 0,
    "default_samplerate": 44_100.0,
}
LOUDSPEAKER = MICROPHONE | {
    "index": 1,
    "name": "Loudspeaker",
    "max_input_channels": 0,
    "max_output_channels": 2,
}


class PortAudioError(Exception):
    pass


class Stream:
    """A stream whose callback a test calls itself, from a thread as PortAudio does."""

    opened: Stream

    def __init__(self, **settings: Any) -> None:
        Stream.opened = self
        self.settings = settings
        self.latency = 0.012
        self.running = False

    def start(self) -> None:
        """PortAudio begins at once; a test wants to give every block after that itself."""
        self.running = True
        for _ in range(10):
            self.call(memoryview(bytearray(4 * self.settings["blocksize"])))

    def abort(self, ignore_errors: bool = True) -> None:
        self.running = False
        self.settings["finished_callback"]()

    def close(self, ignore_errors: bool = True) -> None:
        self.running = False

    def call(self, data: Any) -> None:
        frames = len(data) // 2 // self.settings["channels"]
        self.in_a_thread(lambda: self.settings["callback"](data, frames, None, None))

    def in_a_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A machine with a microphone and a loudspeaker that do 48 kHz mono."""
    module: Any = ModuleType("sounddevice")
    module.devices = [MICROPHONE, LOUDSPEAKER]
    module.settings_refused = lambda **settings: False

    def query(device: int | str | None = None, kind: str | None = None) -> Any:
        if device is None and kind is None:
            return module.devices
        usable = [d for d in module.devices if d[f"max_{kind}_channels"]]
        if device is None and not usable:
            raise PortAudioError("Error querying device -1")
        named = [d for d in usable if device is None or device in (d["index"], d["name"])]
        if not named:
            raise ValueError(f"No {kind} device matching {device!r}")
        return named[0]

    def check(**settings: Any) -> None:
        if module.settings_refused(**settings):
            raise PortAudioError("Invalid sample rate")

    module.query_devices = query
    module.check_input_settings = module.check_output_settings = check
    module.RawInputStream = module.RawOutputStream = Stream
    module.PortAudioError = PortAudioError
    module.default = type("default", (), {"device": (0, 1)})
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    return module


async def turns() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_device_runs_before_the_call_begins_and_is_not_heard_until_then(
    sounddevice: ModuleType,
) -> None:
    source, sink = DeviceSource(), DeviceSink()
    await source.open()
    microphone = Stream.opened
    await sink.open()
    frames: list[bytes] = []
    block = bytearray(b"x" * 960)
    microphone.call(bytes(1920))
    Stream.opened.call(memoryview(block))
    assert block == bytes(960)
    source.start(frames.append, lambda error: None)
    await turns()
    assert not frames and not sink.underruns
    source.close()
    sink.close()


async def test_blocks_of_the_microphone_become_frames_on_the_loop(sounddevice: ModuleType) -> None:
    source = DeviceSource()
    await source.open()
    frames: list[tuple[bytes, int]] = []
    source.start(lambda frame: frames.append((frame, threading.get_ident())), lambda error: None)
    stream = Stream.opened
    assert stream.settings["samplerate"] == 48_000 and stream.settings["channels"] == 1
    assert stream.settings["blocksize"] == 480 and stream.running
    sound = np.arange(1200, dtype=np.int16).tobytes()
    for start in range(0, 2400, 480):
        stream.call(sound[start : start + 480])
    await turns()
    assert frames == [(sound[:1920], threading.get_ident())]
    source.close()
    stream.call(bytes(1920))
    await turns()
    assert len(frames) == 1 and not stream.running


async def test_the_loudspeaker_is_kept_20_ms_ahead_and_hears_silence_when_the_loop_is_late(
    sounddevice: ModuleType,
) -> None:
    sink = DeviceSink("Loudspeaker")
    await sink.open()
    pulled = bytearray()

    def pull(count: int, now: float) -> bytes:
        samples = np.full(min(count, 300), 7, dtype=np.int16).tobytes()
        pulled.extend(samples)
        return samples

    sink.start(pull, lambda error: None)
    stream = Stream.opened
    assert len(pulled) >= 1920
    block = bytearray(960)
    stream.call(memoryview(block))
    stream.call(memoryview(block))
    assert set(block[::2]) == {7} and sink.underruns == 0
    stream.call(memoryview(block))  # the loop has not had a turn
    stream.call(memoryview(block))
    assert block == bytes(960) and sink.underruns
    await turns()
    stream.call(memoryview(block))
    assert set(block[::2]) == {7}
    assert sink.latency_seconds == pytest.approx(0.042)  # 10 ms more ahead, from now on
    sink.close()


async def test_a_device_that_cannot_do_48_khz_mono_is_resampled(sounddevice: Any) -> None:
    sounddevice.settings_refused = lambda **s: (s["samplerate"], s["channels"]) != (44_100, 2)
    source, sink = DeviceSource(), DeviceSink()
    await source.open()
    microphone = Stream.opened
    await sink.open()
    loudspeaker = Stream.opened
    for stream in (microphone, loudspeaker):
        assert (stream.settings["samplerate"], stream.settings["channels"]) == (44_100, 2)
        assert stream.settings["blocksize"] == 441
    frames: list[bytes] = []
    source.start(frames.append, lambda error: None)
    for _ in range(11):
        microphone.call(np.full(882, 1000, dtype=np.int16).tobytes())
    await turns()
    assert 4 <= len(frames) <= 5
    assert abs(np.frombuffer(frames[2], np.int16).mean() - 1000) < 5
    sink.start(lambda count, now: np.full(count, 500, np.int16).tobytes(), lambda error: None)
    block = bytearray(441 * 4)
    loudspeaker.call(memoryview(block))
    await turns()
    loudspeaker.call(memoryview(block))
    # One voice from two loudspeakers: the power is shared, 3 dB less each.
    assert abs(np.frombuffer(block, np.int16).mean() - 500 / 2**0.5) < 5
    source.close()
    sink.close()


async def test_a_device_that_runs_unpaced_neither_floods_nor_drains_the_call(
    sounddevice: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ALSA's null device does: it takes and gives as fast as the machine can."""
    now = asyncio.get_running_loop().time()
    source, sink = DeviceSource(), DeviceSink()
    await source.open()
    microphone = Stream.opened
    await sink.open()
    loudspeaker = Stream.opened
    frames: list[bytes] = []
    pulls: list[int] = []

    def pull(count: int, now: float) -> bytes:
        pulls.append(count)
        return bytes(2 * count)

    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    source.start(frames.append, lambda error: None)
    sink.start(pull, lambda error: None)
    block = bytearray(960)
    for _ in range(1000):  # ten seconds of sound in no time
        microphone.call(bytes(960))
        loudspeaker.call(memoryview(block))
        await asyncio.sleep(0)
    assert 20 < len(frames) < 30  # half a second ahead of the clock, and no more
    assert 20_000 < sum(pulls) < 30_000
    source.close()
    sink.close()


async def test_a_device_that_stops_is_told_once(sounddevice: ModuleType) -> None:
    told: list[Any] = []
    source = DeviceSource()
    await source.open()
    source.start(lambda frame: None, told.append)
    stream = Stream.opened
    stream.in_a_thread(stream.settings["finished_callback"])
    await turns()
    source.close()
    await turns()
    assert [str(error) for error in told] == ["the input sound device has stopped"]


async def test_a_machine_without_a_sound_device_says_what_to_do_instead(
    sounddevice: ModuleType,
) -> None:
    sounddevice.devices = []  # type: ignore[attr-defined]
    with pytest.raises(AudioError, match="no sound device for input; speak from --in FILE"):
        await DeviceSource().open()
    with pytest.raises(AudioError, match="no sound device for output; record to --out FILE"):
        await DeviceSink().open()


async def test_a_device_of_unknown_name_is_answered_with_the_ones_there_are(
    sounddevice: ModuleType,
) -> None:
    with pytest.raises(AudioError, match="matching 'Headset'; there are 'Loudspeaker'"):
        await DeviceSink("Headset").open()


async def test_without_portaudio_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(AudioError, match="apt install libportaudio2"):
        await DeviceSource().open()
    with pytest.raises(AudioError, match="apt install libportaudio2"):
        list_devices()


def test_devices_are_listed_with_their_directions_and_defaults(sounddevice: ModuleType) -> None:
    microphone, loudspeaker = list_devices()
    assert (microphone.name, microphone.inputs, microphone.outputs) == ("Microphone", 2, 0)
    assert microphone.is_default_input and not microphone.is_default_output
    assert loudspeaker.is_default_output and loudspeaker.index == 1
