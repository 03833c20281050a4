"""Sound in and out: devices, files, a tone and nothing at all, behind one interface.

Importing this loads neither PortAudio nor FFmpeg; opening a device or a file does.
"""

from knothole.io.audio.backend import AudioError, Sink, Source
from knothole.io.audio.choose import sink_for, source_for
from knothole.io.audio.device import SoundDevice, list_devices

__all__ = [
    "AudioError",
    "Sink",
    "SoundDevice",
    "Source",
    "list_devices",
    "sink_for",
    "source_for",
]
