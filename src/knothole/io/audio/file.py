"""Sound files: read at the pace of speech, written as they grow."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
from array import array
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO, Final

from knothole.io.audio.backend import (
    FRAME_BYTES,
    SAMPLE_BYTES,
    AudioError,
    PacedSink,
    PacedSource,
)
from knothole.wire.voice import SAMPLE_RATE

_WRITTEN_AT_ONCE: Final = SAMPLE_RATE * SAMPLE_BYTES  # one second
_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")
_LARGE_PACKETS: Final = {"max_size": "32768"}  # FFmpeg's WAV reader: fewer, larger pieces
_MAX_BYTES: Final = 2**32 - 2**16  # RIFF counts bytes in 32 bits: 12 hours


def read_sound(path: Path) -> Generator[bytes, None, None]:
    """The sound in a file, as 48 kHz mono in pieces of any length.

    Any rate, number of channels and sample format (8 to 32 bit, float), and whatever else FFmpeg
    reads. Raises AudioError when the file cannot be read or holds no sound.
    """
    import av

    try:
        with av.open(str(path), "r", options=_LARGE_PACKETS) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} holds no sound")
            resampler = av.AudioResampler("s16", "mono", SAMPLE_RATE)
            for frame in container.decode(audio=0):
                yield from map(_samples, resampler.resample(frame))
            yield from map(_samples, resampler.resample(None))
    except FileNotFoundError:
        raise AudioError(f"{path}: there is no such file") from None
    except (av.FFmpegError, OSError) as error:
        raise AudioError(f"{path} cannot be read as sound: {error.strerror or error}") from error


class FileSource(PacedSource):
    """Speaks a sound file, once, at its own pace; the last frame is filled up with silence."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._pieces: Generator[bytes, None, None] | None = None
        self._buffer = bytearray()

    async def open(self) -> None:
        """Open the file and load FFmpeg, in a thread. Raises AudioError."""
        if self._pieces is not None:
            return
        self._pieces = read_sound(self._path)
        self._buffer += await asyncio.to_thread(next, self._pieces, b"")

    def read(self) -> bytes | None:
        while len(self._buffer) < FRAME_BYTES:
            piece = next(self._pieces, None) if self._pieces is not None else None
            if piece is None:
                break
            self._buffer += piece
        if not self._buffer:
            return None
        frame = bytes(self._buffer[:FRAME_BYTES])
        del self._buffer[:FRAME_BYTES]
        return frame.ljust(FRAME_BYTES, b"\0")

    def close(self) -> None:
        super().close()
        if self._pieces is not None:
            with contextlib.suppress(ValueError):  # still in the thread of an open() given up
                self._pieces.close()


class FileSink(PacedSink):
    """Records a WAV file: 48 kHz, mono, 16 bit.

    It grows by a second at a time, header included, so that even a killed program leaves a file
    that plays; :meth:`close` writes the rest.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file: BinaryIO | None = None
        self._buffer = bytearray()
        self._written = 0

    async def open(self) -> None:
        """Create the file, or empty it. Raises AudioError."""
        if self._file is not None:
            return
        try:
            self._file = self._path.open("wb")
            self._flush(self._file)
        except OSError as error:
            raise AudioError(f"{self._path} cannot be written: {error.strerror}") from error

    def write(self, samples: bytes) -> None:
        self._buffer += samples
        if len(self._buffer) >= _WRITTEN_AT_ONCE and self._file is not None:
            self._flush(self._file)

    def close(self) -> None:
        """Write what is left and finish the file. Raises OSError when the disk is full."""
        super().close()
        file, self._file = self._file, None
        if file is not None:
            with file:
                self._flush(file)

    def _flush(self, file: BinaryIO) -> None:
        if self._written + len(self._buffer) > _MAX_BYTES:
            self._buffer.clear()
            raise AudioError(f"{self._path} is full: a WAV file holds 12 hours")
        samples = array("h", bytes(self._buffer))
        self._buffer.clear()
        if sys.byteorder == "big":
            samples.byteswap()
        file.seek(_HEADER.size + self._written)
        file.write(samples.tobytes())
        self._written += len(samples) * SAMPLE_BYTES
        file.seek(0)
        file.write(_header(self._written))
        file.flush()


def _header(size: int) -> bytes:
    """The header of a WAV file with ``size`` bytes of samples."""
    return _HEADER.pack(
        b"RIFF",
        size + _HEADER.size - 8,
        b"WAVE",
        b"fmt ",
        16,
        1,  # PCM
        1,  # channel
        SAMPLE_RATE,
        SAMPLE_RATE * SAMPLE_BYTES,
        SAMPLE_BYTES,
        8 * SAMPLE_BYTES,
        b"data",
        size,
    )


def _samples(frame: Any) -> bytes:
    return bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES]
