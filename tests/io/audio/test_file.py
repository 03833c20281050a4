from __future__ import annotations

import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from knothole.io.audio.backend import AudioError
from knothole.io.audio.file import FileSink, FileSource, read_sound
from knothole.lab.virtual_loop import run_virtually


def tone(rate: int, channels: int, seconds: float = 1.0) -> np.ndarray[Any, Any]:
    mono = 0.3 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)
    return np.repeat(mono[:, None], channels, axis=1)


def write_wave(path: Path, rate: int, channels: int, width: int) -> None:
    samples = tone(rate, channels)
    if width == 1:
        data = np.round(samples * 127 + 128).astype(np.uint8).tobytes()
    else:
        whole = np.round(samples * (2 ** (8 * width - 1) - 1)).astype("<i4")
        data = b"".join(struct.pack("<i", value)[:width] for value in whole.ravel().tolist())
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(data)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize(("channels", "width"), [(1, 1), (1, 2), (2, 2), (2, 3), (6, 2), (1, 4)])
def test_any_rate_channels_and_width_become_48_khz_mono(
    rate: int, channels: int, width: int, tmp_path: Path
) -> None:
    path = tmp_path / "tone.wav"
    write_wave(path, rate, channels, width)
    sound = np.frombuffer(b"".join(read_sound(path)), np.int16).astype(float)
    assert abs(len(sound) - 48_000) <= 48
    expected = tone(48_000, 1)[: len(sound), 0] * 32767
    heard = sound[: len(expected)]
    assert heard @ expected / np.sqrt((heard @ heard) * (expected @ expected)) > 0.999


def test_a_file_that_is_missing_or_no_sound_is_said_so(tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("not sound at all\n" * 100)
    empty = tmp_path / "empty.wav"
    empty.touch()
    for path, why in (
        (tmp_path / "none.wav", "none.wav: there is no such file"),
        (text, "text.wav cannot be read as sound"),
        (empty, "empty.wav cannot be read as sound"),
        (tmp_path, "cannot be read as sound: Is a directory"),
    ):
        with pytest.raises(AudioError, match=why):
            run_virtually(FileSource(path).open())


def test_a_recording_is_a_whole_wave_file_at_every_second_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "recorded.wav"
    ramp = np.arange(30_000, dtype=np.int16)

    async def record() -> None:
        sink = FileSink(path)
        await sink.open()
        with wave.open(str(path)) as empty:
            assert empty.getnframes() == 0
        sink.write(ramp.tobytes())
        sink.write(ramp.tobytes())
        with wave.open(str(path)) as so_far:  # as a killed program would leave it
            assert so_far.getnframes() == 60_000
        sink.write(ramp.tobytes())
        sink.close()
        sink.close()

    run_virtually(record())
    with wave.open(str(path)) as file:
        assert file.getparams()[:4] == (1, 2, 48_000, 90_000)
        samples = np.frombuffer(file.readframes(90_000), "<i2")
    assert (samples == np.tile(ramp, 3)).all()


def test_a_recording_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    sink = FileSink(tmp_path / "no such folder" / "a.wav")
    with pytest.raises(AudioError, match="cannot be written: No such file or directory"):
        run_virtually(sink.open())
    sink.close()


def test_what_is_recorded_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    sound = (tone(48_000, 1)[:, 0] * 20_000).astype(np.int16).tobytes()

    async def record() -> None:
        sink = FileSink(path)
        await sink.open()
        sink.write(sound)
        sink.close()

    run_virtually(record())
    assert b"".join(read_sound(path)) == sound
