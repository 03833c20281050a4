from __future__ import annotations

import subprocess
import sys

import pytest

from knothole.io.audio import AudioError, sink_for, source_for
from knothole.io.audio.device import DeviceSink, DeviceSource
from knothole.io.audio.file import FileSink, FileSource
from knothole.io.audio.null import NullSink, NullSource
from knothole.io.audio.tone import ToneSource


@pytest.mark.parametrize(
    ("choice", "source", "sink"),
    [
        (None, DeviceSource, DeviceSink),
        ("default", DeviceSource, DeviceSink),
        ("3", DeviceSource, DeviceSink),
        ("USB Headset", DeviceSource, DeviceSink),
        ("null", NullSource, NullSink),
        ("speech.wav", FileSource, FileSink),
        ("some/folder/Speech.WAV", FileSource, FileSink),
    ],
)
def test_what_the_user_writes_names_a_source_and_a_sink(
    choice: str | None, source: type, sink: type
) -> None:
    assert type(source_for(choice)) is source
    assert type(sink_for(choice)) is sink


def test_a_tone_is_a_source_and_any_sound_file_can_be_spoken() -> None:
    assert isinstance(source_for("tone"), ToneSource)
    assert isinstance(source_for("talk.flac"), FileSource)


def test_only_wave_files_are_recorded() -> None:
    with pytest.raises(AudioError, match=r"name it \.wav"):
        sink_for("talk.mp3")


def test_choosing_loads_neither_ffmpeg_nor_portaudio_nor_numpy() -> None:
    code = (
        "import sys; from knothole.io.audio import *; source_for('a.wav'); sink_for(None);"
        "import knothole.apps.call;"
        "print([m for m in ('av', 'sounddevice', 'numpy', 'pywebrtc_audio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
