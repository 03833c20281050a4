"""From what the user writes after --in and --out to a source and a sink."""

from __future__ import annotations

from pathlib import Path

from knothole.io.audio.backend import AudioError, Sink, Source
from knothole.io.audio.device import DeviceSink, DeviceSource
from knothole.io.audio.file import FileSink, FileSource
from knothole.io.audio.null import NullSink, NullSource
from knothole.io.audio.tone import ToneSource

_FILES = (".wav", ".wave", ".flac", ".mp3", ".ogg", ".opus", ".m4a", ".aiff")


def source_for(choice: str | None) -> Source:
    """The source that ``choice`` names: a sound file, ``tone``, ``null``, or a device.

    A device is ``default`` (as is None), part of a device's name, or its number. Nothing is opened
    yet.
    """
    if choice in (None, "default"):
        return DeviceSource()
    assert choice is not None
    if choice == "tone":
        return ToneSource()
    if choice == "null":
        return NullSource()
    if _is_file(choice):
        return FileSource(Path(choice))
    return DeviceSource(choice)


def sink_for(choice: str | None) -> Sink:
    """The sink that ``choice`` names: a WAV file to be written, ``null``, or a device.

    Raises AudioError for a file that is not WAV.
    """
    if choice in (None, "default"):
        return DeviceSink()
    assert choice is not None
    if choice == "null":
        return NullSink()
    if _is_file(choice):
        if Path(choice).suffix.lower() not in (".wav", ".wave"):
            raise AudioError(f"{choice}: recordings are WAV files, name it .wav")
        return FileSink(Path(choice))
    return DeviceSink(choice)


def _is_file(choice: str) -> bool:
    return "/" in choice or "\\" in choice or Path(choice).suffix.lower() in _FILES
